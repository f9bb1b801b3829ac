//! Runs that a test ends at a step, and what they leave in their folders.

use std::fs;
use std::path::{Path, PathBuf};

use mom_models::Setting;
use mom_train::run::{Observer, Pace, Silent, train};
use mom_train::{Prepared, RunConfig};

use crate::common::{config, read};

pub fn prepare(config: &RunConfig, folder: &Path) -> Prepared {
    Prepared::new(config, folder, |_| {}).unwrap()
}

/// Panics at a step, as a killed process ends: nothing is cleaned up.
pub struct DieAt(pub u64);

impl Observer for DieAt {
    fn stepped(&mut self, step: u64, _: f64, _: &Pace) {
        assert!(step < self.0, "die");
    }
}

/// Trains up to a step and ends there without a word.
pub fn kill_at(step: u64, config: &RunConfig, run: &Path, prepared: &Prepared) {
    let die = std::panic::AssertUnwindSafe(|| train(config, run, prepared, &mut DieAt(step)));
    assert!(std::panic::catch_unwind(die).is_err());
}

/// A run of Chameleon that was killed at its sixth step, and left the checkpoint of a step before.
pub struct Killed {
    pub config: RunConfig,
    pub prepared: Prepared,
    pub run: PathBuf,
    /// Of the run and its data; removed at the end.
    _folder: tempfile::TempDir,
}

impl Killed {
    pub fn new(overrides: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = config(Setting::Chameleon, overrides);
        let prepared = prepare(&config, folder.path());
        let run = folder.path().join("run");
        kill_at(6, &config, &run, &prepared);
        Self { config, prepared, run, _folder: folder }
    }

    /// The folder of the checkpoint of a step.
    pub fn checkpoint(&self, step: u64) -> PathBuf {
        self.run.join(format!("checkpoints/step-{step:08}"))
    }

    /// Starts the run again, and gives its message: it must be refused, and leave the losses of before as they are.
    pub fn refused(&self, config: &RunConfig) -> String {
        let metrics = self.run.join("metrics.jsonl");
        let before = read(&metrics);
        let message = train(config, &self.run, &self.prepared, &mut Silent).unwrap_err().to_string();
        assert_eq!(read(&metrics), before);
        message
    }
}

/// Names of what lies in a folder, in order.
pub fn names_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Writes the checksums of a checkpoint anew, over files that a test has changed.
pub fn reseal(checkpoint: &Path) {
    let path = checkpoint.join("checksums.json");
    let mut seals: serde_json::Value = serde_json::from_str(&read(&path)).unwrap();
    for (name, seal) in seals.as_object_mut().unwrap() {
        let bytes = fs::read(checkpoint.join(name)).unwrap();
        seal["bytes"] = bytes.len().into();
        seal["crc32c"] = format!("{:08x}", crc32c::crc32c(&bytes)).into();
    }
    fs::write(path, seals.to_string()).unwrap();
}

pub fn weights(run: &Path) -> Vec<u8> {
    let checkpoints = run.join("checkpoints");
    let digits = |path: &PathBuf| path.to_str().unwrap().rsplit_once("step-").unwrap().1.parse::<u64>().is_ok();
    let newest = fs::read_dir(checkpoints).unwrap().map(|entry| entry.unwrap().path()).filter(digits).max().unwrap();
    [fs::read(newest.join("weights.safetensors")).unwrap(), fs::read(newest.join("optimizer.safetensors")).unwrap()]
        .concat()
}

/// Collects what a run tells.
#[derive(Default)]
pub struct Notes {
    pub from_step: u64,
    pub notes: Vec<String>,
}

impl Observer for Notes {
    fn started(&mut self, from_step: u64, _: u64) {
        self.from_step = from_step;
    }
    fn note(&mut self, text: &str) {
        self.notes.push(text.to_owned());
    }
}
