//! What a run tells while it goes on.

use std::collections::BTreeMap;
use std::path::Path;

use crate::telemetry::Pace;

/// What a run tells while it goes on. Every method does nothing unless it is written.
pub trait Observer {
    /// The run goes on from a step; 0 is its start.
    fn started(&mut self, _from_step: u64, _steps: u64) {}
    /// A step is done.
    fn stepped(&mut self, _step: u64, _loss: f64, _pace: &Pace) {}
    /// Asked after every step but the last: where it says no, the run writes a checkpoint and ends with
    /// [`crate::Error::Stopped`].
    fn goes_on(&mut self) -> bool {
        true
    }
    /// A checkpoint of a step is being written.
    fn saved(&mut self, _step: u64) {}
    /// A validation is done: names and losses.
    fn validated(&mut self, _step: u64, _losses: &BTreeMap<String, f64>) {}
    /// Samples of a step lie in a folder.
    fn sampled(&mut self, _step: u64, _folder: &Path) {}
    /// Something that the user should know.
    fn note(&mut self, _text: &str) {}
}

/// Tells nobody.
#[derive(Debug, Default)]
pub struct Silent;

impl Observer for Silent {}
