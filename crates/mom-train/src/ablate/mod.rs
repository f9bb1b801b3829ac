//! The paper's comparison: runs of settings, variants and seeds side by side, one report.
//!
//! A sweep lives in a folder: `data/SETTING/` (tokenizers and tokens), `runs/SETTING-SCALE-VARIANT-seedS/` (see [`crate::run`]), and the report's files. Started again it takes what
//! is done as it is and goes on with what is not; the report is written anew after every run.
//!
//! Each variant of a setting is compared at a learning rate of its own, which a [`bracket`] of short runs finds
//! (`runs/SETTING-SCALE-VARIANT-lrR-short-seedS/`, then `runs/SETTING-SCALE-VARIANT-lrR-seedS/`); or every run is made at each of
//! several given rates, see [`rates`].
//!
//! Every variant of a setting and seed sees the same documents in the same order, the same noise, and starts from the same
//! values in every parameter that it shares with another. The null arm, dense from other initial values, shows what that leaves to
//! chance; [`statistics`] says how differences are judged.

mod arm;
pub mod bracket;
mod configuration;
mod course;
mod diverged;
mod estimate;
mod gallery;
mod header;
mod options;
mod plan;
mod planned;
pub mod rates;
pub mod report;
mod served;
mod siblings;
pub mod statistics;
mod variants;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

use mom_data::DataError;
use mom_models::Setting;

pub use arm::Arm;
use course::Course;
pub use diverged::diverged;
pub use estimate::estimate_secs;
use gallery::galleries;
use header::header;
pub use options::{Horizons, Rates, SweepOptions};
use planned::End;
pub use planned::{Planned, Stage};
use rates::ArmRates;
use report::Beside;
pub use served::{LOOKED_AT, Served, UNITS, Unserved};
pub use variants::Variants;

use crate::data::{outside_of_sources, same_sources};
use crate::run::{self, FolderLock, Observer, Pace};
use crate::telemetry::RunResult;
use crate::{Error, Prepared, Result};

/// What a sweep tells while it goes on.
pub trait SweepObserver: Observer {
    /// Work before the runs: "tokenising scenes"; `total` is 0 where it is not known.
    fn preparing(&mut self, _what: &str, _done: u64, _total: u64) {}
    /// A run is next; `index` counts from 0.
    fn run_started(&mut self, _index: usize, _total: usize, _planned: &Planned) {}
    /// A run is done, was done before, or failed.
    fn run_ended(&mut self, _planned: &Planned, _outcome: &Result<RunResult>) {}
}

impl SweepObserver for run::Silent {}

/// What a sweep left behind.
#[derive(Debug)]
pub struct Outcome {
    /// Finished runs that are compared: those that were there before, then those of the plan in its order. With several learning
    /// rates those of each arm's best.
    pub results: Vec<RunResult>,
    /// Where rates are chosen: every arm at every rate.
    pub rates: Vec<ArmRates>,
    /// Runs that failed, with their errors.
    pub failed: Vec<(Planned, Error)>,
    /// Files of the report.
    pub files: Vec<PathBuf>,
    /// Whether time was up before everything was done.
    pub stopped: bool,
}

/// Tells a run's observer everything, and ends the run when time is up.
struct Limited<'a> {
    observer: &'a mut dyn Observer,
    deadline: Option<Instant>,
}

impl Observer for Limited<'_> {
    fn started(&mut self, from_step: u64, steps: u64) {
        self.observer.started(from_step, steps);
    }
    fn stepped(&mut self, step: u64, loss: f64, pace: &Pace) {
        self.observer.stepped(step, loss, pace);
    }
    fn goes_on(&mut self) -> bool {
        !is_over(self.deadline) && self.observer.goes_on()
    }
    fn validated(&mut self, step: u64, losses: &BTreeMap<String, f64>) {
        self.observer.validated(step, losses);
    }
    fn saved(&mut self, step: u64) {
        self.observer.saved(step);
    }
    fn sampled(&mut self, step: u64, folder: &Path) {
        self.observer.sampled(step, folder);
    }
    fn note(&mut self, text: &str) {
        self.observer.note(text);
    }
}

