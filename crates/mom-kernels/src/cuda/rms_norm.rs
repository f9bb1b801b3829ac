//! RMS norm of rows on the GPU, with the residual's sum in front if asked for; meaning as [`crate::rms_norm`].
//!
//! `sum = x + residual`, `y = sum / rms(sum) * w`: one pass instead of two. **Saved for backward:** the sum (or x).

use std::mem::offset_of;

use cudarc::driver::DeviceRepr;

use super::column_sums::{self, column_sums};
use super::error::Result;
use super::launch::{Grid, blocks};
use super::memory::{DeviceElement, DeviceMut, DeviceRef, DeviceRows, DeviceRowsMut};
use super::{DeviceOffsets, Gpu, Module};
use crate::error::expect_size;

const OP: &str = "rms_norm";

/// As in kernels/rms_norm: elements of a vector, warps of a block, rows of a block of the backward pass.
const VECTOR: usize = 8;
const WARPS: u32 = 8;
const CHUNK: usize = 16;

/// What is added to x before the norm, and where the sum goes.
#[derive(Debug)]
pub struct Residual<'a, T> {
    /// `(n_rows, d_model)`.
    pub residual: DeviceRows<'a, T>,
    /// `(n_rows, d_model)`: x + residual, rounded to the element type; what is normed.
    pub sum: DeviceRowsMut<'a, T>,
}

/// Normalises rows.
///
/// * `x`, `y`: `(n_rows, d_model)`; `weight`: `(d_model)`; `eps` is added to the mean square.
///
/// # Errors
/// Sizes that disagree, a refused launch.
pub fn forward<T: DeviceElement>(
    gpu: &Gpu,
    x: DeviceRows<'_, T>,
    residual: Option<Residual<'_, T>>,
    weight: DeviceRef<'_, f32>,
    eps: f32,
    y: DeviceRowsMut<'_, T>,
) -> Result<()> {
    let (n_rows, width) = (x.n_rows(), x.width());
    expect_size(OP, "weight", "elements", width, weight.len())?;
    y.expect(OP, "y", n_rows, width)?;
    if let Some(Residual { residual, sum }) = &residual {
        residual.expect(OP, "residual", n_rows, width)?;
        sum.expect(OP, "sum", n_rows, width)?;
    }
    let parts_aligned =
        residual.as_ref().is_none_or(|parts| parts.residual.is_aligned(VECTOR) && parts.sum.is_aligned(VECTOR));
    let aligned = width.is_multiple_of(VECTOR)
        && weight.is_aligned(4)
        && x.is_aligned(VECTOR)
        && y.is_aligned(VECTOR)
        && parts_aligned;
    let params = RawForward {
        x: x.address(gpu),
        residual: residual.as_ref().map_or(0, |parts| parts.residual.address(gpu)),
        weight: weight.address(gpu),
        y: y.address(gpu),
        sum: residual.as_ref().map_or(0, |parts| parts.sum.address(gpu)),
        x_stride: x.stride_bytes(),
        residual_stride: residual.as_ref().map_or(0, |parts| parts.residual.stride_bytes()),
        y_stride: y.stride_bytes(),
        sum_stride: residual.as_ref().map_or(0, |parts| parts.sum.stride_bytes()),
        n_rows: blocks(OP, "n_rows", n_rows, 1)?,
        width: width as u32,
        eps,
        unused: 0,
    };
    let grid = Grid::line(blocks(OP, "n_rows", n_rows, WARPS as usize)?, WARPS * 32);
    // SAFETY: the checks have bound every matrix to n_rows and width; a warp owns a row, outputs are borrowed exclusively.
    unsafe { gpu.launch(Module::RmsNorm, &name("forward", T::DTYPE.name(), aligned), grid, &params) }
}

/// Inputs of the backward pass.
#[derive(Debug, Clone)]
pub struct NormInputs<'a, T> {
    /// `(n_rows, d_model)`: what was normed, the sum where there was a residual.
    pub x: DeviceRows<'a, T>,
    /// `(d_model)`.
    pub weight: DeviceRef<'a, f32>,
    /// As in the forward pass.
    pub eps: f32,
    /// `(n_rows, d_model)`.
    pub grad_y: DeviceRows<'a, T>,
    /// `(n_rows, d_model)`: the gradient that reaches the sum past the norm, added to `grad_x`.
    pub grad_sum: Option<DeviceRows<'a, T>>,
}

/// Elements of the workspace of [`backward`].
pub fn backward_workspace_len(n_rows: usize, width: usize) -> usize {
    let n_chunks = n_rows.div_ceil(CHUNK);
    n_chunks * width + column_sums::workspace_len(n_chunks, 1, width)
}

