//! How long a plan will take.

use mom_models::Setting;

use super::Planned;
use crate::config::ModelSection;
use crate::speed::{self, SpeedOptions};
use crate::{DeviceKind, Result, RunConfig};

/// Seconds that each run of a plan will take, from timing a step of each size on this machine.
///
/// # Errors
/// What a model reports.
pub fn estimate_secs(plan: &[Planned]) -> Result<Vec<f64>> {
    let mut timed: Vec<(RunConfig, f64)> = Vec::new();
    let mut secs = Vec::new();
    for Planned { config, .. } in plan {
        let same = |other: &RunConfig| {
            other.model.scale == config.model.scale
                && (other.data.batch, other.data.seqlen) == (config.data.batch, config.data.seqlen)
        };
        let of_step = match timed.iter().find(|(other, _)| same(other)) {
            Some(&(_, of_step)) => of_step,
            None => {
                let of_step = time_step(config)?;
                timed.push((config.clone(), of_step));
                of_step
            }
        };
        // A validation batch has no backward pass: about a third of a step.
        let train = &config.train;
        let branches = train.horizons.iter().map(|&end| end - config.optimizer.branch(end, train.steps).1);
        let branches: u64 = branches.sum();
        let validations = train.steps.div_ceil(train.eval_every) as f64 * train.eval_batches as f64 / 3.0;
        secs.push(of_step * ((train.steps + branches) as f64 * train.accumulate as f64 + validations));
    }
    Ok(secs)
}

/// Seconds of a step over made-up tokens of two modalities, where the run computes.
fn time_step(config: &RunConfig) -> Result<f64> {
    let ModelSection { variant, scale, .. } = config.model;
    // The speed of a discrete setting stands for all: heads differ little at these sizes.
    let speed = speed::measure(&SpeedOptions {
        vocab_size: 900,
        batch: config.data.batch,
        seqlen: config.data.seqlen,
        // A captured step is replayed from the fourth on.
        warmup: if config.train.device == DeviceKind::Cuda { 3 } else { 1 },
        steps: 2,
        device: config.train.device,
        precision: config.train.dtype,
        recompute: config.train.recompute,
        graph: config.train.graph,
        ..SpeedOptions::new(Setting::Chameleon, variant, scale)
    })?;
    Ok(speed.step_secs.first().copied().unwrap_or(f64::NAN))
}