/// Makes a run's result.
struct Runner<'a> {
    options: &'a SweepOptions,
    deadline: Option<Instant>,
    /// The data of the setting at hand.
    prepared: Option<(Setting, Prepared)>,
}

impl Runner<'_> {
    fn result(&mut self, planned: &Planned, observer: &mut dyn SweepObserver) -> Result<RunResult> {
        if is_over(self.deadline) || !observer.goes_on() {
            return Err(Error::Stopped { step: 0 });
        }
        let setting = planned.config.model.setting;
        // The old setting's documents go before the new one's come.
        let have = self.prepared.take().filter(|(of, _)| *of == setting);
        let (_, prepared) = match have {
            Some(have) => self.prepared.insert(have),
            None => {
                let tell = |p: mom_data::Progress<'_>| observer.preparing(p.what, p.done, p.total);
                let new = Prepared::new(&planned.config, &self.options.prepared(&planned.config), tell)?;
                new.notes().iter().for_each(|note| observer.note(&format!("{setting}: {note}")));
                self.prepared.insert((setting, new))
            }
        };
        let mut observer = Limited { observer: as_run(observer), deadline: self.deadline };
        Ok(planned.labelled(run::train(&planned.config, &planned.folder, prepared, &mut observer)?))
    }
}

fn is_over(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| Instant::now() >= deadline)
}

/// Runs everything that is not done yet and writes the report; `command` is printed in it.
///
/// A run that fails is told to the observer, and the others go on; only what concerns all of them ends the sweep. With several
/// learning rates a run that diverges did not fail: it says that its rate is too high.
///
/// # Errors
/// Options out of range; [`Error::Unserved`]; data that cannot be read; runs of other options in the same folder; a full disk.
pub fn run(options: &SweepOptions, command: &str, observer: &mut dyn SweepObserver) -> Result<Outcome> {
    let deadline = options.limit.map(|limit| Instant::now() + limit);
    let Served { plan, skipped } = options.served()?;
    skipped.iter().for_each(|note| observer.note(note));
    if let Some(first) = plan.first() {
        outside_of_sources(&first.config.data.sources(), &options.out)?;
    }
    let _lock = FolderLock::new(&options.out)?;
    // Before hours of work, not after: a folder of other options or other data is refused at once. Runs that are compared are
    // equal in all that a number depends on, their length too.
    options.ended()?;
    if let Some(first) = plan.first() {
        same_sources(&first.config.data.sources(), &options.out.join("data"))?;
    }
    let options = &options.only(&plan);
    let mut course = options.finished_siblings(&plan);
    let mut sweep = Progress::default();
    let mut runner = Runner { options, deadline, prepared: None };
    let report = |sweep: &Progress, course: &Course| -> Result<Vec<PathBuf>> {
        let plan = options.plan_after(course)?;
        let header = header(options, command, sweep.missing(&plan, course))?;
        let arms = course.arms(&plan);
        let galleries = galleries(&course.shelves(&arms))?;
        let results = course.compared(&arms);
        let n_done = Some(course.ended().count());
        Ok(report::write_with(&options.out, &header, &results, &Beside { arms, galleries, n_done })?)
    };
    loop {
        // What comes next follows from what has ended: a bracket may want one more rate.
        let plan = options.plan_after(&course)?;
        let planned = match plan.iter().find(|planned| sweep.is_next(planned)) {
            Some(planned) => {
                sweep.begun.insert(planned.folder.clone());
                planned
            }
            // All have ended. Those that tried a rate were not asked at their end, since they might have lost.
            None => match course.unasked(&course.arms(&plan), options.downstream, &sweep.asked) {
                Some(compared) => {
                    sweep.asked.insert(compared.folder.clone());
                    &compared.clone()
                }
                None => break,
            },
        };
        observer.run_started(sweep.begun.len() - 1, plan.len(), planned);
        let had = match planned.end()? {
            Some(End::Diverged(reason)) => {
                let again = diverged::path(&planned.folder);
                let told =
                    format!("{}: diverged before ({reason}); remove {} to try again", planned.name(), again.display());
                observer.note(&told);
                course.diverged.push(planned.clone());
                continue;
            }
            // One that ended before anybody asked is asked now.
            Some(End::Done(result)) if result.has_downstream(&planned.config) => {
                observer.run_ended(planned, &Ok((*result).clone()));
                course.put(planned, *result);
                continue;
            }
            Some(End::Done(result)) => Some(*result),
            None => None,
        };
        let result = match (runner.result(planned, observer), had) {
            // What it is compared by is there all the same.
            (Err(Error::Stopped { .. }), Some(had)) => {
                sweep.stopped = true;
                Ok(had)
            }
            (Err(error), Some(had)) if !ends_sweep(&error) => {
                observer.note(&format!("{}: it has no downstream figures: {error}", planned.name()));
                sweep.failed.push((planned.clone(), error));
                Ok(had)
            }
            (result, _) => result,
        };
        observer.run_ended(planned, &result);
        match result {
            Ok(result) => course.put(planned, result),
            Err(Error::Stopped { .. }) => {
                sweep.stopped = true;
                continue;
            }
            Err(error) if ends_sweep(&error) => return Err(error),
            Err(error) if planned.may_diverge() && diverged::is_divergence(&error) => {
                diverged::remember(planned, &error)?;
                course.diverged.push(planned.clone());
            }
            Err(error) => sweep.failed.push((planned.clone(), error)),
        }
        report(&sweep, &course)?;
    }
    let files = report(&sweep, &course)?;
    let rates = course.arms(&options.plan_after(&course)?);
    let Progress { failed, stopped, .. } = sweep;
    Ok(Outcome { results: course.compared(&rates), rates, failed, files, stopped })
}

