//! What a run came to.

use mom_models::Setting;

use super::{Run, folder};
use crate::Result;
use crate::dist::Patience;
use crate::telemetry::{ModalityInfo, RunResult, memory};

impl Run<'_> {
    /// Writes the result; its last checkpoint is on the disk.
    pub(super) fn finish(&self, wall_secs: f64) -> Result<RunResult> {
        let model = self.trainer.model().config();
        let setting = model.setting;
        let result = RunResult {
            setting: setting.name().to_owned(),
            variant: model.variant.to_string(),
            seed: self.config.train.seed,
            scale: model.scale.to_string(),
            modalities: setting
                .modalities()
                .iter()
                .map(|&name| ModalityInfo { name: name.to_owned(), loss: loss_in_words(setting, name).to_owned() })
                .collect(),
            curve: self.curve.clone(),
            horizons: self.horizons.clone(),
            downstream: None,
            steps: self.trainer.steps_done(),
            tokens: self.trainer.tokens_seen(),
            active_flops_per_token: self.trainer.active_flops_per_token(),
            wall_secs,
            peak_memory_bytes: self.peak_memory_bytes.max(memory::peak(self.config.train.device)?),
            total_parameters: (model.total_parameters() + model.patcher_parameters()) as u64,
            active_parameters: (model.active_parameters() + model.patcher_parameters()) as u64,
        };
        if !self.world.is_root() {
            return Ok(result);
        }
        self.world.progress("questions", Patience::Open);
        // Its losses are there, whatever comes of the questions.
        folder::write_result(self.folder, &result)?;
        let Some(downstream) = self.downstream()? else { return Ok(result) };
        let result = RunResult { downstream: Some(downstream), ..result };
        folder::write_result(self.folder, &result)?;
        Ok(result)
    }
}

fn loss_in_words(setting: Setting, modality: &str) -> &'static str {
    if setting.has_patches() && modality == "image" {
        "diffusion (mean squared error of the noise)"
    } else {
        "cross-entropy (nats per token)"
    }
}
