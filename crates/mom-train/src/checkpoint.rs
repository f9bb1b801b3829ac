//! Checkpoints: everything that a run needs to go on as if it had not stopped.
//!
//! `checkpoints/step-00000500/` holds `weights.safetensors` (the published state-dict names), `optimizer.safetensors`
//! (`first.NAME`, `second.NAME`) and `state.json`. A checkpoint is written under a hidden name, synced, and renamed; what
//! stands under its final name is whole. Noise and data order are functions of the seed and the step, so no generator's
//! state need be kept beside them.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use mom_data::Position;
use safetensors::tensor::{Dtype, SafeTensors, View};
use serde::{Deserialize, Serialize};

use crate::adamw::Moments;
use crate::files::{self, At};
use crate::metrics::Lengths;
use crate::optimiser::Stored;
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

/// Writes the checkpoint of a trainer and removes all but the newest `keep`.
pub(crate) fn save(run: &Path, trainer: &Trainer, state: &State, keep: usize) -> Result<PathBuf> {
    let folder = run.join("checkpoints");
    files::create_folder(&folder)?;
    let name = format!("step-{:08}", state.step);
    let (path, partial) = (folder.join(&name), folder.join(format!(".{name}.partial")));
    let written = write(&partial, trainer, state).and_then(|()| {
        // A checkpoint of this step may stand there from before a resume to an older one.
        if path.exists() {
            fs::remove_dir_all(&path).at("remove", &path)?;
        }
        Ok(fs::rename(&partial, &path).at("rename", &path)?)
    });
    if let Err(error) = written {
        // The first failure is the one to report; what is left is removed by the next checkpoint of this step.
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

fn write(partial: &Path, trainer: &Trainer, state: &State) -> Result<()> {
    if partial.exists() {
        fs::remove_dir_all(partial).at("remove", partial)?;
    }
    files::create_folder(partial)?;
    let mut weights = Vec::new();
    for stored in trainer.optimiser().weights(trainer.parameters()) {
        let Stored { name, shape, weights: values } = stored?;
        weights.push((name.to_owned(), Floats { shape: shape.to_vec(), bytes: bytes(&values).into_owned().into() }));
    }
    write_tensors(&partial.join(WEIGHTS), weights)?;
    let mut moments = Vec::new();
    for stored in trainer.optimiser().moments() {
        let (name, stored) = stored?;
        for (kind, values) in [("first", &stored.first), ("second", &stored.second)] {
            let floats = Floats { shape: vec![values.len()], bytes: bytes(values).into_owned().into() };
            moments.push((format!("{kind}.{name}"), floats));
        }
    }
    write_tensors(&partial.join(OPTIMIZER), moments)?;
    let path = partial.join(STATE);
    let json =
        serde_json::to_vec_pretty(state).map_err(|e| Error::Content { path: path.clone(), reason: e.to_string() })?;
    Ok(files::write_synced(&path, &json)?)
}

fn write_tensors(path: &Path, tensors: Vec<(String, Floats<'_>)>) -> Result<()> {
    let serialized = safetensors::serialize(tensors, None);
    let serialized = serialized.map_err(|error| Error::Content { path: path.into(), reason: error.to_string() })?;
    Ok(files::write_synced(path, &serialized)?)
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

/// Little-endian values, as safetensors has them.
fn bytes(values: &[f32]) -> Cow<'_, [u8]> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into()
}

struct Floats<'a> {
    shape: Vec<usize>,
    bytes: Cow<'a, [u8]>,
}

impl View for Floats<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }
    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}
