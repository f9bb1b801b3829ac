//! Reading checkpoints: the newest that is whole.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use safetensors::tensor::{Dtype, SafeTensors};

use super::sealed::{Broken, Sealed};
use super::shares::{self, RANKS, Whole};
use super::{EMA, OPTIMIZER, STATE, State, WEIGHTS, list};
use crate::files::At;
use crate::optim::{Moments, squares};
use crate::{Error, Result, Trainer};

/// The newest checkpoint of a run that is whole.
#[derive(Debug)]
pub(crate) struct Newest {
    pub loaded: Loaded,
    /// Newer ones, and what is wrong with them.
    pub damaged: Vec<(PathBuf, String)>,
}

/// What a whole checkpoint holds; nothing of it is in a model yet.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub path: PathBuf,
    pub state: State,
    pub weights: Vec<u8>,
    /// The average of the weights, if there was one.
    pub ema: Option<Vec<u8>>,
    optimizer: Vec<u8>,
}

/// Reads the newest whole checkpoint; `None` where there is none at all.
///
/// # Errors
/// [`Error::Damaged`] where there are some and none is whole; a file that the system does not let be read.
pub(crate) fn newest(run: &Path) -> Result<Option<Newest>> {
    loop {
        let all = list(run)?;
        let mut damaged = Vec::new();
        for named in all.iter().rev() {
            match Loaded::read(&named.path) {
                Ok(loaded) => return Ok(Some(Newest { loaded, damaged })),
                Err(Broken::Damaged(what)) => damaged.push((named.path.clone(), what)),
                Err(Broken::File(error)) => return Err(error.into()),
            }
        }
        if damaged.is_empty() {
            return Ok(None);
        }
        // A run in progress may have removed one while it was read, and has a newer one then.
        if list(run)? == all {
            return Err(Error::Damaged { checkpoints: damaged });
        }
    }
}

impl Newest {
    /// Moves the damaged ones out of the way: the run writes those steps again. Returns where they are now.
    ///
    /// # Errors
    /// A folder that cannot be renamed.
    pub fn set_aside(&self) -> Result<Vec<(PathBuf, String)>> {
        let mut moved = Vec::new();
        for (path, what) in &self.damaged {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let free = |to: &PathBuf| !to.exists();
            let to = (1..).map(|i| path.with_file_name(format!("{name}.damaged-{i}"))).find(free);
            let to = to.unwrap_or_else(|| path.clone());
            fs::rename(path, &to).at("rename", path)?;
            moved.push((to, what.clone()));
        }
        Ok(moved)
    }
}

impl Loaded {
    /// Reads this checkpoint and no other.
    ///
    /// # Errors
    /// [`Error::Damaged`]; a file that the system does not let be read.
    pub fn open(path: &Path) -> Result<Self> {
        Self::read(path).map_err(|broken| match broken {
            Broken::Damaged(what) => Error::Damaged { checkpoints: vec![(path.to_path_buf(), what)] },
            Broken::File(error) => error.into(),
        })
    }

    fn read(path: &Path) -> Result<Self, Broken> {
        let sealed = Sealed::open(path)?;
        let state = sealed.read(STATE)?;
        let state = serde_json::from_slice(&state)
            .map_err(|error| Broken::Damaged(format!("{STATE} is of another version: {error}")))?;
        if sealed.has(RANKS) {
            let Whole { weights, optimizer, ema } = shares::read(&sealed)?;
            return Ok(Self { path: path.into(), state, weights, ema, optimizer });
        }
        let (weights, optimizer) = (sealed.read(WEIGHTS)?, sealed.read(OPTIMIZER)?);
        let ema = if sealed.has(EMA) { Some(sealed.read(EMA)?) } else { None };
        Ok(Self { path: path.into(), state, weights, ema, optimizer })
    }

    /// Puts a trainer where the checkpoint was.
    ///
    /// # Errors
    /// Tensors of another model, named.
    pub fn restore(&self, trainer: &mut Trainer) -> Result<()> {
        let weights = self.set_weights(trainer.parameters())?;
        let path = self.path.join(OPTIMIZER);
        let content = |reason: String| Error::Content { path: path.clone(), reason };
        let stored = SafeTensors::deserialize(&self.optimizer).map_err(|error| content(error.to_string()))?;
        let read = |name: String| {
            let view = stored.tensor(&name).map_err(|error| content(format!("{name}: {error}")))?;
            if view.dtype() != Dtype::F32 {
                return Err(content(format!("{name} has dtype {:?}, expected F32", view.dtype())));
            }
            Ok(view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect::<Vec<f32>>())
        };
        trainer.restore_optimiser(&path, self.state.step, &weights, |name| {
            Ok(Moments { first: read(format!("first.{name}"))?, second: read(format!("second.{name}"))? })
        })?;
        let averages = self.ema.as_ref().map(|bytes| tensors(&self.path.join(EMA), bytes, trainer.parameters()));
        trainer.restart_average(averages.transpose()?.as_deref())?;
        trainer.restore(self.state.position, self.state.counters, self.state.norms.clone())
    }

    /// Sets a model's variables to the weights, see [`set_weights`].
    ///
    /// # Errors
    /// As there.
    pub fn set_weights(&self, parameters: &mom_models::Parameters) -> Result<Vec<Tensor>> {
        set_weights(&self.path.join(WEIGHTS), &self.weights, parameters)
    }
}

/// Sets variables to the tensors of a file, which must have them all in f32, of the same shapes, and no others. Returns
/// the tensors, on the host, in the order of the parameters.
///
/// # Errors
/// A tensor that is missing, superfluous, of another shape or element type, or not finite; none is set then.
pub(crate) fn set_weights(path: &Path, bytes: &[u8], parameters: &mom_models::Parameters) -> Result<Vec<Tensor>> {
    let tensors = tensors(path, bytes, parameters)?;
    for ((_, variable), tensor) in parameters.iter().zip(&tensors) {
        variable.set(&tensor.to_dtype(variable.dtype())?.to_device(variable.device())?)?;
    }
    Ok(tensors)
}

/// The tensors of a file, as [`set_weights`] wants them.
fn tensors(path: &Path, bytes: &[u8], parameters: &mom_models::Parameters) -> Result<Vec<Tensor>> {
    let content = |reason: String| Error::Content { path: path.into(), reason };
    let mut stored: HashMap<String, Tensor> =
        candle_core::safetensors::load_buffer(bytes, &Device::Cpu).map_err(|error| content(error.to_string()))?;
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
        if !squares(&tensor)?.is_finite() {
            return Err(content(format!("{name} holds values that are not finite")));
        }
        values.push(tensor);
    }
    if let Some(name) = stored.keys().min() {
        return Err(content(format!("{name} belongs to no parameter of this model")));
    }
    Ok(values)
}
