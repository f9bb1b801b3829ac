//! Ends that a run is brought to on its way.

use super::{Observer, Run};
use crate::telemetry::EvalPoint;
use crate::{Result, RunConfig};

impl Run<'_> {
    /// Brings a copy of the run to the ends that part from here, if any do. Whether all is done: not where the observer wants no
    /// more.
    pub(super) fn branches(&mut self, wall_secs: f64, observer: &mut dyn Observer) -> Result<bool> {
        let RunConfig { train, optimizer, .. } = self.config;
        let step = self.trainer.steps_done();
        for &end in &train.horizons {
            let (optimizer, from) = optimizer.branch(end, train.steps);
            if from != step || self.horizons.iter().any(|point| point.step == end) {
                continue;
            }
            let Some((validation, tokens)) = self.trainer.branch(&optimizer, end, || observer.goes_on())? else {
                return Ok(false);
            };
            self.tell(|metrics| metrics.horizon(&validation, tokens))?;
            self.horizons.push(EvalPoint { tokens, ..self.point(&validation, wall_secs) });
            self.horizons.sort_by_key(|point| point.step);
        }
        Ok(true)
    }
}
