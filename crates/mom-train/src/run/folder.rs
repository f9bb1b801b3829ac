//! A run's folder: who holds it, whose it is, and what has changed in how it is run.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::config::{Identity, differences};
use crate::data::{outside_of_sources, same_sources};
use crate::error::require;
use crate::files::{self, At, FileError};
use crate::lock::FolderLock;
use crate::telemetry::RunResult;
use crate::{Error, Result, RunConfig, Trainer, checkpoint, trained};

const CONFIG: &str = "config.toml";
const MODEL: &str = "model.json";
const STARTS: &str = "starts.jsonl";
const RESULT: &str = "result.json";

/// The folder of a run, held against other processes, and found to be this run's or new.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    result: Option<RunResult>,
    /// Changes of operation since the last start.
    changes: Vec<String>,
    /// Nobody can write to the folder of a finished run that may only be read.
    _lock: Option<FolderLock>,
}

impl RunFolder {
    /// Holds a folder, and compares it with a configuration, before anything is read or made.
    ///
    /// Model, data, seed and optimiser are a run's identity, and stay. All else is operation, and may be another at any start:
    /// `starts.jsonl` records it. A finished run of fewer steps than are asked for goes on.
    ///
    /// # Errors
    /// A value out of range; [`Error::Locked`]; [`Error::OtherConfig`] and [`Error::OtherData`] for another run's folder;
    /// fewer steps than are done; a file that cannot be read.
    pub fn open(path: &Path, config: &RunConfig) -> Result<Self> {
        config.validate()?;
        outside_of_sources(&config.data.sources(), path)?;
        let lock = match FolderLock::new(path) {
            Ok(lock) => Ok(Some(lock)),
            Err(Error::File(error)) if error.is_read_only() => Err(error),
            Err(error) => return Err(error),
        };
        Self::compared(path, config, lock)
    }

    /// As [`Self::open`], by a rank of the run that [`crate::dist::World::is_root`] holds the folder for, and has compared it.
    ///
    /// # Errors
    /// As there, but for [`Error::Locked`].
    pub fn beside_root(path: &Path, config: &RunConfig) -> Result<Self> {
        config.validate()?;
        Self::compared(path, config, Ok(None))
    }