/// Gradients of [`forward`]; `grad_x` (of x and of the residual alike) and `grad_weight` are overwritten.
///
/// `workspace`: [`backward_workspace_len`] elements, whose contents mean nothing before and after.
///
/// # Errors
/// Sizes that disagree, a refused launch.
pub fn backward<T: DeviceElement>(
    gpu: &Gpu,
    inputs: &NormInputs<'_, T>,
    grad_x: DeviceRowsMut<'_, T>,
    grad_weight: DeviceMut<'_, f32>,
    workspace: DeviceMut<'_, f32>,
) -> Result<()> {
    let NormInputs { x, weight, grad_y, grad_sum, .. } = inputs;
    let (n_rows, width) = (x.n_rows(), x.width());
    expect_size(OP, "weight", "elements", width, weight.len())?;
    expect_size(OP, "grad_weight", "elements", width, grad_weight.len())?;
    grad_y.expect(OP, "grad_y", n_rows, width)?;
    grad_x.expect(OP, "grad_x", n_rows, width)?;
    if let Some(grad_sum) = grad_sum {
        grad_sum.expect(OP, "grad_sum", n_rows, width)?;
    }
    expect_size(OP, "workspace", "elements", backward_workspace_len(n_rows, width), workspace.len())?;
    let n_chunks = n_rows.div_ceil(CHUNK);
    let (partial, rest) = workspace.split_at("workspace", n_chunks * width)?;
    let aligned = width.is_multiple_of(VECTOR)
        && weight.is_aligned(4)
        && x.is_aligned(VECTOR)
        && grad_y.is_aligned(VECTOR)
        && grad_x.is_aligned(VECTOR)
        && grad_sum.as_ref().is_none_or(|rows| rows.is_aligned(VECTOR));
    let params = RawBackward {
        x: x.address(gpu),
        grad_y: grad_y.address(gpu),
        grad_sum: grad_sum.as_ref().map_or(0, |rows| rows.address(gpu)),
        weight: weight.address(gpu),
        grad_x: grad_x.address(gpu),
        partial: partial.address(gpu),
        x_stride: x.stride_bytes(),
        grad_y_stride: grad_y.stride_bytes(),
        grad_sum_stride: grad_sum.as_ref().map_or(0, |rows| rows.stride_bytes()),
        grad_x_stride: grad_x.stride_bytes(),
        n_rows: blocks(OP, "n_rows", n_rows, 1)?,
        width: width as u32,
        eps: inputs.eps,
        unused: 0,
    };
    let grid = Grid::line(blocks(OP, "n_rows", n_rows, CHUNK)?, WARPS * 32);
    // SAFETY: the checks have bound every matrix to n_rows and width and the partials to a row of width a chunk; a block
    // owns a chunk of rows, outputs are borrowed exclusively.
    unsafe { gpu.launch(Module::RmsNorm, &name("backward", T::DTYPE.name(), aligned), grid, &params)? };
    let rows = DeviceRows::new("partial", partial.into_ref(), width)?;
    column_sums(gpu, &DeviceOffsets::single(n_chunks), &rows, grad_weight, rest)
}

fn name(direction: &str, dtype: &str, aligned: bool) -> String {
    format!("rms_norm_{direction}_{dtype}{}", if aligned { "_aligned" } else { "" })
}

// What the kernels take: kernels/rms_norm/params.h, field by field.

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct RawForward {
    x: u64,
    residual: u64,
    weight: u64,
    y: u64,
    sum: u64,
    x_stride: u32,
    residual_stride: u32,
    y_stride: u32,
    sum_stride: u32,
    n_rows: u32,
    width: u32,
    eps: f32,
    unused: u32,
}
const _: () = {
    assert!(size_of::<RawForward>() == 72 && offset_of!(RawForward, x_stride) == 40);
    assert!(offset_of!(RawForward, eps) == 64);
};

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct RawBackward {
    x: u64,
    grad_y: u64,
    grad_sum: u64,
    weight: u64,
    grad_x: u64,
    partial: u64,
    x_stride: u32,
    grad_y_stride: u32,
    grad_sum_stride: u32,
    grad_x_stride: u32,
    n_rows: u32,
    width: u32,
    eps: f32,
    unused: u32,
}
const _: () = {
    assert!(size_of::<RawBackward>() == 80 && offset_of!(RawBackward, partial) == 40);
    assert!(offset_of!(RawBackward, eps) == 72);
};

// SAFETY: a plain struct of numbers in C layout; the addresses in it are device addresses.
unsafe impl DeviceRepr for RawForward {}
// SAFETY: as above.
unsafe impl DeviceRepr for RawBackward {}
