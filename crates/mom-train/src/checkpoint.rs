//! Checkpoints: everything that a run needs to go on as if it had not stopped.
//!
//! `checkpoints/step-00000500/` holds `weights.safetensors` (the published state-dict names), `optimizer.safetensors`
//! (`first.NAME`, `second.NAME`) and `state.json`. A checkpoint is written under a hidden name, synced, and renamed; what
//! stands under its final name is whole. Noise and data order are functions of the seed and the step, so no generator's
//! state need be kept beside them.
//!
//! A [`Writer`] copies everything to the host, and writes while the next steps run.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use candle_core::{DType, Device, Tensor};
use mom_data::Position;
use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors, View};
use serde::{Deserialize, Serialize};

use crate::adamw::Moments;
use crate::files::{self, At};
use crate::metrics::{Ends, Lengths};
use crate::report::EvalPoint;
use crate::trainer::Counters;
use crate::{Error, Result, RunConfig, Trainer};

pub(crate) const WEIGHTS: &str = "weights.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";

/// Contents of `state.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    pub config: RunConfig,
    /// Hash of the data, see [`crate::Prepared::fingerprint`]; a string, since JSON readers may round a large number.
    pub data: String,
    pub step: u64,
    pub position: Position,
    pub counters: Counters,
    pub curve: Vec<EvalPoint>,
    pub wall_secs: f64,
    pub peak_memory_bytes: u64,
    pub metrics: Lengths,
}

/// Writes the checkpoints of a run, one at a time, on a thread of its own.
///
/// Dropped, it waits for what it is writing: nobody else may write into the folder before.
#[derive(Debug)]
pub(crate) struct Writer {
    run: PathBuf,
    keep: usize,
    parts: Arc<[Part]>,
    pending: Option<JoinHandle<Written>>,
    /// Memory of the last snapshot, for the next one: taking new pages costs more than filling them.
    spare: Vec<f32>,
    last: Option<PathBuf>,
}

/// A parameter and its place in each third of a snapshot.
#[derive(Debug)]
struct Part {
    name: String,
    shape: Vec<usize>,
    range: Range<usize>,
}

impl Part {
    fn of<'a>(&self, third: &'a [f32]) -> &'a [f32] {
        &third[self.range.clone()]
    }
}

/// What the thread gives back.
struct Written {
    outcome: Result<PathBuf>,
    values: Vec<f32>,
}

impl Writer {
    /// A writer of the newest `keep` checkpoints of a trainer, in the folder of its run, which no other process writes to.
    /// `last` is the one that the trainer went on from. Removes what a killed process left half-written.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub fn new(run: &Path, trainer: &Trainer, keep: usize, last: Option<PathBuf>) -> Result<Self> {
        let folder = run.join("checkpoints");
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
            empty if empty.is_empty() => vec![0.0; 3 * trainer.parameters().n_elements()],
            used => used,
        };
        trainer.copy_state(&mut values)?;
        let (run, keep, parts) = (self.run.clone(), self.keep, self.parts.clone());
        let write = move || {
            let outcome = metrics.sync().and_then(|()| write(&run, &parts, &values, &state, keep));
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

/// Writes a checkpoint and removes all but the newest `keep`.
fn write(run: &Path, parts: &[Part], values: &[f32], state: &State, keep: usize) -> Result<PathBuf> {
    let folder = run.join("checkpoints");
    let name = format!("step-{:08}", state.step);
    let (path, partial) = (folder.join(&name), folder.join(format!(".{name}.partial")));
    let n = values.len() / 3;
    let thirds = [&values[..n], &values[n..2 * n], &values[2 * n..]];
    // Nothing that is not finite is kept: it would push the last good checkpoint out.
    let bad = |part: &&Part| !thirds.iter().all(|third| is_finite(part.of(third)));
    if let Some(part) = parts.iter().find(bad) {
        let tensor = format!("{} after the step", part.name);
        return Err(Error::NonFinite { step: state.step, tensor, value: f64::NAN, checkpoint: None });
    }
    let written = write_folder(&partial, parts, thirds, state).and_then(|()| {
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
    let mut all = list(run)?;
    while all.len() > keep {
        let oldest = all.remove(0);
        fs::remove_dir_all(&oldest).at("remove", &oldest)?;
    }
    Ok(path)
}

/// Whether every value is finite, several at a time.
fn is_finite(values: &[f32]) -> bool {
    values.chunks(1 << 12).all(|values| values.iter().fold(true, |all, value| all & value.is_finite()))
}

fn write_folder(folder: &Path, parts: &[Part], [weights, first, second]: [&[f32]; 3], state: &State) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).at("remove", folder)?;
    }
    files::create_folder(folder)?;
    let weights = parts.iter().map(|part| (part.name.clone(), part.shape.clone(), part.of(weights)));
    write_tensors(&folder.join(WEIGHTS), weights)?;
    let moments = parts.iter().flat_map(|part| {
        [("first", first), ("second", second)]
            .map(|(kind, third)| (format!("{kind}.{}", part.name), vec![part.range.len()], part.of(third)))
    });
    write_tensors(&folder.join(OPTIMIZER), moments)?;
    let path = folder.join(STATE);
    let json =
        serde_json::to_vec_pretty(state).map_err(|e| Error::Content { path: path.clone(), reason: e.to_string() })?;
    files::write_synced(&path, &json)?;
    Ok(files::sync_folder(folder)?)
}

