//! Writing checkpoints while the next steps run.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::keep::doomed;
use super::kind::Kind;
use super::part::{self, Part};
use super::sealed::{Seal, Sealing};
use super::shares::{self, RANKS, Ranks};
use super::{EMA, Named, OPTIMIZER, STATE, State, WEIGHTS, folder_of, list};
use crate::config::Keep;
use crate::dist::World;
use crate::files::{self, At};
use crate::telemetry::{Ends, best_step};
use crate::{Error, Result, Trainer};

/// Writes the checkpoints of a run, one at a time, on a thread of its own.
///
/// Dropped, it waits for what it is writing: nobody else may write into the folder before.
///
/// Of several ranks each writes a file of what it owns. Rank 0 makes the folder before, and completes and renames it once all files are on
/// the disk, so that there is a whole checkpoint or none.
#[derive(Debug)]
pub(crate) struct Writer {
    run: PathBuf,
    keep: Keep,
    parts: Arc<[Part]>,
    world: Arc<World>,
    /// Shapes of all parameters.
    shapes: BTreeMap<String, Vec<usize>>,
    pending: Option<Pending>,
    /// Memory of the last snapshot, for the next one: taking new pages costs more than filling them.
    spare: Vec<f32>,
    last: Option<PathBuf>,
}

/// What is being written.
#[derive(Debug)]
struct Pending {
    thread: JoinHandle<Written>,
    state: State,
}

/// What the thread gives back.
#[derive(Debug)]
struct Written {
    /// Checksums of this rank's files among those of others; none where the checkpoint is done.
    outcome: Result<BTreeMap<String, Seal>>,
    values: Vec<f32>,
}

