//! Writing checkpoints while the next steps run.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::keep::doomed;
use super::sealed::Sealing;
use super::{EMA, Named, OPTIMIZER, STATE, State, WEIGHTS, folder_of, list};
use crate::config::Keep;
use crate::files::{self, At};
use crate::telemetry::{Ends, best_step};
use crate::{Error, Result, Trainer};

/// Writes the checkpoints of a run, one at a time, on a thread of its own.
///
/// Dropped, it waits for what it is writing: nobody else may write into the folder before.
#[derive(Debug)]
pub(crate) struct Writer {
    run: PathBuf,
    keep: Keep,
    parts: Arc<[Part]>,
    pending: Option<JoinHandle<Written>>,
    /// Memory of the last snapshot, for the next one: taking new pages costs more than filling them.
    spare: Vec<f32>,
    last: Option<PathBuf>,
}

/// A parameter and its place in each part of a snapshot: weights, first and second moments, and perhaps averages.
#[derive(Debug)]
struct Part {
    name: String,
    shape: Vec<usize>,
    range: Range<usize>,
}

impl Part {
    fn of<'a>(&self, part: &'a [f32]) -> &'a [f32] {
        &part[self.range.clone()]
    }
}

/// What the thread gives back.
struct Written {
    outcome: Result<PathBuf>,
    values: Vec<f32>,
}

impl Writer {
    /// A writer of the checkpoints of a trainer, in the folder of its run, which no other process writes to.
    /// `last` is the one that the trainer went on from. Removes what a killed process left half-written.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub fn new(run: &Path, trainer: &Trainer, keep: Keep, last: Option<PathBuf>) -> Result<Self> {
        let folder = folder_of(run);
        files::create_folder(&folder)?;
        for entry in fs::read_dir(&folder).at("read", &folder)? {
            let path = entry.at("read", &folder)?.path();
            if is_partial(&path) && path.is_dir() {
                fs::remove_dir_all(&path).at("remove", &path)?;
            }
        }
        let mut end = 0;
        let parts = trainer.parameters().iter().map(|(name, variable)| {
            let start = end;
            end += variable.elem_count();
            Part { name: name.to_owned(), shape: variable.dims().to_vec(), range: start..end }
        });
        let parts = parts.collect();
        Ok(Self { run: run.into(), keep, parts, pending: None, spare: Vec::new(), last })
    }

    /// The newest checkpoint that is known to be whole.
    pub fn last(&self) -> Option<&PathBuf> {
        self.last.as_ref()
    }

    /// Copies a trainer to the host and begins to write; waits for the checkpoint before, where that is not done.
    /// `metrics` are those of `state`.
    ///
    /// # Errors
    /// Those of the checkpoint before; what the device reports.
    pub fn save(&mut self, trainer: &mut Trainer, state: State, metrics: Ends) -> Result<()> {
        self.wait()?;
        let mut values = match std::mem::take(&mut self.spare) {
            // Zeros that the system gives, rather than written ones.
            empty if empty.is_empty() => vec![0.0; trainer.state_len()],
            used => used,
        };
        trainer.copy_state(&mut values)?;
        let (run, keep, parts) = (self.run.clone(), self.keep.clone(), self.parts.clone());
        let write = move || {
            let outcome = metrics.sync().and_then(|()| write(&run, &parts, &values, &state, &keep));
            Written { outcome, values }
        };
        let thread = thread::Builder::new().name("checkpoint".to_owned()).spawn(write);
        self.pending = Some(thread.at("start writing", &self.run)?);
        Ok(())
    }

    /// Takes the outcome of a checkpoint that is done by now; does not wait.
    ///
    /// # Errors
    /// [`Error::NonFinite`] for a parameter or moment that is not finite, a file that cannot be written. Nothing then
    /// stands under the checkpoint's name.
    pub fn poll(&mut self) -> Result<()> {
        if self.pending.as_ref().is_some_and(JoinHandle::is_finished) { self.wait() } else { Ok(()) }
    }

    /// Waits until everything is on the disk.
    ///
    /// # Errors
    /// As [`Self::poll`].
    pub fn wait(&mut self) -> Result<()> {
        let Some(pending) = self.pending.take() else { return Ok(()) };
        let Written { outcome, values } = pending.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        self.spare = values;
        self.last = Some(outcome?);
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(pending) = self.pending.take() {
            // Whoever wants the outcome has asked before.
            let _ = pending.join();
        }
    }
}

