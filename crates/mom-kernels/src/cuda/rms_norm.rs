//! RMS norm of rows on the GPU, with the residual's sum in front if asked for; meaning as [`crate::rms_norm`].
//!
//! `sum = x + residual`, `y = sum / rms(sum) * w`: one pass instead of two. **Saved for backward:** the sum (or x).

use std::mem::offset_of;

use cudarc::driver::DeviceRepr;

use super::DeviceOffsets;
use super::column_sums::{self, column_sums};
use crate::cuda::runtime::{
    DeviceElement, DeviceMut, DeviceRef, DeviceRows, DeviceRowsMut, Dtype, Gpu, Grid, Result, blocks,
};
use crate::error::expect_size;

const OP: &str = "rms_norm";

/// As in kernels/rms_norm: elements of a vector, warps of a block, rows of a block of the backward pass where rows are
/// not held, vectors of a lane where they are.
const VECTOR: usize = 8;
const WARPS: u32 = 8;
const CHUNK: usize = 16;
const MAX_VECTORS: usize = 3;

/// Most blocks of a backward pass that holds rows, each with a partial sum of the weight's gradient.
const MAX_BLOCKS: usize = 1024;

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
    let held = Held::of(width, aligned);
    let params = RawForward {
        x: x.address(gpu)?,
        residual: residual.as_ref().map_or(Ok(0), |parts| parts.residual.address(gpu))?,
        weight: weight.address(gpu)?,
        y: y.address(gpu)?,
        sum: residual.as_ref().map_or(Ok(0), |parts| parts.sum.address(gpu))?,
        x_stride: x.stride_bytes(),
        residual_stride: residual.as_ref().map_or(0, |parts| parts.residual.stride_bytes()),
        y_stride: y.stride_bytes(),
        sum_stride: residual.as_ref().map_or(0, |parts| parts.sum.stride_bytes()),
        n_rows: blocks(OP, "n_rows", n_rows, 1)?,
        width: width as u32,
        eps,
        team: held.map_or(1, |held| held.team),
    };
    let (kernel, n_blocks) = match held {
        Some(held) => (held.kernel::<T>("forward"), held.blocks::<T>(gpu, n_rows, [4, 3])),
        None => (format!("rms_norm_forward_{}", T::DTYPE.name()), blocks(OP, "n_rows", n_rows, WARPS as usize)?),
    };
    // SAFETY: the checks have bound every matrix to n_rows and width; a warp or a team of them owns a row, outputs are
    // borrowed exclusively. Where rows are held, every vector of a row is aligned and none goes beyond it.
    unsafe { gpu.launch(&kernel, Grid::line(n_blocks, WARPS * 32), &params) }
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
    let held = n_rows.min(MAX_BLOCKS) * width;
    held.max(n_chunks * width + column_sums::workspace_len(n_chunks, 1, width))
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

/// How rows are held in registers: by a team of warps each, some vectors a lane.
#[derive(Debug, Clone, Copy)]
struct Held {
    team: u32,
    vectors: usize,
}

impl Held {
    /// For rows of `width` elements, where they consist of aligned vectors and a block has enough lanes.
    fn of(width: usize, aligned: bool) -> Option<Self> {
        let n = width.div_ceil(VECTOR);
        let lanes = |team: u32| team as usize * 32;
        let team = [1, 2, 4, 8].into_iter().find(|&team| n <= MAX_VECTORS * lanes(team)).filter(|_| aligned)?;
        Some(Self { team, vectors: n.div_ceil(lanes(team)).max(2) })
    }

    fn kernel<T: DeviceElement>(self, direction: &str) -> String {
        format!("rms_norm_{direction}_held_{}_{}", T::DTYPE.name(), self.vectors)
    }

    /// Blocks that stay for all rows. A multiprocessor holds so many of 2 and of 3 vectors a lane, and of f32 one less.
    fn blocks<T: DeviceElement>(self, gpu: &Gpu, n_rows: usize, held: [u32; 2]) -> u32 {
        let held = held[self.vectors - 2] - u32::from(T::DTYPE == Dtype::F32);
        let rows = (WARPS / self.team) as usize;
        n_rows.div_ceil(rows).min(MAX_BLOCKS).min((gpu.n_multiprocessors() * held) as usize) as u32
    }
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
    team: u32,
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
    team: u32,
}
const _: () = {
    assert!(size_of::<RawBackward>() == 80 && offset_of!(RawBackward, partial) == 40);
    assert!(offset_of!(RawBackward, eps) == 72);
};

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct RawWeight {
    partial: u64,
    grad_weight: u64,
    n_partial: u32,
    width: u32,
}
const _: () = assert!(size_of::<RawWeight>() == 24 && offset_of!(RawWeight, n_partial) == 16);

// SAFETY: a plain struct of numbers in C layout; the addresses in it are device addresses.
unsafe impl DeviceRepr for RawForward {}
// SAFETY: as above.
unsafe impl DeviceRepr for RawBackward {}
// SAFETY: as above.
unsafe impl DeviceRepr for RawWeight {}
