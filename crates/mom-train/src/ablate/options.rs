//! What a sweep is made of, and its plan of runs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mom_data::scenes::SceneSource;
use mom_data::{ImageConfig, SourceConfig, TextConfig, TokenizerConfig};
use mom_models::{Scale, Setting, Variant};

use super::course::Course;
use super::{Unserved, Variants, diverged};
use crate::config::{
    DataSection, Graph, ModelSection, OnSpike, OptimizerSection, Recompute, TrainSection, needs, section_of,
};
use crate::error::require;
use crate::run;
use crate::{DeviceKind, Error, Result, RunConfig};

/// What a sweep is made of. [`SweepOptions::default`] ends within ten minutes on two cores.
#[derive(Debug, Clone)]
pub struct SweepOptions {
    /// Settings, in this order.
    pub settings: Vec<Setting>,
    /// What is done about settings that the data cannot serve.
    pub unserved: Unserved,
    /// Variants of each.
    pub variants: Variants,
    /// Size of the models.
    pub scale: Scale,
    /// Optimiser steps of each run.
    pub steps: u64,
    /// Seeds of weights, data order and noise.
    pub seeds: Vec<u64>,
    /// Learning rates: every run is made at each, and a variant is compared at its best, see [`rates`](super::rates). Where
    /// there are none, a run has that of its configuration.
    pub learning_rates: Vec<f64>,
    /// The user's data: a file or folder of any format, or a TOML file whose section `[data]` is taken (`sources`, and
    /// what else of it is not a flag here). Scenes are generated if there are none.
    pub data: Option<PathBuf>,
    /// Folder of the sweep.
    pub out: PathBuf,
    /// Where it runs.
    pub device: DeviceKind,
    /// Generated documents.
    pub documents: usize,
    /// Sequences in a batch.
    pub batch: usize,
    /// Positions in a sequence.
    pub seqlen: usize,
    /// Time after which the sweep stops where it is; started again it goes on.
    pub limit: Option<Duration>,
    /// `key=value` overrides of every run's configuration.
    pub overrides: Vec<String>,
}

impl Default for SweepOptions {
    fn default() -> Self {
        Self {
            settings: Setting::ALL.to_vec(),
            unserved: Unserved::Skip,
            variants: Variants::Default,
            scale: mom_models::TINY,
            steps: 480,
            seeds: vec![0],
            learning_rates: Vec::new(),
            data: None,
            out: PathBuf::from("runs/ablation"),
            device: DeviceKind::Cpu,
            documents: 6000,
            batch: 2,
            seqlen: 1024,
            limit: None,
            overrides: Vec::new(),
        }
    }
}

/// One run of a sweep.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// Its configuration.
    pub config: RunConfig,
    /// Its folder.
    pub folder: PathBuf,
    /// Its learning rate, where the sweep has several.
    pub rate: Option<f64>,
}

impl Planned {
    /// Setting, variant, rate if there are several, and seed in words.
    pub fn name(&self) -> String {
        let model = &self.config.model;
        let rate = self.rate.map(|rate| format!(" lr {rate}")).unwrap_or_default();
        format!("{} {}{rate} seed {}", model.setting, model.variant, self.config.train.seed)
    }
}

impl SweepOptions {
    /// The data of a TOML file.
    fn data_of_file(&self) -> Result<Option<toml::Table>> {
        let Some(path) = self.data.as_ref().filter(|path| path.extension().is_some_and(|e| e == "toml")) else {
            return Ok(None);
        };
        section_of(path).map(Some)
    }

    /// Where the samples of all runs come from.
    fn sources(&self) -> Vec<SourceConfig> {
        match &self.data {
            Some(path) => vec![SourceConfig::at(path)],
            None => {
                vec![SourceConfig::generated(SceneSource { documents: self.documents, ..SceneSource::default() })]
            }
        }
    }

    /// Tokenizers and tokens of a setting: in `data.prepared` where a file of data names one.
    pub(super) fn prepared(&self, config: &RunConfig) -> PathBuf {
        let folder = config.data.prepared.clone().unwrap_or_else(|| self.out.join("data"));
        folder.join(config.model.setting.name())
    }

    /// All runs in their order.
    ///
    /// # Errors
    /// An option out of range, an override that does not fit.
    pub fn plan(&self) -> Result<Vec<Planned>> {
        require(!self.settings.is_empty(), "settings", "at least one", 0)?;
        require(!self.seeds.is_empty(), "seeds", "at least one", 0)?;
        require(self.documents > 0, "documents", "at least 1", self.documents)?;
        for key in ["model.setting", "model.variant", "train.seed", "data.shards", "data.sources"] {
            let text = self.overriding(key);
            let expected = format!("anything but {key}, which has a flag of its own");
            require(text.is_none(), "override", &expected, text.unwrap_or_default())?;
        }
        self.check_rates()?;
        let mut planned: Vec<Planned> = Vec::new();
        for &setting in &self.settings {
            for &seed in &self.seeds {
                for variant in self.variants.of(setting) {
                    for rate in self.rates() {
                        let next = self.planned(setting, variant, rate, seed)?;
                        // A name given twice is one run.
                        if !planned.contains(&next) {
                            planned.push(next);
                        }
                    }
                }
            }
        }
        Ok(planned)
    }