fn is_partial(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with(".step-") && name.ends_with(".partial")
}

/// Writes a checkpoint and removes those that are not to be kept.
fn write(run: &Path, parts: &[Part], values: &[f32], state: &State, keep: &Keep) -> Result<PathBuf> {
    let folder = folder_of(run);
    let Named { path, .. } = Named::of_step(run, state.step);
    let partial = folder.join(format!(".step-{:08}.partial", state.step));
    let n = parts.last().map_or(0, |part| part.range.end);
    let values: Vec<&[f32]> = values.chunks_exact(n.max(1)).collect();
    // Nothing that is not finite is kept: it would push the last good checkpoint out.
    let bad = |part: &&Part| !values.iter().all(|values| is_finite(part.of(values)));
    if let Some(part) = parts.iter().find(bad) {
        let tensor = format!("{} after the step", part.name);
        return Err(Error::NonFinite { step: state.step, tensor, value: f64::NAN, origin: None, checkpoint: None });
    }
    let written = write_folder(&partial, parts, &values, state).and_then(|()| {
        // A checkpoint of this step may stand there from before a resume to an older one.
        if path.exists() {
            fs::remove_dir_all(&path).at("remove", &path)?;
        }
        fs::rename(&partial, &path).at("rename", &path)?;
        // Before an older one goes.
        Ok(files::sync_folder(&folder)?)
    });
    if let Err(error) = written {
        // The first failure is the one to report; what is left is removed by the next process.
        let _ = fs::remove_dir_all(&partial);
        return Err(error);
    }
    let all = list(run)?;
    let steps: Vec<u64> = all.iter().map(|named| named.step).collect();
    let best = keep.best.as_deref().and_then(|name| best_step(&state.curve, name, &steps));
    let doomed = doomed(&steps, state.step, keep, best);
    for Named { path, .. } in all.iter().filter(|named| doomed.contains(&named.step)) {
        fs::remove_dir_all(path).at("remove", path)?;
    }
    Ok(path)
}

/// Whether every value is finite, several at a time.
fn is_finite(values: &[f32]) -> bool {
    values.chunks(1 << 12).all(|values| values.iter().fold(true, |all, value| all & value.is_finite()))
}

/// `values`: weights, first and second moments, and averages if there are any.
fn write_folder(folder: &Path, parts: &[Part], values: &[&[f32]], state: &State) -> Result<()> {
    let mut sealing = Sealing::new(folder)?;
    let [weights, first, second, averages @ ..] = values else {
        return Err(Error::Content { path: folder.into(), reason: "there is nothing to write".to_owned() });
    };
    let of =
        |values| parts.iter().map(|part| (part.name.clone(), &part.shape[..], part.of(values))).collect::<Vec<_>>();
    sealing.tensors(WEIGHTS, &of(weights))?;
    if let Some(averages) = averages.first() {
        sealing.tensors(EMA, &of(averages))?;
    }
    let flat: Vec<[usize; 1]> = parts.iter().map(|part| [part.range.len()]).collect();
    let moments = parts.iter().zip(&flat).flat_map(|(part, shape)| {
        [("first", first), ("second", second)]
            .map(|(kind, values)| (format!("{kind}.{}", part.name), &shape[..], part.of(values)))
    });
    sealing.tensors(OPTIMIZER, &moments.collect::<Vec<_>>())?;
    let json = serde_json::to_vec_pretty(state)
        .map_err(|error| Error::Content { path: folder.join(STATE), reason: error.to_string() })?;
    sealing.write(STATE, |to| to.write_all(&json))?;
    sealing.finish()
}
