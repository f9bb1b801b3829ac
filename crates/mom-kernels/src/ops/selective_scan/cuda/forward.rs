//! Forward pass.

use super::abi::RawForward;
use super::args::{ScanInputs, ScanOutputs};
use super::ends::{Direction, Ends, Which, ends};
use super::select::{self, CHANNELS, Chunks, THREADS};
use crate::ops::selective_scan::check::Dims;
use crate::ops::selective_scan::params::OP;
use crate::runtime::{DeviceElement, DeviceMut, DeviceRef, Gpu, Grid, Result, blocks, optional_mut, optional_ref};

/// Elements of the workspace of [`forward`]: none, but for few long sequences.
pub fn forward_workspace_len(batch: usize, seqlen: usize, d_inner: usize, d_state: usize) -> usize {
    let dims = Dims { batch, seqlen, d_inner, d_state, n_biases: 0 };
    Chunks::forward(dims).workspace_len(dims)
}

/// Runs the scan; equations in [`crate::selective_scan`], shapes in [`ScanInputs`].
///
/// `workspace`: [`forward_workspace_len`] elements on 16 bytes, whose contents mean nothing before and after.
///
/// # Errors
/// Sizes that disagree, a workspace or saved states that lie elsewhere. Nothing is written then. A refused launch.
pub fn forward<T: DeviceElement>(
    gpu: &Gpu,
    inputs: &ScanInputs<'_, T>,
    outputs: ScanOutputs<'_, T>,
    workspace: DeviceMut<'_, f32>,
) -> Result<()> {
    let dims = inputs.check()?;
    run(gpu, inputs, outputs, dims, Chunks::forward(dims), Ends::Room(workspace))
}

/// As [`forward`], where [`ends()`](super::ends()) has been run over the same inputs, but for the initial state: what it computed of the
/// scan's own chunks is not computed again. Where a sequence is cut into three, which [`forward`] does not do, the last bits differ from
/// its own.
///
/// `ends`: its workspace, as it left it.
///
/// # Errors
/// As there.
pub fn forward_with_ends<T: DeviceElement>(
    gpu: &Gpu,
    inputs: &ScanInputs<'_, T>,
    outputs: ScanOutputs<'_, T>,
    ends: DeviceRef<'_, f32>,
) -> Result<()> {
    let dims = inputs.check()?;
    run(gpu, inputs, outputs, dims, Chunks::backward(dims), Ends::Left(ends))
}

fn run<T: DeviceElement>(
    gpu: &Gpu,
    inputs: &ScanInputs<'_, T>,
    outputs: ScanOutputs<'_, T>,
    dims: Dims,
    chunks: Chunks,
    of_chunks: Ends<'_>,
) -> Result<()> {
    outputs.check(dims)?;
    of_chunks.check(dims, chunks)?;
    let assume = inputs.assume(dims, outputs.out.is_aligned(CHANNELS));
    let (kernel, n_blocks) = select::forward(gpu.card(), T::DTYPE, dims, chunks, assume);
    let grid = blocks(OP, "batch * d_inner", n_blocks, 1)?;
    let params = RawForward {
        inputs: inputs.raw(gpu, dims, chunks)?,
        initial_state: optional_ref(gpu, &inputs.initial_state)?,
        out: outputs.out.address(gpu)?,
        last_state: optional_mut(gpu, &outputs.last_state)?,
        saved_states: optional_mut(gpu, &outputs.saved_states)?,
        out_stride: u64::from(outputs.out.stride_bytes()),
        chunks: of_chunks.address(gpu)?,
    };
    if chunks.count > 1 && of_chunks.is_room() {
        let way = (Which::Followed, Direction::Forward);
        // SAFETY: sizes are checked as below, the workspace is as long as it must be and borrowed exclusively.
        unsafe { ends::<T>(gpu, params.inputs, dims, chunks.count, assume, way, params.chunks)? };
    }
    // SAFETY: `check` has bound every matrix, state and offset to the sizes in `params`, from which the kernel takes
    // its borders; the views are alive and the outputs borrowed exclusively. A block owns
    // channels of a sequence or of a chunk of one.
    unsafe { gpu.launch(&kernel, Grid::line(grid, THREADS), &params) }
}
