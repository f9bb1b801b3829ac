//! What a chunk of sequences leaves for chunks that are elsewhere: as [`ends`](crate::selective_scan::ends) on the host.

use std::ops::Range;

use super::abi::RawFold;
use super::args::ScanInputs;
use super::dims::padded_states;
use super::ends::{self, Direction, Which};
use super::select::{CHANNELS, Chunks};
use crate::error::{Error, expect_presence, expect_size};
use crate::ops::selective_scan::check::Dims;
use crate::ops::selective_scan::params::OP;
use crate::runtime::{DeviceElement, DeviceMut, DeviceRef, DeviceRows, Gpu, Grid, Result, blocks};

const THREADS: u32 = 256;

/// Sizes of what a chunk leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Sequences.
    pub batch: usize,
    /// Channels.
    pub d_inner: usize,
    /// States of a channel.
    pub d_state: usize,
}

impl Chunk {
    /// Elements of its decays, or of its ends.
    fn half(self) -> usize {
        self.batch * self.d_inner * padded_states(self.d_state)
    }
}

/// In which order [`carry`] goes through chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// As time runs.
    FirstFirst,
    /// Against it.
    LastFirst,
}

/// Elements of what a chunk leaves: `(2, batch, d_inner, d_state padded to 16, 32 or 64)`, decays, then ends.
pub fn ends_len(of: Chunk) -> usize {
    2 * of.half()
}

/// Elements of the workspace of [`ends()`] and [`adjoint_ends`].
pub fn ends_workspace_len(of: Chunk, seqlen: usize) -> usize {
    let Chunk { batch, d_inner, d_state } = of;
    let dims = Dims { batch, seqlen, d_inner, d_state, n_biases: 0 };
    Chunks::backward(dims).workspace_len(dims)
}

/// The decay of a chunk, and its last state from zero.
///
/// * `inputs`: of the chunk, without an initial state.
/// * `to`: [`ends_len`] elements on 16 bytes, overwritten.
/// * `workspace`: [`ends_workspace_len`] elements on 16 bytes, whose contents mean nothing before; afterwards they are for
///   [`forward_with_ends`](super::forward_with_ends).
///
/// # Errors
/// Sizes that disagree, an initial state, no position, memory that lies elsewhere. Nothing is written then. A refused launch.
pub fn ends<T: DeviceElement>(
    gpu: &Gpu,
    inputs: &ScanInputs<'_, T>,
    to: DeviceMut<'_, f32>,
    workspace: DeviceMut<'_, f32>,
) -> Result<()> {
    run(gpu, inputs, None, to, workspace)
}

/// The decay of a chunk, and the gradient of its initial state where nothing comes back to its last one.
///
/// `grad_out`: `(n_rows, d_inner)`, of the chunk's output; all else as in [`ends()`], `workspace` for
/// [`backward_with_ends`](super::backward_with_ends).
///
/// # Errors
/// As there.
pub fn adjoint_ends<T: DeviceElement>(
    gpu: &Gpu,
    inputs: &ScanInputs<'_, T>,
    grad_out: &DeviceRows<'_, T>,
    to: DeviceMut<'_, f32>,
    workspace: DeviceMut<'_, f32>,
) -> Result<()> {
    run(gpu, inputs, Some(grad_out), to, workspace)
}

