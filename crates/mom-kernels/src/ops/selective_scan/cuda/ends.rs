//! What the chunks of a sequence leave for each other, before all of them are walked at once.

use super::abi::{RawChunks, RawInputs};
use super::select::{self, Assume, Chunks, THREADS};
use crate::error::expect_size;
use crate::ops::selective_scan::check::Dims;
use crate::ops::selective_scan::params::OP;
use crate::runtime::{DeviceElement, DeviceMut, DeviceRef, Gpu, Grid, Result, blocks};

/// Where a pass finds what the chunks of its sequences leave: [`Chunks::workspace_len`] elements on 16 bytes.
#[derive(Debug)]
pub(crate) enum Ends<'a> {
    /// Room for it: the pass computes it first.
    Room(DeviceMut<'a, f32>),
    /// As [`ends()`](super::ends()), or for a backward pass [`adjoint_ends`](super::adjoint_ends), left it in its workspace.
    Left(DeviceRef<'a, f32>),
}

impl Ends<'_> {
    pub(super) fn check(&self, dims: Dims, chunks: Chunks) -> Result<()> {
        let (arg, len) = match self {
            Self::Room(room) => ("workspace", room.len()),
            Self::Left(left) => ("ends", left.len()),
        };
        expect_size(OP, arg, "elements", chunks.workspace_len(dims), len)?;
        match self {
            _ if chunks.count == 1 => Ok(()),
            Self::Room(room) => room.expect_vectors(OP, arg),
            Self::Left(left) => left.expect_vectors(OP, arg),
        }
    }

    pub(super) fn is_room(&self) -> bool {
        matches!(self, Self::Room(_))
    }

    pub(super) fn address(&self, gpu: &Gpu) -> Result<u64> {
        match self {
            Self::Room(room) => room.address(gpu),
            Self::Left(left) => left.address(gpu),
        }
    }
}

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
