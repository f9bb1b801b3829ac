//! The sum of squared errors, in an order that its size alone decides.

use super::abi::RawSquaredError;
use super::{OP, THREADS, grid, n_blocks};
use crate::error::expect_size;
use crate::runtime::{DeviceElement, DeviceMut, DeviceRef, Gpu, Grid, Result};

/// Elements of the workspace of [`squared_error`] over `n` elements.
///
/// # Errors
/// More elements than a launch takes.
pub fn squared_error_workspace_len(n: usize) -> Result<usize> {
    Ok(n_blocks(n)? as usize)
}

/// `error = scale sum (predicted - target)^2`, in f32.
///
/// * `predicted`, `target`: as many elements; `error`: `(1)`.
/// * `workspace`: [`squared_error_workspace_len`] elements, whose contents mean nothing before and after.
///
/// # Errors
/// Sizes that disagree, a refused launch.
pub fn squared_error<T: DeviceElement>(
    gpu: &Gpu,
    predicted: &DeviceRef<'_, T>,
    target: &DeviceRef<'_, f32>,
    scale: f32,
    error: &mut DeviceMut<'_, f32>,
    workspace: DeviceMut<'_, f32>,
) -> Result<()> {
    let n = predicted.len();
    expect_size(OP, "target", "elements", n, target.len())?;
    expect_size(OP, "error", "elements", 1, error.len())?;
    let n_partial = squared_error_workspace_len(n)?;
    expect_size(OP, "workspace", "elements", n_partial, workspace.len())?;
    let raw = RawSquaredError {
        predicted: predicted.address(gpu)?,
        target: target.address(gpu)?,
        partial: workspace.address(gpu)?,
        grad: 0,
        out: error.address(gpu)?,
        n: n as u64,
        n_partial: n_partial as u32,
        scale,
    };
    // SAFETY: predicted and target have n elements, and the workspace one for each block.
    unsafe { gpu.launch(&format!("elementwise_squared_error_{}", T::DTYPE.name()), grid(n)?, &raw)? };
    // SAFETY: reads what the blocks have written, and writes one element; without blocks it writes zero.
    unsafe { gpu.launch("elementwise_squared_error_total", Grid::line(1, THREADS), &raw) }
}

/// The gradient of [`squared_error`]: `grad_predicted = 2 scale grad (predicted - target)`.
///
/// * `grad`: `(1)`, that of the error.
///
/// # Errors
/// Sizes that disagree, a refused launch.
pub fn squared_error_backward<T: DeviceElement>(
    gpu: &Gpu,
    predicted: &DeviceRef<'_, T>,
    target: &DeviceRef<'_, f32>,
    scale: f32,
    grad: &DeviceRef<'_, f32>,
    grad_predicted: &mut DeviceMut<'_, T>,
) -> Result<()> {
    let n = predicted.len();
    expect_size(OP, "target", "elements", n, target.len())?;
    expect_size(OP, "grad", "elements", 1, grad.len())?;
    expect_size(OP, "grad_predicted", "elements", n, grad_predicted.len())?;
    let raw = RawSquaredError {
        predicted: predicted.address(gpu)?,
        target: target.address(gpu)?,
        partial: 0,
        grad: grad.address(gpu)?,
        out: grad_predicted.address(gpu)?,
        n: n as u64,
        n_partial: 0,
        scale,
    };
    // SAFETY: all three arrays have n elements, and grad one; what is written is borrowed exclusively.
    unsafe { gpu.launch(&format!("elementwise_squared_error_backward_{}", T::DTYPE.name()), grid(n)?, &raw) }
}
