//! `train.horizons`: where a run may be brought to an end on the way.

use super::{RunConfig, Schedule};
use crate::Result;
use crate::error::require;

impl RunConfig {
    /// Every horizon has a constant part before it that the run itself goes through.
    pub(super) fn check_horizons(&self) -> Result<()> {
        let Self { train, optimizer, .. } = self;
        let field = "train.horizons";
        let is_wsd = train.horizons.is_empty() || optimizer.schedule == Schedule::Wsd;
        require(is_wsd, field, "absent but for optimizer.schedule = \"wsd\"", "a list")?;
        let (_, last) = optimizer.branch(train.steps, train.steps);
        let mut before = 0;
        for &end in &train.horizons {
            let expected = format!("ascending, and below train.steps ({})", train.steps);
            require(end > before && end < train.steps, field, &expected, end)?;
            before = end;
            let (_, from) = optimizer.branch(end, train.steps);
            let expected = format!(
                "at steps whose decay begins behind the warm-up ({} steps) and not behind the run's own decay (step {last})",
                optimizer.warmup_steps
            );
            require(from > 0 && from < end && from <= last, field, &expected, end)?;
        }
        Ok(())
    }
}