fn run<T: DeviceElement>(
    gpu: &Gpu,
    inputs: &ScanInputs<'_, T>,
    grad_out: Option<&DeviceRows<'_, T>>,
    to: DeviceMut<'_, f32>,
    workspace: DeviceMut<'_, f32>,
) -> Result<()> {
    let dims = inputs.check()?;
    expect_presence(OP, "initial_state", false, inputs.initial_state.is_some())?;
    if dims.n_rows() == 0 {
        return Err(Error::Limit { op: OP, arg: "n_rows", min: 1, max: usize::MAX, got: 0 }.into());
    }
    let of = Chunk { batch: dims.batch, d_inner: dims.d_inner, d_state: dims.d_state };
    let chunks = Chunks::backward(dims);
    expect_size(OP, "to", "elements", ends_len(of), to.len())?;
    expect_size(OP, "workspace", "elements", chunks.workspace_len(dims), workspace.len())?;
    to.expect_vectors(OP, "to")?;
    // A single chunk leaves what all of it does, in the same places.
    let folds = chunks.count > 1;
    if folds {
        workspace.expect_vectors(OP, "workspace")?;
    }
    let (aligned, direction) = match grad_out {
        None => (true, Direction::Forward),
        Some(grad_out) => {
            grad_out.expect(OP, "grad_out", dims.n_rows(), dims.d_inner)?;
            let (grad_out_stride, aligned) = (grad_out.stride_bytes(), grad_out.is_aligned(CHANNELS));
            (aligned, Direction::Backward { grad_out: grad_out.address(gpu)?, grad_out_stride })
        }
    };
    let assume = inputs.assume(dims, aligned);
    let raw = inputs.raw(gpu, dims, chunks)?;
    let of_chunks = if folds { workspace.address(gpu)? } else { to.address(gpu)? };
    // SAFETY: `check` has bound every matrix and offset to the sizes in `raw`, grad_out as above; the memory is as long as the ends of so
    // many chunks, on 16 bytes, and borrowed exclusively.
    unsafe { ends::ends::<T>(gpu, raw, dims, chunks.count, assume, (Which::All, direction), of_chunks)? };
    if !folds {
        return Ok(());
    }
    let bytes = |elements: usize| (elements * size_of::<f32>()) as u64;
    let stride = dims.d_inner * dims.padded();
    let params = RawFold {
        decays: of_chunks,
        ends: of_chunks + bytes(dims.batch * chunks.count * stride),
        decay: to.address(gpu)?,
        end: to.address(gpu)? + bytes(of.half()),
        item_stride: stride as u64,
        sequence_stride: (chunks.count * stride) as u64,
        batch: dims.batch as u32,
        d_inner: dims.d_inner as u32,
        padded: dims.padded() as u32,
        n_states: dims.padded() as u32,
        first: 0,
        count: chunks.count as u32,
        backward: u32::from(grad_out.is_some()),
        unused: 0,
    };
    // SAFETY: the workspace holds decays and ends of all chunks of all sequences, `to` one of each; both were checked above.
    unsafe { launch(gpu, of.half(), &params) }
}

/// The state that has gone through some chunks from zero, or where the last one comes first the adjoint.
///
/// * `of_all`: [`ends_len`] elements of each chunk, one behind the other.
/// * `chunks`: which of them, in which `order`.
/// * `to`: `(batch, d_inner, d_state)`, overwritten.
///
/// # Errors
/// Sizes that disagree, chunks that there are not. Nothing is written then. A refused launch.
pub fn carry(
    gpu: &Gpu,
    of_all: &DeviceRef<'_, f32>,
    of: Chunk,
    chunks: Range<usize>,
    order: Order,
    to: DeviceMut<'_, f32>,
) -> Result<()> {
    let n_chunks = of_all.len() / ends_len(of).max(1);
    expect_size(OP, "of_all", "elements", n_chunks * ends_len(of), of_all.len())?;
    if chunks.end > n_chunks || chunks.start > chunks.end {
        return Err(Error::Limit { op: OP, arg: "chunks", min: 0, max: n_chunks, got: chunks.end }.into());
    }
    let Chunk { batch, d_inner, d_state } = of;
    expect_size(OP, "to", "elements", batch * d_inner * d_state, to.len())?;
    let padded = padded_states(d_state);
    let decays = of_all.address(gpu)?;
    let params = RawFold {
        decays,
        ends: decays + (of.half() * size_of::<f32>()) as u64,
        decay: 0,
        end: to.address(gpu)?,
        item_stride: ends_len(of) as u64,
        sequence_stride: (d_inner * padded) as u64,
        batch: batch as u32,
        d_inner: d_inner as u32,
        padded: padded as u32,
        n_states: d_state as u32,
        first: chunks.start as u32,
        count: chunks.len() as u32,
        backward: u32::from(order == Order::LastFirst),
        unused: 0,
    };
    // SAFETY: `of_all` holds decays and ends of all chunks up to the last that is read, `to` a state; both were checked above.
    unsafe { launch(gpu, to.len(), &params) }
}

/// # Safety
/// `params` hold memory of the sizes in them; `n` is batch d_inner n_states.
unsafe fn launch(gpu: &Gpu, n: usize, params: &RawFold) -> Result<()> {
    let grid = Grid::line(blocks(OP, "batch * d_inner * d_state", n, THREADS as usize)?, THREADS);
    // SAFETY: by this function's own contract; a thread writes one element below n.
    unsafe { gpu.launch("selective_scan_fold", grid, params) }
}
