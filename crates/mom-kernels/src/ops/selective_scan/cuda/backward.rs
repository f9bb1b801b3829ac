//! Backward pass: the scan from the end, then the sums over blocks and sequences.

use super::abi::{Partials, RawSums};
use super::args::{ScanGrads, ScanInputs, ScanOutputGrads};
use super::dims::padded_states;
use super::ends::{Direction, Ends, Which, ends};
use super::select::{Assume, Backward, CHANNELS, Chunks};
use crate::error::expect_size;
use crate::ops::column_sums;
use crate::ops::selective_scan::check::Dims;
use crate::ops::selective_scan::params::OP;
use crate::runtime::{DeviceElement, DeviceMut, DeviceRef, DeviceRows, Gpu, Grid, Result, blocks, optional_mut};

/// Elements of the workspace of [`backward`], whichever kernel it takes.
///
/// # Errors
/// Sizes that disagree.
pub fn backward_workspace_len<T: DeviceElement>(inputs: &ScanInputs<'_, T>) -> Result<usize> {
    let dims = inputs.check()?;
    Ok(parts(dims, most_blocks(dims)).iter().sum())
}

/// Memory of a backward pass, whose contents mean nothing before and after.
#[derive(Debug)]
pub(crate) struct BackwardMemory<'a> {
    /// [`backward_memory_len`] elements on 16 bytes.
    pub own: DeviceMut<'a, f32>,
    /// Any number of elements on 16 bytes, that are free until the pass is done: as many blocks of channels as fit leave
    /// their partial sums of dB and dC here.
    pub lent: DeviceMut<'a, f32>,
    /// As [`adjoint_ends`](super::adjoint_ends) left it in its workspace, where it was run over the same inputs and gradient.
    pub ends: Option<DeviceRef<'a, f32>>,
}

/// Elements of [`BackwardMemory::own`], beside `lent` others, for the scan of a mixer: it has a gate, a skip and softplus.
/// Exactly the kernel's, which is the one for vectors of channels where `vectors` says that every matrix is.
pub(crate) fn backward_memory_len<T: DeviceElement>(gpu: &Gpu, dims: Dims, vectors: bool, lent: usize) -> usize {
    let aligned = vectors && dims.d_state == 16 && dims.d_inner.is_multiple_of(CHANNELS);
    let assume = Assume::new(T::DTYPE, dims, aligned, true);
    let n_blocks = Backward::new(gpu.card(), T::DTYPE, dims, assume).blocks(dims);
    parts(dims, n_blocks - n_lent(dims, n_blocks, lent)).iter().sum()
}

/// Blocks of channels of the kernel that has the most.
fn most_blocks(dims: Dims) -> usize {
    dims.d_inner.div_ceil((512 / padded_states(dims.d_state)).max(1))
}

/// Elements of a block's partial sums of dB and dC.
fn block_len(dims: Dims) -> usize {
    dims.n_rows() * 2 * padded_states(dims.d_state)
}

/// Of `n_blocks` those whose partial sums fit `lent` elements.
fn n_lent(dims: Dims, n_blocks: usize, lent: usize) -> usize {
    n_blocks.min(lent / block_len(dims).max(1))
}

/// What the chunks of a sequence leave; partial sums of dB and dC of `n_blocks`, of dA and dD by chunk, of the biases by a
/// part of the rows or by chunk.
fn parts(dims: Dims, n_blocks: usize) -> [usize; 5] {
    let padded = padded_states(dims.d_state);
    let chunks = Chunks::backward(dims);
    let n_parts = dims.batch * chunks.count;
    [
        chunks.workspace_len(dims),
        n_blocks * block_len(dims),
        n_parts * dims.d_inner * padded,
        (n_parts * dims.d_inner).next_multiple_of(4),
        if dims.n_biases > 0 {
            let by_rows = column_sums::workspace_len(dims.n_rows(), dims.n_biases, dims.d_inner);
            by_rows.max(n_parts * dims.n_biases * dims.d_inner)
        } else {
            0
        },
    ]
}