    fn check_rates(&self) -> Result<()> {
        let field = "learning_rates";
        for (index, &rate) in self.learning_rates.iter().enumerate() {
            require(rate.is_finite() && rate > 0.0, field, "positive and finite", rate)?;
            let twice = self.learning_rates[..index].contains(&rate);
            require(!twice, field, "each another", format!("{rate} twice"))?;
        }
        let own = self.overriding("optimizer.learning_rate").filter(|_| !self.learning_rates.is_empty());
        let expected = "anything but optimizer.learning_rate beside learning rates that are tried";
        require(own.is_none(), "override", expected, own.unwrap_or_default())
    }

    /// The override of a key.
    fn overriding(&self, key: &str) -> Option<&str> {
        let is_of = |text: &&String| text.split('=').next().is_some_and(|have| have.trim() == key);
        self.overrides.iter().find(is_of).map(String::as_str)
    }

    /// The rates of every arm; one that is not given where there are none.
    fn rates(&self) -> Vec<Option<f64>> {
        match self.learning_rates.as_slice() {
            [] => vec![None],
            rates => rates.iter().copied().map(Some).collect(),
        }
    }

    fn planned(&self, setting: Setting, variant: Variant, rate: Option<f64>, seed: u64) -> Result<Planned> {
        let config = self.run_config(setting, variant, rate, seed)?;
        let arm = format!("{setting}-{}-{variant}", config.model.scale);
        let name = match rate {
            Some(rate) => format!("{arm}-lr{rate}-seed{seed}"),
            None => format!("{arm}-seed{seed}"),
        };
        Ok(Planned { config, folder: self.runs().join(name), rate })
    }

    fn runs(&self) -> PathBuf {
        self.out.join("runs")
    }

    /// Runs that are not in the plan but ended here before with the same options: a second call with other variants, or other
    /// rates, adds to the comparison. A rate has a part in it if the runs of all seeds have ended.
    pub(super) fn finished_siblings(&self, plan: &[Planned]) -> Course {
        let mut course = Course::default();
        let settings: BTreeSet<_> = plan.iter().map(|p| p.config.model.setting).collect();
        let seeds: BTreeSet<_> = plan.iter().map(|p| p.config.train.seed).collect();
        let rates = match self.learning_rates.is_empty() {
            true => self.rates(),
            false => rates_in(&self.runs(), &self.learning_rates).into_iter().map(Some).collect(),
        };
        let arms = settings.into_iter().flat_map(|setting| {
            let variants = Variant::all16().chain([Variant::Published]);
            variants.map(move |variant| (setting, variant))
        });
        for ((setting, variant), &rate) in arms.flat_map(|arm| rates.iter().map(move |rate| (arm, rate))) {
            let mut of_rate = Course::default();
            for &seed in &seeds {
                // What does not fit is another sweep's, and no part of this report.
                let Ok(sibling) = self.planned(setting, variant, rate, seed) else { continue };
                if plan.contains(&sibling) {
                    continue;
                }
                if let Ok(Some(result)) = run::finished(&sibling.folder, &sibling.config) {
                    of_rate.done.push((sibling, result));
                } else if rate.is_some() && matches!(diverged(&sibling), Ok(Some(_))) {
                    of_rate.diverged.push(sibling);
                }
            }
            if rate.is_none() || of_rate.done.len() + of_rate.diverged.len() == seeds.len() {
                course.done.append(&mut of_rate.done);
                course.diverged.append(&mut of_rate.diverged);
            }
        }
        course
    }

