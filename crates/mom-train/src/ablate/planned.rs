//! One run of a sweep, and how it ended.

use std::path::PathBuf;

use super::{Arm, diverged};
use crate::telemetry::RunResult;
use crate::{Result, RunConfig, run};

/// One run of a sweep.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// Its configuration.
    pub config: RunConfig,
    /// Its folder.
    pub folder: PathBuf,
    /// What it is a run of.
    pub arm: Arm,
    /// Its learning rate, where its folder is named by it.
    pub rate: Option<f64>,
    /// What it is for.
    pub stage: Stage,
}

/// What a run is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// A short run of a bracket: it says how good its rate is, and is not compared.
    Short,
    /// A whole run of a bracket: it says how good its rate is, and is compared if that is the best.
    Tried,
    /// A run at one of several given rates: it says how good its rate is, and is compared if that is the best.
    Listed,
    /// A run that is compared.
    Whole,
    /// The same, while its rate is not chosen yet: its configuration has the usual one.
    Pending,
}

impl Stage {
    /// Whether it is a whole run that is compared only if its rate turns out to be the best.
    pub(super) fn is_on_trial(self) -> bool {
        matches!(self, Self::Tried | Self::Listed)
    }
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum End {
    Done(Box<RunResult>),
    /// With a reason.
    Diverged(String),
}

impl Planned {
    /// Setting, arm, rate if its folder is named by it, and seed in words.
    pub fn name(&self) -> String {
        let rate = self.rate.map(|rate| format!(" lr {rate}")).unwrap_or_default();
        let of = match self.stage {
            Stage::Short | Stage::Tried => " (bracket)",
            Stage::Pending => " (rate not chosen yet)",
            Stage::Listed | Stage::Whole => "",
        };
        format!("{} {}{rate} seed {}{of}", self.config.model.setting, self.arm, self.config.train.seed)
    }

    /// Whether a divergence is the rate's, and ends nothing but the run. The null has dense's rate, and no choice.
    pub(super) fn may_diverge(&self) -> bool {
        self.rate.is_some() && self.arm != Arm::Null
    }

    /// How it ended; `None` if it did not yet.
    ///
    /// # Errors
    /// A folder of another run, a file that cannot be read.
    pub(super) fn end(&self) -> Result<Option<End>> {
        if self.stage == Stage::Pending {
            return Ok(None);
        }
        if let Some(result) = run::finished(&self.folder, &self.config)? {
            return Ok(Some(End::Done(Box::new(self.labelled(result)))));
        }
        Ok(if self.may_diverge() { diverged(self)?.map(End::Diverged) } else { None })
    }

    /// The result under the arm's name: the null's run is one of dense.
    pub(super) fn labelled(&self, result: RunResult) -> RunResult {
        RunResult { variant: self.arm.to_string(), ..result }
    }
}
