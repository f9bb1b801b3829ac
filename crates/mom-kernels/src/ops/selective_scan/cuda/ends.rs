//! What the chunks of a sequence leave for each other, before all of them are walked at once.

use super::abi::{RawChunks, RawInputs};
use super::select::{self, Assume, THREADS};
use crate::ops::selective_scan::check::Dims;
use crate::ops::selective_scan::params::OP;
use crate::runtime::{DeviceElement, Gpu, Grid, Result, blocks};

/// Which way the chunks' ends go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// States, to the chunks behind.
    Forward,
    /// Adjoints, to the chunks before: the gradient of y, its address and stride.
    Backward { grad_out: u64, grad_out_stride: u32 },
}

/// Which chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    /// All but the one from which nothing goes on.
    Followed,
    /// All: other ranks go on from the last one.
    All,
}

/// Computes the ends of chunks.
///
/// # Safety
/// `inputs` and `direction` hold what the scan's kernel of that direction may read, `inputs` the length of the `count`
/// chunks, more than one unless it is all of them. `workspace` is the address of their [`select::Chunks::workspace_len`] elements, which this may write, on
/// 16 bytes.
pub(super) unsafe fn ends<T: DeviceElement>(
    gpu: &Gpu,
    inputs: RawInputs,
    dims: Dims,
    count: usize,
    assume: Assume,
    (which, direction): (Which, Direction),
    workspace: u64,
) -> Result<()> {
    let left_out = usize::from(which == Which::Followed);
    let n_blocks = dims.batch * (count - left_out) * dims.d_inner.div_ceil(512 / dims.padded());
    let (way, grad_out, grad_out_stride) = match direction {
        Direction::Forward => ("forward", 0, 0),
        Direction::Backward { grad_out, grad_out_stride } => ("backward", grad_out, grad_out_stride),
    };
    let kernel = select::ends(T::DTYPE, way, dims, assume);
    let all = u32::from(which == Which::All);
    let params = RawChunks { inputs, grad_out, chunks: workspace, grad_out_stride, all };
    let grid = Grid::line(blocks(OP, "batch * chunks * d_inner", n_blocks, 1)?, THREADS);
    // SAFETY: by this function's own contract.
    unsafe { gpu.launch(&kernel, grid, &params) }
}
