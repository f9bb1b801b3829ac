//! The run that a rate is tried by.

use crate::RunConfig;

/// Its share of the whole run's steps.
pub const SHARE: f64 = 0.25;
/// Its steps at least, if the whole run has as many.
pub const LEAST_STEPS: u64 = 20;

/// A run like this one, but shorter: all that has a length in steps keeps its share, so that the rate has the same course.
pub(in super::super) fn short(whole: &RunConfig) -> RunConfig {
    let mut config = whole.clone();
    let steps = ((whole.train.steps as f64 * SHARE).round() as u64).max(LEAST_STEPS).min(whole.train.steps);
    let scaled = |n: u64| (n as f64 * steps as f64 / whole.train.steps as f64).round() as u64;
    let train = &mut config.train;
    train.steps = steps;
    train.eval_every = steps.div_ceil(4);
    train.checkpoint_every = steps.div_ceil(2);
    train.keep_checkpoints = 1;
    train.keep_every = None;
    train.keep_best = None;
    train.sample_every = None;
    train.downstream = 0;
    train.ema = None;
    train.horizons = Vec::new();
    config.optimizer.warmup_steps = scaled(whole.optimizer.warmup_steps);
    config.optimizer.decay_steps = whole.optimizer.decay_steps.map(scaled);
    config
}
