//! The gradients of group norm.
//!
//! ```text
//! z = x_hat weight + bias,  dz = dy activation'(z)
//! dbias = sum dz,  dweight = sum dz x_hat  (over pixels and pictures)
//! dx = (dz weight - mean(dz weight) - x_hat mean(dz weight x_hat)) / sqrt(variance + eps)  (means over a group's pixels and channels)
//! ```
//! **Saved for backward:** nothing; the moments are computed again.

use std::mem::offset_of;

use cudarc::driver::DeviceRepr;

use super::{Activation, Checked, GroupNorm, OP, THREADS, VECTOR_BYTES, chunks, workspace_len};
use crate::error::{Error, expect_size};
use crate::ops::column_sums::{self, column_sums};
use crate::ops::plan::cuda::DeviceOffsets;
use crate::runtime::{DeviceElement, DeviceMut, DeviceRows, DeviceRowsMut, Gpu, Grid, Result, blocks};

/// f32 elements of the workspace of [`backward`].
pub fn backward_workspace_len<T: DeviceElement>(
    batch: usize,
    n_rows: usize,
    n_channels: usize,
    n_groups: usize,
) -> usize {
    parts::<T>(batch, n_rows, n_channels, n_groups).into_iter().sum()
}

/// Of the moments, of chunks' sums, of pictures' sums, of groups' means, of the sum over pictures.
fn parts<T: DeviceElement>(batch: usize, n_rows: usize, n_channels: usize, n_groups: usize) -> [usize; 5] {
    let (_, n_chunks) = chunks::<T>(n_rows, n_channels);
    [
        workspace_len::<T>(batch, n_rows, n_channels, n_groups),
        2 * batch * n_chunks * n_channels,
        2 * batch * n_channels,
        2 * batch * n_groups,
        column_sums::workspace_len(batch, 1, 2 * n_channels),
    ]
}

/// The gradients of [`group_norm`](super::group_norm)'s input and parameters; its moments are computed again.
///
/// * `x`, `grad_y`: `(batch * n_rows, n_channels)`, dense, rows of 16 bytes; `grad_x`: the same, overwritten.
/// * `grads`: `(2, n_channels)`, overwritten: of the bias, then of the weight, summed over pixels and pictures in f32.
/// * `workspace`: [`backward_workspace_len`] elements, whose contents mean nothing before and after.
///
/// # Errors
/// As [`group_norm`](super::group_norm); an activation other than none and SiLU.
pub fn backward<T: DeviceElement>(
    gpu: &Gpu,
    x: &DeviceRows<'_, T>,
    grad_y: &DeviceRows<'_, T>,
    norm: &GroupNorm<'_>,
    grad_x: DeviceRowsMut<'_, T>,
    mut grads: DeviceMut<'_, f32>,
    workspace: DeviceMut<'_, f32>,
) -> Result<()> {
    let Checked { n_rows, n_channels, batch, n_groups } = norm.check(x, "grad_x", &grad_x)?;
    let vector = VECTOR_BYTES / size_of::<T>();
    grad_y.expect(OP, "grad_y", x.n_rows(), n_channels)?;
    expect_size(OP, "grad_y", "elements from a row to the next", n_channels, grad_y.stride())?;
    expect_size(OP, "grad_y", "rows off 16 bytes", 0, usize::from(!grad_y.is_aligned(vector)))?;
    expect_size(OP, "grads", "elements", 2 * n_channels, grads.len())?;
    if norm.activation == Activation::Gelu {
        let (max, got) = (Activation::Silu as usize, norm.activation as usize);
        return Err(Error::Limit { op: OP, arg: "activation", min: 0, max, got }.into());
    }
    let expected = backward_workspace_len::<T>(batch, n_rows, n_channels, n_groups);
    expect_size(OP, "workspace", "elements", expected, workspace.len())?;
    if n_rows == 0 {
        return gpu.zero(&mut grads);
    }
    let [of_moments, of_chunks, of_pictures, of_means, of_sums] = parts::<T>(batch, n_rows, n_channels, n_groups);
    let (moments, rest) = workspace.split_at("workspace", of_moments)?;
    let (partial, rest) = rest.split_at("workspace", of_chunks)?;
    let (sums, rest) = rest.split_at("workspace", of_pictures)?;
    let (means, rest) = rest.split_at("workspace", of_means)?;
    let of_x = norm.raw(gpu, x, 0, &moments)?;
    of_x.moments::<T>(gpu)?;
    let params = RawBackward {
        x: of_x.x,
        grad_y: grad_y.address(gpu)?,
        grad_x: grad_x.address(gpu)?,
        weight: of_x.weight,
        bias: of_x.bias,
        statistics: of_x.statistics,
        partial: partial.address(gpu)?,
        sums: sums.address(gpu)?,
        means: means.address(gpu)?,
        n_rows: of_x.n_rows,
        n_channels: of_x.n_channels,
        n_groups: of_x.n_groups,
        rows_per_chunk: of_x.rows_per_chunk,
        n_chunks: of_x.n_chunks,
        activation: of_x.activation,
        batch: of_x.batch,
    };
    let of_chunks = of_x.of_chunks();
    let of_pictures = Grid::line(blocks(OP, "batch", batch, 1)?, THREADS as u32);
    let dtype = T::DTYPE.name();
    // SAFETY: x, grad_y and grad_x have n_rows pixels of n_channels for each picture, in rows of whole vectors of 16 bytes, weight and
    // bias n_channels, no more than a block's shared memory holds (`GroupNorm::check`); a block reads and writes the pixels of its chunk.
    // Sums of each chunk and picture, and means of each group, lie in parts of the workspace, whose size was checked above, and which
    // is borrowed exclusively, as grad_x is.
    unsafe {
        gpu.launch(&format!("group_norm_backward_sums_{dtype}"), of_chunks, &params)?;
        gpu.launch("group_norm_backward_means", of_pictures, &params)?;
        gpu.launch(&format!("group_norm_backward_apply_{dtype}"), of_chunks, &params)?;
    }
    let of_batch = DeviceRows::new("workspace", sums.into_ref(), 2 * n_channels)?;
    column_sums(gpu, &DeviceOffsets::single(batch), &of_batch, grads, rest.first("workspace", of_sums)?)
}

// What the kernels take: kernels/group_norm/params.h, field by field.

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct RawBackward {
    x: u64,
    grad_y: u64,
    grad_x: u64,
    weight: u64,
    bias: u64,
    statistics: u64,
    partial: u64,
    sums: u64,
    means: u64,
    n_rows: u64,
    n_channels: u32,
    n_groups: u32,
    rows_per_chunk: u32,
    n_chunks: u32,
    activation: u32,
    batch: u32,
}
const _: () = {
    assert!(size_of::<RawBackward>() == 104 && offset_of!(RawBackward, n_rows) == 72);
    assert!(offset_of!(RawBackward, activation) == 96);
};
// SAFETY: a plain struct of numbers in C layout; the addresses in it are device addresses.
unsafe impl DeviceRepr for RawBackward {}
