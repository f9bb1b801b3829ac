//! What the report is made from: finished runs, and the circumstances of the sweep.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::ReportError;
use crate::telemetry::RunResult;

/// How the runs came about; printed in the report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReportHeader {
    /// Title of the report.
    pub title: String,
    /// The command that made it.
    pub command: String,
    /// Commit of the source, when known.
    pub commit: Option<String>,
    /// Processor and system.
    pub machine: String,
    /// What the runs computed on.
    pub device: String,
    /// Threads per run.
    pub threads: usize,
    /// Time of the report, in seconds since 1970-01-01 UTC.
    pub created_unix_secs: u64,
    /// What a reader should know, such as how initial weights are drawn.
    pub notes: Vec<String>,
    /// Runs planned but not finished.
    pub missing: Vec<String>,
    /// Settings of the sweep, by name.
    pub config: Vec<(String, String)>,
}

/// Refuses runs that the report could only misrepresent.
pub(super) fn check(runs: &[RunResult]) -> Result<(), ReportError> {
    let mut seen = BTreeSet::new();
    for run in runs {
        if !seen.insert((&run.setting, &run.scale, &run.variant, run.seed)) {
            return Err(ReportError::DuplicateRun {
                setting: run.setting.clone(),
                scale: run.scale.clone(),
                variant: run.variant.clone(),
                seed: run.seed,
            });
        }
        for pair in run.curve.windows(2) {
            let (previous, step) = (pair[0].step, pair[1].step);
            if step <= previous {
                let run = format!("{}/{}/{}", run.setting, run.variant, run.seed);
                return Err(ReportError::UnorderedCurve { run, previous, step });
            }
        }
    }
    Ok(())
}
