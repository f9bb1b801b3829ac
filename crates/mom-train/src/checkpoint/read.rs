//! Reading checkpoints: the newest that is whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor, Var};
use mom_models::Parameters;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::arrays::Arrays;
use super::kind::Kind;
use super::sealed::{Broken, Check, Sealed};
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

/// A whole checkpoint; nothing of it is in a model yet, and its arrays are read when they are asked for.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub path: PathBuf,
    pub state: State,
    arrays: Arrays,
}

/// Finds the newest whole checkpoint; `None` where there is none at all.
///
/// # Errors
/// [`Error::Damaged`] where there are some and none is whole; a file that the system does not let be read.
pub(crate) fn newest(run: &Path, check: Check) -> Result<Option<Newest>> {
    loop {
        let all = list(run)?;
        let mut damaged = Vec::new();
        for named in all.iter().rev() {
            match Loaded::read(&named.path, check) {
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
        Self::read(path, Check::Sums).map_err(|broken| match broken {
            Broken::Damaged(what) => Error::Damaged { checkpoints: vec![(path.to_path_buf(), what)] },
            Broken::File(error) => error.into(),
        })
    }

    fn read(path: &Path, check: Check) -> Result<Self, Broken> {
        let sealed = Sealed::open(path)?;
        let state = sealed.read(STATE)?;
        let state = serde_json::from_slice(&state)
            .map_err(|error| Broken::Damaged(format!("{STATE} is of another version: {error}")))?;
        Ok(Self { path: path.into(), state, arrays: Arrays::open(path, &sealed, check)? })
    }

    /// The weights, as a safetensors file holds them.
    ///
    /// # Errors
    /// A file that the system does not let be read.
    pub fn weights(&self) -> Result<Vec<u8>> {
        self.arrays.file(Kind::Weights)
    }

    /// The same of the average of the weights, if there was one.
    ///
    /// # Errors
    /// As [`Self::weights`].
    pub fn ema(&self) -> Result<Option<Vec<u8>>> {
        self.arrays.has(Kind::Ema).then(|| self.arrays.file(Kind::Ema)).transpose()
    }

    /// Puts a trainer where the checkpoint was.
    ///
    /// # Errors
    /// Tensors of another model, named.
    pub fn restore(&self, trainer: &mut Trainer) -> Result<()> {
        let parameters = trainer.parameters();
        let weights = self.tensors(Kind::Weights, WEIGHTS, parameters)?;
        set(parameters, &weights)?;
        let path = self.path.join(OPTIMIZER);
        let content = |reason: String| Error::Content { path: path.clone(), reason };
        let read = |kind: Kind, name: &str| {
            let array = self.arrays.of(kind).get(name);
            let array = array.ok_or_else(|| content(format!("{}.{name} is missing", kind.name())))?;
            if array.dtype != Dtype::F32 {
                return Err(content(format!("{}.{name} has dtype {:?}, expected F32", kind.name(), array.dtype)));
            }
            self.arrays.values(array)
        };
        trainer.restore_optimiser(&path, self.state.step, &weights, |name| {
            Ok(Moments { first: read(Kind::First, name)?, second: read(Kind::Second, name)? })
        })?;
        let has_ema = self.arrays.has(Kind::Ema);
        let averages = has_ema.then(|| self.tensors(Kind::Ema, EMA, trainer.parameters())).transpose()?;
        trainer.restart_average(averages.as_deref())?;
        trainer.restore(self.state.position, self.state.counters, self.state.norms.clone())
    }

    /// The tensors of a kind, as [`set_weights`] wants them.
    fn tensors(&self, kind: Kind, file: &str, parameters: &Parameters) -> Result<Vec<Tensor>> {
        let arrays = self.arrays.of(kind);
        let stored = arrays.iter().map(|(name, array)| (name.as_str(), (array.dtype, &array.shape[..])));
        let read = |name: &str| arrays.get(name).map_or_else(|| Ok(Vec::new()), |array| self.arrays.values(array));
        of_parameters(&self.path.join(file), parameters, &stored.collect(), read)
    }
}

/// Sets variables to the tensors of a file, which must have them all in f32, of the same shapes, and no others.
///
/// # Errors
/// A tensor that is missing, superfluous, of another shape or element type, or not finite; none is set then.
pub(crate) fn set_weights(path: &Path, bytes: &[u8], parameters: &Parameters) -> Result<()> {
    let content = |reason: String| Error::Content { path: path.into(), reason };
    let file = SafeTensors::deserialize(bytes).map_err(|error| content(error.to_string()))?;
    let views: BTreeMap<&str, TensorView<'_>> = file.iter().collect();
    let stored = views.iter().map(|(&name, view)| (name, (view.dtype(), view.shape())));
    let tensors = of_parameters(path, parameters, &stored.collect(), |name| {
        let data = views.get(name).map_or(&[][..], |view| view.data());
        Ok(data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    })?;
    set(parameters, &tensors)
}

fn set(parameters: &Parameters, tensors: &[Tensor]) -> Result<()> {
    for ((_, variable), tensor) in parameters.iter().zip(tensors) {
        variable.set(&tensor.to_dtype(variable.dtype())?.to_device(variable.device())?)?;
    }
    Ok(())
}

/// Tensors on the host, in the order of the parameters, of a file that must have them as [`set_weights`] says.
fn of_parameters(
    path: &Path,
    parameters: &Parameters,
    stored: &BTreeMap<&str, (Dtype, &[usize])>,
    read: impl Fn(&str) -> Result<Vec<f32>>,
) -> Result<Vec<Tensor>> {
    let content = |reason: String| Error::Content { path: path.into(), reason };
    for (name, variable) in parameters.iter() {
        let (dtype, shape) = stored.get(name).ok_or_else(|| content(format!("{name} is missing")))?;
        if *shape != variable.dims() || *dtype != Dtype::F32 {
            let expected = variable.dims();
            return Err(content(format!("{name} is {dtype:?} {shape:?}, expected F32 {expected:?}")));
        }
    }
    let known: BTreeSet<&str> = parameters.iter().map(|(name, _)| name).collect();
    if let Some(name) = stored.keys().find(|&name| !known.contains(name)) {
        return Err(content(format!("{name} belongs to no parameter of this model")));
    }
    let tensor = |(name, variable): (&str, &Var)| {
        let tensor = Tensor::from_vec(read(name)?, variable.dims(), &Device::Cpu)?;
        if !squares(&tensor)?.is_finite() {
            return Err(content(format!("{name} holds values that are not finite")));
        }
        Ok(tensor)
    };
    parameters.iter().map(tensor).collect()
}
