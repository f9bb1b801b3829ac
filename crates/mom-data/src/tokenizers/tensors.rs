//! Named f32 tensors in a safetensors file.

use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::error::IoContext;
use crate::{DataError, Result, files};

/// Saves tensors given as (name, shape, values).
pub(super) fn save(path: &Path, tensors: &[(&str, &[usize], &[f32])]) -> Result<()> {
    let failed = |reason: String| DataError::Codebook { path: path.to_path_buf(), reason };
    let bytes: Vec<Vec<u8>> =
        tensors.iter().map(|(_, _, values)| values.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
    let mut views = Vec::new();
    for ((name, shape, _), bytes) in tensors.iter().zip(&bytes) {
        let view = TensorView::new(Dtype::F32, shape.to_vec(), bytes).map_err(|e| failed(e.to_string()))?;
        views.push((*name, view));
    }
    let file = safetensors::serialize(views, None).map_err(|e| failed(e.to_string()))?;
    files::write_bytes(path, &file)
}

/// The bytes of a safetensors file.
pub(super) struct TensorFile {
    path: PathBuf,
    bytes: Vec<u8>,
}

/// Reads a file made by [`save`].
pub(super) fn load(path: &Path) -> Result<TensorFile> {
    Ok(TensorFile { path: path.to_path_buf(), bytes: std::fs::read(path).at("read", path)? })
}

impl TensorFile {
    /// Whether there is such a tensor.
    pub fn has(&self, name: &str) -> Result<bool> {
        let failed = |reason: String| DataError::Codebook { path: self.path.clone(), reason };
        let file = SafeTensors::deserialize(&self.bytes).map_err(|e| failed(e.to_string()))?;
        Ok(file.names().contains(&name))
    }

    /// The values of a tensor, which must be f32, finite and of the given shape.
    pub fn take(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let failed = |reason: String| DataError::Codebook { path: self.path.clone(), reason };
        let file = SafeTensors::deserialize(&self.bytes).map_err(|e| failed(e.to_string()))?;
        let view = file.tensor(name).map_err(|e| failed(e.to_string()))?;
        if view.dtype() != Dtype::F32 || view.shape() != shape {
            let got = format!("{:?} {:?}", view.dtype(), view.shape());
            return Err(failed(format!("tensor {name}: expected F32 {shape:?}, got {got}")));
        }
        let values: Vec<f32> = view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        if values.iter().all(|value| value.is_finite()) {
            Ok(values)
        } else {
            Err(failed(format!("tensor {name} holds NaN or infinity")))
        }
    }
}