    fn run_config(&self, setting: Setting, variant: Variant, rate: Option<f64>, seed: u64) -> Result<RunConfig> {
        // A run of a few minutes wants a higher rate than the paper's long ones, and losses often.
        let usual_rate = if self.scale.d_model <= 128 { 5e-3 } else { 1e-3 };
        let learning_rate = rate.unwrap_or(usual_rate);
        let config = RunConfig {
            model: ModelSection::new(setting, variant, self.scale),
            data: DataSection {
                shards: None,
                batch: self.batch,
                seqlen: self.seqlen,
                prepared: None,
                forms: None,
                tokenizers: self.tokenizer_config(setting),
                sources: self.sources(),
            },
            train: TrainSection {
                steps: self.steps,
                accumulate: 1,
                seed,
                init_seed: None,
                init_from: None,
                eval_every: (self.steps / 24).max(1),
                eval_batches: 8,
                checkpoint_every: (self.steps / 4).max(1),
                keep_checkpoints: 1,
                keep_every: None,
                keep_best: None,
                sample_every: Some(self.steps),
                ema: None,
                on_spike: OnSpike::Stop,
                spike_factor: None,
                device: self.device,
                dtype: None,
                recompute: Recompute::None,
                graph: Graph::Auto,
            },
            optimizer: OptimizerSection {
                learning_rate,
                // At every rate the same share of it, so that the rates of a bracket differ in nothing else.
                final_learning_rate: 1e-4 * (learning_rate / usual_rate),
                warmup_steps: self.steps / 10,
                ..OptimizerSection::default()
            },
        };
        let Some(data) = self.data_of_file()? else {
            return RunConfig::from_toml(&config.to_toml()?, &self.overrides);
        };
        // The file's section over ours; batch and seqlen are flags of the sweep.
        let content = |reason: String| Error::Content { path: self.data.clone().unwrap_or_default(), reason };
        let mut table = toml::Table::try_from(&config).map_err(|error| content(error.to_string()))?;
        if let Some(ours) = table.get_mut("data").and_then(toml::Value::as_table_mut) {
            for key in ["shards", "sources", "tokenizers"] {
                ours.remove(key);
            }
            let flags = ["batch", "seqlen"];
            ours.extend(data.into_iter().filter(|(key, _)| !flags.contains(&key.as_str())));
        }
        RunConfig::from_toml(&toml::to_string(&table).map_err(|error| content(error.to_string()))?, &self.overrides)
    }

    /// Generated documents have short captions and simple images: with few merges a caption has about as many tokens as its
    /// image, as in Chameleon's mix, which is half text and half image.
    /// Of the user's data they have the size that the scale asks for.
    fn tokenizer_config(&self, setting: Setting) -> TokenizerConfig {
        let defaults = TokenizerConfig::default();
        match self.data {
            Some(_) if self.scale.is_small() => defaults,
            Some(_) => TokenizerConfig::paper(needs(setting)),
            None => TokenizerConfig {
                text: TextConfig { vocab_size: 300, ..defaults.text },
                image: ImageConfig { codes: 128, ..defaults.image },
                ..defaults
            },
        }
    }
}

/// The given rates, and those that folders of runs are named by.
fn rates_in(runs: &Path, given: &[f64]) -> Vec<f64> {
    let entries = std::fs::read_dir(runs).into_iter().flatten().flatten();
    let of_name = |name: &str| -> Option<f64> {
        let (arm, _) = name.rsplit_once("-seed")?;
        arm.rsplit_once("-lr")?.1.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate > 0.0)
    };
    let mut rates = given.to_vec();
    rates.extend(entries.filter_map(|entry| of_name(entry.file_name().to_str()?)));
    rates.sort_by(f64::total_cmp);
    rates.dedup();
    rates
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(learning_rates: &[f64], overrides: &[&str]) -> Vec<(String, f64, f64)> {
        let options = SweepOptions {
            settings: vec![Setting::Chameleon],
            variants: Variants::List(vec![Variant::Mom]),
            learning_rates: learning_rates.to_vec(),
            overrides: overrides.iter().map(|&text| text.to_owned()).collect(),
            ..SweepOptions::default()
        };
        let plan = options.plan().unwrap();
        let of = |planned: &Planned| {
            let optimizer = &planned.config.optimizer;
            let name = planned.folder.file_name().unwrap().to_str().unwrap().to_owned();
            (name, optimizer.learning_rate, optimizer.final_learning_rate)
        };
        plan.iter().map(of).collect()
    }

    #[test]
    fn the_final_rate_keeps_its_share_of_every_rate_unless_it_is_given() {
        let name = |rate: &str| format!("chameleon-tiny-mom{rate}-seed0");
        assert_eq!(rates(&[], &[]), [(name(""), 5e-3, 1e-4)]);
        assert_eq!(rates(&[5e-3, 1e-2], &[]), [(name("-lr0.005"), 5e-3, 1e-4), (name("-lr0.01"), 1e-2, 2e-4)]);
        let given = rates(&[5e-3, 1e-2], &["optimizer.final_learning_rate=1e-3"]);
        assert_eq!(given.iter().map(|(.., last)| *last).collect::<Vec<_>>(), [1e-3, 1e-3]);
        let own = rates(&[], &["optimizer.learning_rate=1e-2"]);
        assert_eq!(own, [(name(""), 1e-2, 1e-4)], "as ever");
    }

    #[test]
    fn rates_are_read_from_the_names_of_folders() {
        let runs = tempfile::tempdir().unwrap();
        for name in ["chameleon-tiny-mom-lr0.004-seed0", "chameleon-tiny-mom-seed0", "a-lrx-seed1", "a-lr-1-seed0"] {
            std::fs::create_dir(runs.path().join(name)).unwrap();
        }
        assert_eq!(rates_in(runs.path(), &[2e-3, 4e-3]), [2e-3, 4e-3]);
        assert_eq!(rates_in(runs.path(), &[8e-3]), [4e-3, 8e-3]);
        assert_eq!(rates_in(&runs.path().join("none"), &[8e-3]), [8e-3]);
    }
}