impl Writer {
    /// A writer of the checkpoints of a trainer, in the folder of its run, which no other process writes to.
    /// `last` is the one that the trainer went on from. Removes what a killed process left half-written.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub fn new(run: &Path, trainer: &Trainer, keep: Keep, last: Option<PathBuf>) -> Result<Self> {
        let world = trainer.world().clone();
        world.root_first("the folder of checkpoints", || if world.is_root() { clear(run) } else { Ok(()) })?;
        let parameters = trainer.parameters();
        let parts = part::of(trainer).into();
        let shapes = parameters.iter().map(|(name, variable)| (name.to_owned(), variable.dims().to_vec())).collect();
        Ok(Self { run: run.into(), keep, parts, world, shapes, pending: None, spare: Vec::new(), last })
    }

    /// The newest checkpoint that is known to be whole.
    pub fn last(&self) -> Option<&PathBuf> {
        self.last.as_ref()
    }

    /// Copies a trainer to the host and begins to write; waits for the checkpoint before, where that is not done.
    /// `metrics` are those of `state`, on the rank that has them.
    ///
    /// # Errors
    /// Those of the checkpoint before; what the device reports.
    pub fn save(&mut self, trainer: &mut Trainer, state: State, metrics: Option<Ends>) -> Result<()> {
        self.wait()?;
        let mut values = match std::mem::take(&mut self.spare) {
            // Zeros that the system gives, rather than written ones.
            empty if empty.is_empty() => vec![0.0; trainer.state_len()],
            used => used,
        };
        trainer.copy_state(&mut values)?;
        let place = Place::of(&self.run, state.step);
        if self.world.is_shared() {
            let made = if self.world.is_root() { Sealing::new(&place.partial).map(drop) } else { Ok(()) };
            self.world.agree("the folder of a checkpoint", made)?;
        }
        let (parts, n, n_ranks) = (self.parts.clone(), trainer.n_own(), self.world.size());
        let (rank, keep, at) = (self.world.rank(), self.keep.clone(), state.clone());
        let write = move || {
            let values_of: Vec<&[f32]> = values.chunks_exact(n.max(1)).collect();
            let work = || {
                metrics.map_or(Ok(()), |metrics| metrics.sync())?;
                all_finite(&parts, &values_of, at.step)?;
                if n_ranks > 1 {
                    let mut sealing = Sealing::beside(&place.partial, BTreeMap::new());
                    sealing.tensors(&shares::file_of(rank, n_ranks), &arrays_of_rank(&parts, &values_of))?;
                    return Ok(sealing.into_seals());
                }
                place.write(&at, &keep, Sealing::new, |sealing| write_tensors(sealing, &parts, &values_of))?;
                Ok(BTreeMap::new())
            };
            let outcome = work();
            Written { outcome, values }
        };
        let thread = thread::Builder::new().name("checkpoint".to_owned()).spawn(write);
        self.pending = Some(Pending { thread: thread.at("start writing", &self.run)?, state });
        Ok(())
    }

    /// Whether this rank's part of what is being written is on the disk.
    pub fn has_written(&self) -> bool {
        self.pending.as_ref().is_some_and(|pending| pending.thread.is_finished())
    }

    /// Takes the outcome of a checkpoint that is done by now; does not wait. Several ranks ask each other: `all` is whether
    /// [`Self::has_written`] holds on each of them.
    ///
    /// # Errors
    /// [`Error::NonFinite`] for a parameter or moment that is not finite, a file that cannot be written. Nothing then
    /// stands under the checkpoint's name.
    pub fn poll(&mut self, all: bool) -> Result<()> {
        let is_done = if self.world.is_shared() { all } else { self.has_written() };
        if is_done { self.wait() } else { Ok(()) }
    }

    /// Waits until everything is on the disk, on all ranks.
    ///
    /// # Errors
    /// As [`Self::poll`].
    pub fn wait(&mut self) -> Result<()> {
        let Some(Pending { thread, state }) = self.pending.take() else { return Ok(()) };
        let Written { outcome, values } = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        self.spare = values;
        let place = Place::of(&self.run, state.step);
        if self.world.is_shared() {
            let finished = self.finish(&place, &state, outcome);
            if finished.is_err() && self.world.is_root() {
                // The first failure is the one to report; what is left is removed by the next process.
                let _ = fs::remove_dir_all(&place.partial);
            }
            finished?;
        } else {
            outcome?;
        }
        self.last = Some(place.path);
        Ok(())
    }

    /// Completes a checkpoint to which every rank has written.
    fn finish(&self, place: &Place, state: &State, outcome: Result<BTreeMap<String, Seal>>) -> Result<()> {
        let own = self.world.agree("the parts of a checkpoint", outcome)?;
        let seals = self.world.gather("the checksums of a checkpoint", own)?.into_iter().flatten().collect();
        let ranks = Ranks { ranks: self.world.size(), shapes: self.shapes.clone() };
        let write = || {
            place.write(
                state,
                &self.keep,
                |folder| Ok(Sealing::beside(folder, seals)),
                |sealing| {
                    let json = json_of(&ranks, RANKS)?;
                    sealing.write(RANKS, |to| to.write_all(&json))
                },
            )
        };
        self.world.agree("the end of a checkpoint", if self.world.is_root() { write() } else { Ok(()) })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(pending) = self.pending.take() {
            // Whoever wants the outcome has asked before.
            let _ = pending.thread.join();
        }
    }
}

fn is_partial(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with(".step-") && name.ends_with(".partial")
}

/// Makes the folder of checkpoints, without what a killed process left half-written.
fn clear(run: &Path) -> Result<()> {
    let folder = folder_of(run);
    files::create_folder(&folder)?;
    for entry in fs::read_dir(&folder).at("read", &folder)? {
        let path = entry.at("read", &folder)?.path();
        if is_partial(&path) && path.is_dir() {
            fs::remove_dir_all(&path).at("remove", &path)?;
        }
    }
    Ok(())
}

/// Where a checkpoint is written, and where it stands then.
#[derive(Debug)]
struct Place {
    run: PathBuf,
    partial: PathBuf,
    path: PathBuf,
}

