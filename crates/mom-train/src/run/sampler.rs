//! What a run's model makes of held-out documents on the way.

use std::path::Path;

use super::{Observer, Run};
use crate::dist::Patience;
use crate::samples::{self, Prompt, Shown};
use crate::telemetry::Exhibit;
use crate::{Generator, Prepared, Result, RunConfig, Trainer};

/// A model in training as one that draws, and what it is asked.
pub(super) struct Sampler {
    generator: Generator,
    prompts: Vec<Prompt>,
}

impl Sampler {
    /// `None` where no samples are asked for, or none can be had.
    pub fn of(
        config: &RunConfig,
        prepared: &Prepared,
        trainer: &Trainer,
        observer: &mut dyn Observer,
    ) -> Result<Option<Self>> {
        if config.train.sample_every.is_none() {
            return Ok(None);
        }
        for why in samples::unshown(config, prepared) {
            observer.note(&format!("train.sample_every: no sample shows {why}"));
        }
        let prompts = samples::prompts_of(config, prepared, samples::EACH)?;
        if prompts.is_empty() {
            let told = "train.sample_every: no held-out document has two parts that can be shown; there are no samples";
            observer.note(told);
            return Ok(None);
        }
        let generator = Generator::of(trainer.model().clone(), prepared.tokenizers.clone(), config);
        Ok(Some(Self { generator, prompts }))
    }
}

impl Run<'_> {
    pub(super) fn sample(&mut self, step: u64, observer: &mut dyn Observer) -> Result<()> {
        let Some(Sampler { generator, prompts }) = &self.sampler else { return Ok(()) };
        self.world.progress("samples", Patience::Open);
        let (set, files) = samples::take(generator, prompts, step)?;
        let folder = samples::write(self.folder, &set, &files)?;
        let bytes = |name: &Path| files.iter().find(|(path, _)| path == name).map_or(&[][..], |(_, bytes)| bytes);
        for (i, sample) in set.samples.iter().enumerate() {
            for (what, shown) in [("prompt", &sample.prompt), ("truth", &sample.truth), ("drawn", &sample.drawn)] {
                let exhibit = match shown {
                    Shown::Text(text) => Exhibit::Text(text),
                    Shown::Image(name) => Exhibit::Image(bytes(name)),
                    Shown::Speech(name) => Exhibit::Speech { wav: bytes(name), sample_rate: generator.sample_rate() },
                };
                if let Some(metrics) = &mut self.metrics {
                    metrics.exhibit(step, &format!("samples/{i:02}/{what}"), exhibit)?;
                }
            }
        }
        observer.sampled(step, &folder);
        Ok(())
    }
}
