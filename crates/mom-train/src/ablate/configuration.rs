//! The configuration of a sweep's runs.

use mom_data::scenes::SceneSource;
use mom_data::{ImageConfig, SourceConfig, TextConfig, TokenizerConfig};
use mom_models::{Scale, Setting};

use super::{Arm, Horizons, SweepOptions};
use crate::config::{
    DataSection, DistSection, Graph, ModelSection, OnSpike, OptimizerSection, Recompute, Schedule, TrainSection, needs,
    section_of,
};
use crate::{Error, Result, RunConfig};

/// About the best rate of runs of some hundred to some thousand steps: the middle of a bracket.
fn usual_rate(scale: Scale) -> f64 {
    match scale.d_model {
        ..=128 => 2e-2,
        129..=256 => 8e-3,
        257..=512 => 4e-3,
        513..=1024 => 2e-3,
        _ => 1e-3,
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

    /// The configuration of a whole run; at the usual rate, or the one that an override has, where none is given.
    pub(super) fn run_config(&self, setting: Setting, arm: Arm, rate: Option<f64>, seed: u64) -> Result<RunConfig> {
        let learning_rate = rate.unwrap_or_else(|| usual_rate(self.scale));
        // Runs of small models are so short that their rate has to come down further.
        let last = if self.scale.d_model <= 128 { 0.02 } else { 0.1 };
        let horizons = self.horizon_steps();
        let config = RunConfig {
            model: ModelSection { patcher: arm.patcher(), ..ModelSection::new(setting, arm.variant(), self.scale) },
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
                init_seed: arm.init_seed(seed),
                init_from: None,
                eval_every: (self.steps / 24).max(1),
                eval_batches: 8,
                checkpoint_every: (self.steps / 4).max(1),
                keep_checkpoints: 1,
                keep_every: None,
                keep_best: None,
                sample_every: Some(self.steps),
                downstream: self.downstream,
                horizons: horizons.clone(),
                ema: None,
                on_spike: OnSpike::Stop,
                spike_factor: None,
                device: self.device,
                dtype: None,
                recompute: Recompute::None,
                graph: Graph::Auto,
                dist: DistSection::default(),
            },
            optimizer: OptimizerSection {
                learning_rate,
                // At every rate the same share of it, so that the rates of a bracket differ in nothing else.
                final_learning_rate: last * learning_rate,
                warmup_steps: self.steps / 10,
                schedule: if horizons.is_empty() { Schedule::Cosine } else { Schedule::Wsd },
                decay_steps: (!horizons.is_empty()).then_some((Horizons::DECAY * self.steps as f64).round() as u64),
                ..OptimizerSection::default()
            },
        };
        // A rate that is chosen stands over the one that the choice began with.
        let is_kept =
            |text: &&String| rate.is_none() || text.split('=').next().map(str::trim) != Some("optimizer.learning_rate");
        let overrides: Vec<String> = self.overrides.iter().filter(is_kept).cloned().collect();
        let content = |reason: String| Error::Content { path: self.data.clone().unwrap_or_default(), reason };
        let mut table = toml::Table::try_from(&config).map_err(|error| content(error.to_string()))?;
        if let Some(ours) = table.get_mut("data").and_then(toml::Value::as_table_mut) {
            match self.data_of_file()? {
                // The file's section over ours; batch and seqlen are flags of the sweep.
                Some(data) => {
                    for key in ["shards", "sources", "tokenizers"] {
                        ours.remove(key);
                    }
                    let flags = ["batch", "seqlen"];
                    ours.extend(data.into_iter().filter(|(key, _)| !flags.contains(&key.as_str())));
                }
                // Sizes of a tokenizer whose kind an override names are those of the kind.
                None => {
                    if let Some(tokenizers) = ours.get_mut("tokenizers").and_then(toml::Value::as_table_mut) {
                        let is_named = |modality: &str| {
                            let key = format!("data.tokenizers.{modality}.kind");
                            overrides.iter().any(|text| text.split('=').next().map(str::trim) == Some(key.as_str()))
                        };
                        tokenizers.retain(|modality, _| !is_named(modality));
                    }
                }
            }
        }
        RunConfig::from_toml(&toml::to_string(&table).map_err(|error| content(error.to_string()))?, &overrides)
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
