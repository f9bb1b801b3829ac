//! How the runs of a sweep ended so far, and which of them are compared.

use super::Planned;
use super::gallery::Shelf;
use super::rates::{ArmRates, Trial};
use crate::telemetry::RunResult;

/// Runs that ended: those that were there before, then those of the plan in its order.
#[derive(Debug, Default)]
pub(super) struct Course {
    /// At their end.
    pub done: Vec<(Planned, RunResult)>,
    /// Before it.
    pub diverged: Vec<Planned>,
}

impl Course {
    /// Every arm with its rates, in the order of the plan; none where the sweep has no rates.
    pub fn arms(&self, plan: &[Planned]) -> Vec<ArmRates> {
        let mut arms: Vec<ArmRates> = Vec::new();
        let mut set = |planned: &Planned, trial| {
            let (Some(rate), model) = (planned.rate, &planned.config.model) else { return };
            let new = ArmRates::new(model.setting, model.scale, model.variant);
            let is_new =
                |arm: &ArmRates| (&arm.setting, &arm.scale, &arm.variant) == (&new.setting, &new.scale, &new.variant);
            let at = arms.iter().position(is_new).unwrap_or_else(|| {
                arms.push(new);
                arms.len() - 1
            });
            arms[at].set(rate, planned.config.train.seed, trial);
        };
        plan.iter().for_each(|planned| set(planned, Trial::Undone));
        self.done
            .iter()
            .for_each(|(planned, result)| set(planned, Trial::of(result.curve.last().map(|last| last.joint))));
        self.diverged.iter().for_each(|planned| set(planned, Trial::Diverged));
        arms
    }

    /// The results that are compared: all, or those of each arm's best rate.
    pub fn compared(&self, arms: &[ArmRates]) -> Vec<RunResult> {
        self.chosen(arms).map(|(_, result)| result.clone()).collect()
    }

    /// The samples of those that are compared.
    pub fn shelves<'a>(&'a self, arms: &'a [ArmRates]) -> Vec<Shelf<'a>> {
        let shelf = |(planned, result): &'a (Planned, RunResult)| Shelf {
            setting: &result.setting,
            variant: &result.variant,
            seed: result.seed,
            run: &planned.folder,
        };
        self.chosen(arms).map(shelf).collect()
    }

    fn chosen<'a>(&'a self, arms: &'a [ArmRates]) -> impl Iterator<Item = &'a (Planned, RunResult)> {
        let best = move |result: &RunResult| {
            let of = |arm: &&ArmRates| {
                (&arm.setting, &arm.scale, &arm.variant) == (&result.setting, &result.scale, &result.variant)
            };
            arms.iter().find(of).and_then(ArmRates::best)
        };
        let is_compared =
            move |(planned, result): &&(Planned, RunResult)| planned.rate.is_none() || planned.rate == best(result);
        self.done.iter().filter(is_compared)
    }
}