/// All gradients of the scan; every output of `grads` is overwritten.
///
/// `workspace`: [`backward_workspace_len`] elements on 16 bytes, whose contents mean nothing before and after.
///
/// # Errors
/// Sizes that disagree, a workspace that lies elsewhere, a gradient asked for whose input is absent, a gradient that overlaps an input and is not on
/// exactly its rows ([`ScanGrads`]), a refused launch.
pub fn backward<T: DeviceElement>(
    gpu: &Gpu,
    inputs: &ScanInputs<'_, T>,
    saved_states: DeviceRef<'_, f32>,
    output_grads: &ScanOutputGrads<'_, T>,
    grads: ScanGrads<'_, T>,
    workspace: DeviceMut<'_, f32>,
) -> Result<()> {
    run(gpu, inputs, saved_states, output_grads, grads, (None, workspace))
}

/// As [`backward`], where [`adjoint_ends`](super::adjoint_ends) has been run over the same inputs, but for the initial state, and the same
/// `grad_out`: what it computed of the scan's own chunks is not computed again.
///
/// `ends`: its workspace, as it left it.
///
/// # Errors
/// As there.
pub fn backward_with_ends<T: DeviceElement>(
    gpu: &Gpu,
    inputs: &ScanInputs<'_, T>,
    saved_states: DeviceRef<'_, f32>,
    output_grads: &ScanOutputGrads<'_, T>,
    grads: ScanGrads<'_, T>,
    ends: DeviceRef<'_, f32>,
    workspace: DeviceMut<'_, f32>,
) -> Result<()> {
    run(gpu, inputs, saved_states, output_grads, grads, (Some(ends), workspace))
}

fn run<T: DeviceElement>(
    gpu: &Gpu,
    inputs: &ScanInputs<'_, T>,
    saved_states: DeviceRef<'_, f32>,
    output_grads: &ScanOutputGrads<'_, T>,
    grads: ScanGrads<'_, T>,
    (ends, workspace): (Option<DeviceRef<'_, f32>>, DeviceMut<'_, f32>),
) -> Result<()> {
    let dims = inputs.check()?;
    expect_size(OP, "workspace", "elements", parts(dims, most_blocks(dims)).iter().sum(), workspace.len())?;
    let assume = inputs.assume(dims, grads.is_aligned(output_grads));
    let n_blocks = Backward::new(gpu.card(), T::DTYPE, dims, assume).blocks(dims);
    let own = workspace.first("workspace", parts(dims, n_blocks).iter().sum())?;
    let (lent, own) = own.split_at("workspace", 0)?;
    backward_in(gpu, inputs, saved_states, output_grads, grads, BackwardMemory { own, lent, ends })
}

