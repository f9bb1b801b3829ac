//! How the runs of a sweep ended so far, and which of them are compared.

use std::collections::BTreeSet;
use std::path::PathBuf;

use mom_models::Setting;

use super::gallery::Shelf;
use super::planned::End;
use super::rates::{ArmRates, Trial};
use super::{Arm, Planned, Stage};
use crate::telemetry::RunResult;

/// Runs that ended: those that were there before, then those of the plan in the order in which they ended.
#[derive(Debug, Default)]
pub(super) struct Course {
    /// At their end.
    pub done: Vec<(Planned, RunResult)>,
    /// Before it.
    pub diverged: Vec<Planned>,
}

impl Course {
    /// Takes note of an end.
    pub fn add(&mut self, planned: Planned, end: End) {
        match end {
            End::Done(result) => self.done.push((planned, *result)),
            End::Diverged(_) => self.diverged.push(planned),
        }
    }

    /// Takes note of a result; of a run that ended before it is the newer one.
    pub fn put(&mut self, planned: &Planned, result: RunResult) {
        match self.done.iter_mut().find(|(have, _)| have.folder == planned.folder) {
            Some((_, have)) => *have = result,
            None => self.done.push((planned.clone(), result)),
        }
    }

    /// A run that is compared and whose model was not yet asked about `n` documents, as one that asks; `but` those in these folders.
    pub fn unasked(&self, arms: &[ArmRates], n: usize, but: &BTreeSet<PathBuf>) -> Option<Planned> {
        let asks = |planned: &Planned| {
            let mut planned = planned.clone();
            planned.config.train.downstream = n;
            planned
        };
        let mut compared = self.chosen(arms).filter(|(planned, _)| !but.contains(&planned.folder));
        compared.find_map(|(planned, result)| Some(asks(planned)).filter(|asks| !result.has_downstream(&asks.config)))
    }

    /// Whether a run ended.
    pub fn knows(&self, planned: &Planned) -> bool {
        self.ended().any(|ended| ended.folder == planned.folder)
    }

    /// All runs that ended.
    pub fn ended(&self) -> impl Iterator<Item = &Planned> {
        self.done.iter().map(|(planned, _)| planned).chain(&self.diverged)
    }

    /// Every arm with its rates, in the order of the plan; none where no rate is chosen.
    pub fn arms(&self, plan: &[Planned]) -> Vec<ArmRates> {
        let mut arms: Vec<ArmRates> = Vec::new();
        let mut set = |planned: &Planned, trial| {
            let Some(rate) = planned.rate else { return };
            let at = arms.iter().position(|arm| is_of(arm, planned, planned.arm)).unwrap_or_else(|| {
                let model = &planned.config.model;
                arms.push(ArmRates::new(model.setting, model.scale, planned.arm));
                arms.len() - 1
            });
            if matches!(planned.stage, Stage::Short | Stage::Tried) {
                arms[at].bracket_steps = Some(planned.config.train.steps);
            }
            arms[at].set(rate, planned.config.train.seed, trial);
        };
        let says_of_rate = |planned: &&Planned| matches!(planned.stage, Stage::Short | Stage::Tried | Stage::Listed);
        plan.iter().filter(says_of_rate).for_each(|planned| set(planned, Trial::Undone));
        for (planned, result) in self.done.iter().filter(|(planned, _)| says_of_rate(&planned)) {
            set(planned, Trial::of(result.curve.last().map(|last| last.joint)));
        }
        // A whole run that diverged says of its rate what no short run could.
        self.diverged.iter().for_each(|planned| set(planned, Trial::Diverged));
        arms
    }

    /// An arm's rates so far.
    pub fn arm(&self, setting: Setting, arm: Arm) -> Option<ArmRates> {
        let name = arm.to_string();
        self.arms(&[]).into_iter().find(|of| of.setting == setting.name() && of.variant == name)
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
        let is_compared = move |(planned, _): &&(Planned, RunResult)| {
            let best = || arms.iter().find(|arm| is_of(arm, planned, planned.arm.rated_as())).and_then(ArmRates::best);
            match planned.stage {
                Stage::Tried | Stage::Listed | Stage::Whole => planned.rate.is_none() || planned.rate == best(),
                Stage::Short | Stage::Pending => false,
            }
        };
        self.done.iter().filter(is_compared)
    }
}

fn is_of(rates: &ArmRates, planned: &Planned, arm: Arm) -> bool {
    let model = &planned.config.model;
    (rates.setting.as_str(), &rates.scale, &rates.variant)
        == (model.setting.name(), &model.scale.to_string(), &arm.to_string())
}