    fn compared(path: &Path, config: &RunConfig, lock: Result<Option<FolderLock>, FileError>) -> Result<Self> {
        let changes = changes(path, config)?;
        let result = read_result(path)?;
        if let Some(result) = &result {
            let expected = format!("at least {}, which are done in {}", result.steps, path.display());
            require(config.train.steps >= result.steps, "train.steps", &expected, config.train.steps)?;
        }
        let done = result.as_ref().is_some_and(|result| result.steps == config.train.steps);
        let lock = match lock {
            Ok(lock) => lock,
            // What is done is told from where nothing can be written, too.
            Err(_) if done => None,
            Err(error) => return Err(error.into()),
        };
        if !done {
            same_sources(&config.data.sources(), path)?;
            if let Some(origin) = config.train.init_from.as_deref().filter(|_| !checkpoint::any(path)) {
                trained::check(config, origin)?;
            }
        }
        Ok(Self { path: path.into(), result, changes, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The outcome, if all steps that are asked for are done.
    pub fn finished(&self, config: &RunConfig) -> Option<&RunResult> {
        self.result.as_ref().filter(|result| result.steps == config.train.steps)
    }

    /// Steps of its outcome, if it has one: maybe fewer than are asked for now.
    pub(super) fn steps_of_result(&self) -> Option<u64> {
        self.result.as_ref().map(|result| result.steps)
    }

    /// What is run in another way than at the last start, as `name = old value (now new value)`.
    pub fn changes(&self) -> &[String] {
        &self.changes
    }

    /// The configuration of the last start; none of a new run.
    pub(super) fn began_with(&self) -> Result<Option<RunConfig>> {
        let path = self.path.join(CONFIG);
        path.is_file().then(|| RunConfig::stored(&path)).transpose()
    }

    /// Records a start from a step.
    pub(super) fn record(&self, config: &RunConfig, trainer: &Trainer, from_step: u64) -> Result<()> {
        #[derive(Serialize)]
        struct Start<'a> {
            from_step: u64,
            steps: u64,
            time: String,
            version: &'a str,
            device: &'a str,
            ranks: usize,
            changes: &'a [String],
        }
        let start = Start {
            from_step,
            steps: config.train.steps,
            time: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            version: env!("CARGO_PKG_VERSION"),
            device: config.train.device.name(),
            ranks: trainer.world().size(),
            changes: &self.changes,
        };
        let path = self.path.join(STARTS);
        let mut line = serde_json::to_vec(&start)
            .map_err(|error| Error::Content { path: path.clone(), reason: error.to_string() })?;
        line.push(b'\n');
        // A line that was cut by a full disk gets an end of its own.
        if ends_in_a_line(&path).is_some_and(|ends| !ends) {
            line.insert(0, b'\n');
        }
        let mut file = OpenOptions::new().append(true).create(true).open(&path).at("open", &path)?;
        file.write_all(&line).at("write", &path)?;
        write_model(&self.path, trainer)?;
        Ok(files::replace(&self.path.join(CONFIG), config.to_toml()?.as_bytes())?)
    }
}

/// Whether the last byte of a file ends a line; `None` of a file that is empty or not there.
fn ends_in_a_line(path: &Path) -> Option<bool> {
    let mut file = File::open(path).ok()?;
    file.seek(SeekFrom::End(-1)).ok()?;
    let mut last = [0];
    file.read_exact(&mut last).ok()?;
    Some(last == *b"\n")
}

/// The outcome of a run that other runs are compared with; `None` where it is not done.
///
/// # Errors
/// [`Error::OtherConfig`] if the folder's run differs in anything that a number depends on; a file that cannot be read.
pub fn finished(folder: &Path, config: &RunConfig) -> Result<Option<RunResult>> {
    compare(folder, config, Identity::OfComparison)?;
    Ok(read_result(folder)?.filter(|result| result.steps == config.train.steps))
}

/// Refuses a folder of another run; otherwise the changes of operation.
fn changes(folder: &Path, config: &RunConfig) -> Result<Vec<String>> {
    compare(folder, config, Identity::OfRun)
}

/// Refuses a folder whose configuration differs in its identity; otherwise all other differences.
fn compare(folder: &Path, config: &RunConfig, identity: Identity) -> Result<Vec<String>> {
    let path = folder.join(CONFIG);
    if path.is_file() { same_config(folder, &RunConfig::stored(&path)?, config, identity) } else { Ok(Vec::new()) }
}

/// Refuses a configuration of another identity than the one that `path` holds; otherwise all other differences.
pub(super) fn same_config(
    path: &Path,
    stored: &RunConfig,
    config: &RunConfig,
    identity: Identity,
) -> Result<Vec<String>> {
    let (free, kept): (Vec<_>, Vec<_>) =
        differences(stored, config)?.into_iter().partition(|difference| identity.leaves_free(&difference.key));
    let texts = |differences: Vec<crate::config::Difference>| differences.into_iter().map(|d| d.text).collect();
    if kept.is_empty() {
        Ok(texts(free))
    } else {
        Err(Error::OtherConfig { path: path.into(), differences: texts(kept) })
    }
}

fn read_result(folder: &Path) -> Result<Option<RunResult>> {
    let path = folder.join(RESULT);
    if !path.is_file() {
        return Ok(None);
    }
    let text = std::fs::read(&path).at("read", &path)?;
    serde_json::from_slice(&text).map(Some).map_err(|error| Error::Content { path, reason: error.to_string() })
}

/// Writes the outcome: the run is done.
pub(super) fn write_result(folder: &Path, result: &RunResult) -> Result<()> {
    files::write_json(&folder.join(RESULT), result)
}

fn write_model(folder: &Path, trainer: &Trainer) -> Result<()> {
    #[derive(Serialize)]
    struct Head<'a> {
        model: &'a mom_models::ModelConfig,
        total_parameters: usize,
        active_parameters: usize,
        patcher_parameters: usize,
    }
    let model = trainer.model().config();
    let head = Head {
        model,
        total_parameters: model.total_parameters(),
        active_parameters: model.active_parameters(),
        patcher_parameters: model.patcher_parameters(),
    };
    files::write_json(&folder.join(MODEL), &head)
}