impl Place {
    fn of(run: &Path, step: u64) -> Self {
        let Named { path, .. } = Named::of_step(run, step);
        Self { run: run.into(), partial: folder_of(run).join(format!(".step-{step:08}.partial")), path }
    }

    /// Writes what `fill` writes and the state, seals it, gives it its name, and removes those that are not to be kept.
    fn write<'a>(
        &'a self,
        state: &State,
        keep: &Keep,
        begin: impl FnOnce(&'a Path) -> Result<Sealing<'a>>,
        fill: impl FnOnce(&mut Sealing<'_>) -> Result<()>,
    ) -> Result<()> {
        let Self { run, partial, path } = self;
        let folder = folder_of(run);
        let written = begin(partial).and_then(|mut sealing| {
            fill(&mut sealing)?;
            let json = json_of(state, STATE)?;
            sealing.write(STATE, |to| to.write_all(&json))?;
            sealing.finish()?;
            // A checkpoint of this step may stand there from before a resume to an older one.
            if path.exists() {
                fs::remove_dir_all(path).at("remove", path)?;
            }
            fs::rename(partial, path).at("rename", path)?;
            // Before an older one goes.
            Ok(files::sync_folder(&folder)?)
        });
        if let Err(error) = written {
            // The first failure is the one to report; what is left is removed by the next process.
            let _ = fs::remove_dir_all(partial);
            return Err(error);
        }
        let all = list(run)?;
        let steps: Vec<u64> = all.iter().map(|named| named.step).collect();
        let best = keep.best.as_deref().and_then(|name| best_step(&state.curve, name, &steps));
        let doomed = doomed(&steps, state.step, keep, best);
        for Named { path, .. } in all.iter().filter(|named| doomed.contains(&named.step)) {
            fs::remove_dir_all(path).at("remove", path)?;
        }
        Ok(())
    }
}

fn json_of(value: &impl serde::Serialize, name: &str) -> Result<Vec<u8>> {
    serde_json::to_vec_pretty(value).map_err(|error| Error::Content { path: name.into(), reason: error.to_string() })
}

/// Nothing that is not finite is kept: it would push the last good checkpoint out.
fn all_finite(parts: &[Part], values: &[&[f32]], step: u64) -> Result<()> {
    let bad = |part: &&Part| !values.iter().all(|values| is_finite(part.of(values)));
    let Some(part) = parts.iter().find(bad) else { return Ok(()) };
    let tensor = format!("{} after the step", part.name);
    Err(Error::NonFinite { step, tensor, value: f64::NAN, origin: None, checkpoint: None })
}

/// Whether every value is finite, several at a time.
fn is_finite(values: &[f32]) -> bool {
    values.chunks(1 << 12).all(|values| values.iter().fold(true, |all, value| all & value.is_finite()))
}

/// `values`: weights, first and second moments, and averages if there are any.
fn write_tensors(sealing: &mut Sealing<'_>, parts: &[Part], values: &[&[f32]]) -> Result<()> {
    let [weights, first, second, averages @ ..] = values else {
        return Err(Error::Content { path: WEIGHTS.into(), reason: "there is nothing to write".to_owned() });
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
    sealing.tensors(OPTIMIZER, &moments.collect::<Vec<_>>())
}

/// The arrays of a rank's file, from a snapshot: weights, first and second moments, and averages if there are any.
fn arrays_of_rank<'a>(parts: &'a [Part], values: &[&'a [f32]]) -> Vec<(String, &'a [usize], &'a [f32])> {
    let kinds = Kind::ALL.into_iter().zip(values);
    let of = |(kind, values): (Kind, &&'a [f32])| {
        let name = |part: &Part| format!("{}.{}", kind.name(), part.name);
        parts.iter().map(|part| (name(part), &part.shape[..], part.of(values))).collect::<Vec<_>>()
    };
    kinds.flat_map(of).collect()
}