fn write_tensors<'a>(path: &Path, tensors: impl Iterator<Item = (String, Vec<usize>, &'a [f32])>) -> Result<()> {
    let tensors = tensors.map(|(name, shape, values)| (name, Floats { shape, values }));
    match safetensors::serialize_to_file(tensors, None, path) {
        Ok(()) => {}
        Err(SafeTensorError::IoError(error)) => Err(error).at("write", path)?,
        Err(error) => return Err(Error::Content { path: path.into(), reason: error.to_string() }),
    }
    // The crate leaves it to the system when.
    Ok(File::open(path).and_then(|file| file.sync_all()).at("write", path)?)
}

/// Values as they lie in memory; safetensors are little-endian.
struct Floats<'a> {
    shape: Vec<usize>,
    values: &'a [f32],
}

impl View for Floats<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        if cfg!(target_endian = "little") {
            return bytemuck::cast_slice(self.values).into();
        }
        self.values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }
    fn data_len(&self) -> usize {
        size_of_val(self.values)
    }
}

/// Checkpoints of a run, oldest first.
pub(crate) fn list(run: &Path) -> Result<Vec<PathBuf>> {
    let folder = run.join("checkpoints");
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut all = Vec::new();
    for entry in fs::read_dir(&folder).at("read", &folder)? {
        let entry = entry.at("read", &folder)?;
        if entry.file_name().to_string_lossy().starts_with("step-") {
            all.push(entry.path());
        }
    }
    all.sort();
    Ok(all)
}

/// Reads `state.json`.
pub(crate) fn read_state(checkpoint: &Path) -> Result<State> {
    let path = checkpoint.join(STATE);
    let text = fs::read(&path).at("read", &path)?;
    serde_json::from_slice(&text).map_err(|error| Error::Content { path, reason: error.to_string() })
}

/// Puts a trainer where the checkpoint was.
pub(crate) fn restore(checkpoint: &Path, state: &State, trainer: &mut Trainer) -> Result<()> {
    let weights = load_weights(&checkpoint.join(WEIGHTS), trainer.parameters())?;
    let path = checkpoint.join(OPTIMIZER);
    let bytes = fs::read(&path).at("read", &path)?;
    let content = |reason: String| Error::Content { path: path.clone(), reason };
    let stored = SafeTensors::deserialize(&bytes).map_err(|error| content(error.to_string()))?;
    let read = |name: String| {
        let view = stored.tensor(&name).map_err(|error| content(format!("{name}: {error}")))?;
        if view.dtype() != Dtype::F32 {
            return Err(content(format!("{name} has dtype {:?}, expected F32", view.dtype())));
        }
        Ok(view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect::<Vec<f32>>())
    };
    trainer.optimiser_mut().restore(&path, state.step, &weights, |name| {
        Ok(Moments { first: read(format!("first.{name}"))?, second: read(format!("second.{name}"))? })
    })?;
    trainer.restore(state.position, state.counters)
}

/// Sets variables to the tensors of a file, which must have them all in f32, of the same shapes, and no others. Returns
/// the tensors, on the host, in the order of the parameters.
pub(crate) fn load_weights(path: &Path, parameters: &mom_models::Parameters) -> Result<Vec<Tensor>> {
    let content = |reason: String| Error::Content { path: path.into(), reason };
    let bytes = fs::read(path).at("read", path)?;
    let mut stored: HashMap<String, Tensor> =
        candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).map_err(|error| content(error.to_string()))?;
    let mut values = Vec::new();
    for (name, variable) in parameters.iter() {
        let tensor = stored.remove(name).ok_or_else(|| content(format!("{name} is missing")))?;
        if tensor.dims() != variable.dims() || tensor.dtype() != DType::F32 {
            return Err(content(format!(
                "{name} is {:?} {:?}, expected F32 {:?}",
                tensor.dtype(),
                tensor.dims(),
                variable.dims()
            )));
        }
        if !crate::adamw::squares(&tensor)?.is_finite() {
            return Err(content(format!("{name} holds values that are not finite")));
        }
        values.push((variable, tensor));
    }
    if let Some(name) = stored.keys().min() {
        return Err(content(format!("{name} belongs to no parameter of this model")));
    }
    values
        .into_iter()
        .map(|(variable, tensor)| {
            variable.set(&tensor.to_dtype(variable.dtype())?.to_device(variable.device())?)?;
            Ok(tensor)
        })
        .collect()
}