/// As [`backward`], in memory of two kinds.
pub(crate) fn backward_in<T: DeviceElement>(
    gpu: &Gpu,
    inputs: &ScanInputs<'_, T>,
    saved_states: DeviceRef<'_, f32>,
    output_grads: &ScanOutputGrads<'_, T>,
    grads: ScanGrads<'_, T>,
    memory: BackwardMemory<'_>,
) -> Result<()> {
    let dims = inputs.check()?;
    grads.check(inputs, &saved_states, output_grads, dims)?;
    if dims.n_biases > 0 {
        column_sums::expect_rows(dims.n_rows())?;
    }
    let chunks = Chunks::backward(dims);
    let n_parts = dims.batch * chunks.count;
    let assume = inputs.assume(dims, grads.is_aligned(output_grads));
    let chosen = Backward::new(gpu.card(), T::DTYPE, dims, assume);
    let n_blocks = chosen.blocks(dims);
    let BackwardMemory { own, lent, ends: left } = memory;
    let n_lent = n_lent(dims, n_blocks, lent.len());
    let lengths @ [len_chunks, len_bc, len_a, len_d, _] = parts(dims, n_blocks - n_lent);
    expect_size(OP, "workspace", "elements", lengths.iter().sum(), own.len())?;
    own.expect_vectors(OP, "workspace")?;
    lent.expect_vectors(OP, "lent workspace")?;
    let (room, rest) = own.split_at("workspace", len_chunks)?;
    let of_chunks = left.map_or(Ends::Room(room), Ends::Left);
    of_chunks.check(dims, chunks)?;
    let (partial_bc, rest) = rest.split_at("workspace", len_bc)?;
    let (partial_a, rest) = rest.split_at("workspace", len_a)?;
    let (partial_d, partial_bias) = rest.split_at("workspace", len_d)?;

    let padded = dims.padded();
    let dtype = T::DTYPE.name();
    let raw_inputs = inputs.raw(gpu, dims, chunks)?;
    let partials = Partials {
        lent_bc: lent.address(gpu)?,
        n_lent: n_lent as u32,
        bc: partial_bc.address(gpu)?.wrapping_sub((n_lent * block_len(dims) * size_of::<f32>()) as u64),
        a: partial_a.address(gpu)?,
        d: partial_d.address(gpu)?,
        bias: partial_bias.address(gpu)?,
    };
    let params = grads.raw(gpu, raw_inputs, &saved_states, output_grads, partials, of_chunks.address(gpu)?)?;
    let sums = RawSums {
        lent_bc: partials.lent_bc,
        partial_bc: partials.bc,
        partial_a: partials.a,
        partial_d: partials.d,
        partial_bias: partials.bias,
        grad_b: grads.grad_b.address(gpu)?,
        grad_c: grads.grad_c.address(gpu)?,
        grad_a: grads.grad_a.address(gpu)?,
        grad_d: optional_mut(gpu, &grads.grad_d_skip)?,
        grad_bias: if chosen.sums_biases { optional_mut(gpu, &grads.grad_dt_bias)? } else { 0 },
        grad_b_stride: u64::from(grads.grad_b.stride_bytes()),
        grad_c_stride: u64::from(grads.grad_c.stride_bytes()),
        n_rows: dims.n_rows() as u64,
        n_blocks: n_blocks as u32,
        n_parts: n_parts as u32,
        d_inner: dims.d_inner as u32,
        d_state: dims.d_state as u32,
        n_biases: dims.n_biases as u32,
        n_lent: partials.n_lent,
    };
    if chunks.count > 1 && of_chunks.is_room() {
        let direction = Direction::Backward { grad_out: params.grad_out, grad_out_stride: params.grad_out_stride };
        // SAFETY: sizes are checked as below, the workspace's part is as long as it must be and borrowed exclusively.
        unsafe { ends::<T>(gpu, raw_inputs, dims, chunks.count, assume, (Which::Followed, direction), params.chunks)? };
    }
    let grid = Grid::line(blocks(OP, "batch * d_inner", n_parts * n_blocks, 1)?, chosen.threads);
    // SAFETY: `check` has bound every matrix, state and offset to the sizes in `params`, the workspace has been cut into
    // parts of the sizes that the kernel writes, and the lent memory holds the partial sums of `n_lent` blocks; the views
    // are alive and what is written is borrowed exclusively, or lies on exactly the rows of which a block reads an element
    // before it writes it.
    unsafe { gpu.launch(&chosen.kernel, grid, &params)? };

    // The first blocks sum gradients of weights, the others those of B and C.
    let of_weights = (dims.d_inner * padded).div_ceil(256) * 256;
    let grid = blocks(OP, "n_rows * d_state", of_weights + dims.n_rows() * (2 * padded / 4), 256)?;
    let kernel = format!("selective_scan_sums_{dtype}_{padded}");
    // SAFETY: a thread sums one state of one channel below d_inner over the chunks, or reads its four states of every
    // block's partial, of which there are `n_blocks`, and writes those of one row below d_state; sizes as above.
    unsafe { gpu.launch(&kernel, Grid::line(grid, 256), &sums)? };

    if let (Some(dt_bias), Some(grad), false) = (&inputs.dt_bias, grads.grad_dt_bias, chosen.sums_biases) {
        let len = column_sums::workspace_len(dims.n_rows(), dims.n_biases, dims.d_inner);
        let grad_dt: DeviceRows<'_, T> = grads.grad_dt.into_rows();
        column_sums::column_sums(gpu, &dt_bias.offsets, &grad_dt, grad, partial_bias.first("workspace", len)?)?;
    }
    Ok(())
}
