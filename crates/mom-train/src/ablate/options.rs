//! What a sweep is made of, and its plan of runs.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use mom_data::scenes::SceneSource;
use mom_data::{ImageConfig, SourceConfig, TextConfig, TokenizerConfig};
use mom_models::{Scale, Setting, Variant};

use super::Variants;
use crate::config::{
    DataSection, Graph, ModelSection, OnSpike, OptimizerSection, Recompute, TrainSection, needs, section_of,
};
use crate::error::require;
use crate::run;
use crate::telemetry::RunResult;
use crate::{DeviceKind, Error, Result, RunConfig};

/// What a sweep is made of. [`SweepOptions::default`] ends within ten minutes on two cores.
#[derive(Debug, Clone)]
pub struct SweepOptions {
    /// Settings, in this order.
    pub settings: Vec<Setting>,
    /// Variants of each.
    pub variants: Variants,
    /// Size of the models.
    pub scale: Scale,
    /// Optimiser steps of each run.
    pub steps: u64,
    /// Seeds of weights, data order and noise.
    pub seeds: Vec<u64>,
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
            variants: Variants::Default,
            scale: mom_models::TINY,
            steps: 480,
            seeds: vec![0],
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
}

impl Planned {
    /// Setting, variant and seed in words.
    pub fn name(&self) -> String {
        let model = &self.config.model;
        format!("{} {} seed {}", model.setting, model.variant, self.config.train.seed)
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
            let text = self.overrides.iter().find(|text| text.split('=').next().is_some_and(|k| k.trim() == key));
            let expected = format!("anything but {key}, which has a flag of its own");
            require(text.is_none(), "override", &expected, text.map_or("", String::as_str))?;
        }
        let mut planned: Vec<Planned> = Vec::new();
        for &setting in &self.settings {
            for &seed in &self.seeds {
                for variant in self.variants.of(setting) {
                    let next = self.planned(setting, variant, seed)?;
                    // A name given twice is one run.
                    if !planned.contains(&next) {
                        planned.push(next);
                    }
                }
            }
        }
        Ok(planned)
    }

    fn planned(&self, setting: Setting, variant: Variant, seed: u64) -> Result<Planned> {
        let config = self.run_config(setting, variant, seed)?;
        let scale = config.model.scale;
        let folder = self.out.join("runs").join(format!("{setting}-{scale}-{variant}-seed{seed}"));
        Ok(Planned { config, folder })
    }

    /// Results of variants that are not in the plan but were finished here before with the same options: a second call
    /// with other variants adds to the comparison.
    pub(super) fn finished_siblings(&self, plan: &[Planned]) -> Vec<RunResult> {
        let mut results = Vec::new();
        for (setting, seed) in
            plan.iter().map(|p| (p.config.model.setting, p.config.train.seed)).collect::<BTreeSet<_>>()
        {
            for variant in Variant::all16().chain([Variant::Published]) {
                // What does not fit is another sweep's, and no part of this report.
                if let Ok(sibling) = self.planned(setting, variant, seed)
                    && !plan.contains(&sibling)
                    && let Ok(Some(result)) = run::finished(&sibling.folder, &sibling.config)
                {
                    results.push(result);
                }
            }
        }
        results
    }

    fn run_config(&self, setting: Setting, variant: Variant, seed: u64) -> Result<RunConfig> {
        // A run of a few minutes wants a higher rate than the paper's long ones, and losses often.
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
                learning_rate: if self.scale.d_model <= 128 { 5e-3 } else { 1e-3 },
                final_learning_rate: 1e-4,
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
