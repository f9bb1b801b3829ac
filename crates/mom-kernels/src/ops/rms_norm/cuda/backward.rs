//! Backward pass: the gradient of x by rows, that of the weight by partial sums.

use super::abi::{RawBackward, RawWeight};
use super::args::NormInputs;
use super::select::{CHUNK, Held, MAX_BLOCKS, VECTOR, WARPS};
use crate::error::expect_size;
use crate::ops::column_sums::{self, column_sums};
use crate::ops::plan::cuda::DeviceOffsets;
use crate::ops::rms_norm::params::{OP, validate_backward};
use crate::runtime::{DeviceElement, DeviceMut, DeviceRows, DeviceRowsMut, Gpu, Grid, Result, blocks};

/// Elements of the workspace of [`backward`].
pub fn backward_workspace_len(n_rows: usize, width: usize) -> usize {
    let n_chunks = n_rows.div_ceil(CHUNK);
    let held = n_rows.min(MAX_BLOCKS) * width;
    held.max(n_chunks * width + column_sums::workspace_len(n_chunks, 1, width))
}

/// Gradients of [`forward`](super::forward); `grad_x` (of x and of the residual alike) and `grad_weight` are overwritten.
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
    let (n_rows, width) = validate_backward((x, weight), grad_y, grad_sum.as_ref(), &grad_x, &grad_weight)?;
    expect_size(OP, "workspace", "elements", backward_workspace_len(n_rows, width), workspace.len())?;
    let aligned = width.is_multiple_of(VECTOR)
        && weight.is_aligned(4)
        && x.is_aligned(VECTOR)
        && grad_y.is_aligned(VECTOR)
        && grad_x.is_aligned(VECTOR)
        && grad_sum.as_ref().is_none_or(|rows| rows.is_aligned(VECTOR));
    let held = Held::of(width, aligned);
    let params = RawBackward {
        x: x.address(gpu)?,
        grad_y: grad_y.address(gpu)?,
        grad_sum: grad_sum.as_ref().map_or(Ok(0), |rows| rows.address(gpu))?,
        weight: weight.address(gpu)?,
        grad_x: grad_x.address(gpu)?,
        partial: workspace.address(gpu)?,
        x_stride: x.stride_bytes(),
        grad_y_stride: grad_y.stride_bytes(),
        grad_sum_stride: grad_sum.as_ref().map_or(0, |rows| rows.stride_bytes()),
        grad_x_stride: grad_x.stride_bytes(),
        n_rows: blocks(OP, "n_rows", n_rows, 1)?,
        width: width as u32,
        eps: inputs.eps,
        team: held.map_or(1, |held| held.team),
    };
    let Some(held) = held else {
        let n_chunks = n_rows.div_ceil(CHUNK);
        let grid = Grid::line(blocks(OP, "n_rows", n_rows, CHUNK)?, WARPS * 32);
        let kernel = format!("rms_norm_backward_{}", T::DTYPE.name());
        // SAFETY: the checks have bound every matrix to n_rows and width and the partials to a row of width a chunk; a
        // block owns a chunk of rows, outputs are borrowed exclusively.
        unsafe { gpu.launch(&kernel, grid, &params)? };
        let (partial, rest) = workspace.split_at("workspace", n_chunks * width)?;
        let (rest, _) = rest.split_at("workspace", column_sums::workspace_len(n_chunks, 1, width))?;
        let rows = DeviceRows::new("partial", partial.into_ref(), width)?;
        return column_sums(gpu, &DeviceOffsets::single(n_chunks), &rows, grad_weight, rest);
    };
    let n_blocks = held.blocks::<T>(gpu, n_rows, [3, 2]);
    // SAFETY: the checks have bound every matrix to n_rows and width, and the partials to a row of width for each of as
    // many blocks; a team of warps owns a row, outputs are borrowed exclusively. Every vector of a row is aligned and
    // none goes beyond it.
    unsafe {
        gpu.launch(&held.kernel::<T>("backward"), Grid::line(n_blocks, WARPS * 32), &params)?;
    }
    let params = RawWeight {
        partial: params.partial,
        grad_weight: grad_weight.address(gpu)?,
        n_partial: n_blocks,
        width: width as u32,
    };
    let grid = Grid { blocks: (blocks(OP, "width", width, 32)?, 1, 1), threads: (32, 32, 1) };
    // SAFETY: reads the partial sums of the first kernel's blocks, writes columns below width.
    unsafe { gpu.launch("rms_norm_weight", grid, &params) }
}