/// Whether an error concerns every run: a disk that is full, a folder that is not ours.
fn ends_sweep(error: &Error) -> bool {
    matches!(
        error,
        Error::File(_)
            | Error::Data(DataError::Io { .. })
            | Error::Locked { .. }
            | Error::OtherConfig { .. }
            | Error::OtherData { .. }
            | Error::Report(_)
    )
}

/// How far a sweep is.
#[derive(Default)]
struct Progress {
    /// Folders of the runs that were begun, whatever came of them.
    begun: BTreeSet<PathBuf>,
    /// Folders of the runs that were asked what their models can do after they had ended.
    asked: BTreeSet<PathBuf>,
    failed: Vec<(Planned, Error)>,
    stopped: bool,
}

impl Progress {
    fn is_next(&self, planned: &Planned) -> bool {
        planned.stage != Stage::Pending && !self.begun.contains(&planned.folder)
    }

    /// Runs that did not end: those that failed with their errors, then those that are not done yet.
    fn missing(&self, plan: &[Planned], course: &Course) -> Vec<String> {
        let failed = self.failed.iter().map(|(planned, error)| format!("{}: {error}", planned.name()));
        let is_open = |planned: &&Planned| {
            !course.knows(planned) && !self.failed.iter().any(|(failed, _)| failed.folder == planned.folder)
        };
        failed.chain(plan.iter().filter(is_open).map(Planned::name)).collect()
    }
}

/// The part of a sweep's observer that a single run knows.
fn as_run(observer: &mut dyn SweepObserver) -> &mut dyn Observer {
    observer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::EvalPoint;

    /// A result whose last joint loss is this.
    pub(super) fn ended(joint: f64) -> RunResult {
        let last = EvalPoint { step: 1, tokens: 1, wall_secs: 1.0, joint, loss: BTreeMap::new(), bits_per_byte: None };
        RunResult {
            setting: "chameleon".to_owned(),
            variant: "dense".to_owned(),
            seed: 0,
            scale: "tiny".to_owned(),
            modalities: Vec::new(),
            curve: vec![last],
            horizons: Vec::new(),
            downstream: None,
            steps: 1,
            tokens: 1,
            active_flops_per_token: 1.0,
            wall_secs: 1.0,
            peak_memory_bytes: 1,
            total_parameters: 1,
            active_parameters: 1,
        }
    }
}
