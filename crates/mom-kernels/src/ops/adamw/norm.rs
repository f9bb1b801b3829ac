//! The global norm of gradients.

use super::abi::{MAX_GRADS, RawGrad, RawSquares, RawTotal};
use super::params::OP;
use crate::error::expect_size;
use crate::runtime::{DeviceElement, DeviceMut, DeviceRef, Gpu, Grid, Result, blocks};

/// As in kernels/adamw: threads and elements of a block.
const THREADS: u32 = 256;
const SQUARES_CHUNK: usize = 16_384;

/// Elements of the workspace of [`global_norm`], for gradients of these lengths.
pub fn global_norm_workspace_len(lens: impl IntoIterator<Item = usize>) -> usize {
    lens.into_iter().map(|len| len.div_ceil(SQUARES_CHUNK)).sum()
}

/// Sums of squares of gradients into `partial`, one for each 16,384 elements: the first half of [`global_norm`], for
/// gradients of several element types.
///
/// `partial`: [`global_norm_workspace_len`] of these gradients.
///
/// # Errors
/// Sizes that disagree, a refused launch.
pub fn squares<T: DeviceElement>(
    gpu: &Gpu,
    grads: &[DeviceRef<'_, T>],
    partial: &mut DeviceMut<'_, f32>,
) -> Result<()> {
    let len = global_norm_workspace_len(grads.iter().map(DeviceRef::len));
    expect_size(OP, "partial", "elements", len, partial.len())?;
    let mut at = 0;
    for grads in grads.chunks(MAX_GRADS) {
        let partial = partial.address(gpu)? + (at * size_of::<f32>()) as u64;
        let mut params =
            RawSquares { grads: [RawGrad::NONE; MAX_GRADS], partial, n_grads: grads.len() as u32, unused: 0 };
        let mut n_blocks = 0;
        for (raw, grad) in params.grads.iter_mut().zip(grads) {
            *raw = RawGrad { grad: grad.address(gpu)?, len: grad.len() as u64, first_block: n_blocks, unused: 0 };
            n_blocks += blocks(OP, "gradient", grad.len(), SQUARES_CHUNK)?;
        }
        at += n_blocks as usize;
        let kernel = format!("adamw_squares_{}", T::DTYPE.name());
        // SAFETY: a block reads 16,384 elements of a gradient, bounded by its length, and writes its partial, of which
        // there are as many as blocks.
        unsafe { gpu.launch(&kernel, Grid::line(n_blocks, THREADS), &params)? };
    }
    Ok(())
}

/// The norm of all gradients together, from their sums of squares.
///
/// # Errors
/// A refused launch.
pub fn norm_of_squares(gpu: &Gpu, partial: &DeviceRef<'_, f32>, norm: &mut DeviceMut<'_, f32>) -> Result<()> {
    expect_size(OP, "norm", "elements", 1, norm.len())?;
    let params = RawTotal { partial: partial.address(gpu)?, norm: norm.address(gpu)?, n: partial.len() as u64 };
    // SAFETY: one block reads the partials and writes one element.
    unsafe { gpu.launch("adamw_norm_total", Grid::line(1, THREADS), &params) }
}

/// The norm of all gradients together: `norm` is `(1)`.
///
/// `workspace`: [`global_norm_workspace_len`] elements, whose contents mean nothing before and after.
///
/// # Errors
/// Sizes that disagree, a refused launch.
pub fn global_norm<T: DeviceElement>(
    gpu: &Gpu,
    grads: &[DeviceRef<'_, T>],
    norm: &mut DeviceMut<'_, f32>,
    mut workspace: DeviceMut<'_, f32>,
) -> Result<()> {
    squares(gpu, grads, &mut workspace)?;
    norm_of_squares(gpu, &workspace.into_ref(), norm)
}
