//! Forward pass.

use super::abi::RawForward;
use super::args::{ScanInputs, ScanOutputs};
use super::ends::{Direction, Which, ends};
use super::select::{self, CHANNELS, Chunks, THREADS};
use crate::error::expect_size;
use crate::ops::selective_scan::check::Dims;
use crate::ops::selective_scan::params::OP;
use crate::runtime::{DeviceElement, DeviceMut, Gpu, Grid, Result, blocks, optional_mut, optional_ref};

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
    outputs.check(dims)?;
    let chunks = Chunks::forward(dims);
    expect_size(OP, "workspace", "elements", chunks.workspace_len(dims), workspace.len())?;
    if chunks.count > 1 {
        workspace.expect_vectors(OP, "workspace")?;
    }
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
        chunks: workspace.address(gpu)?,
    };
    if chunks.count > 1 {
        let way = (Which::Followed, Direction::Forward);
        // SAFETY: sizes are checked as below, the workspace is as long as it must be and borrowed exclusively.
        unsafe { ends::<T>(gpu, params.inputs, dims, chunks.count, assume, way, params.chunks)? };
    }
    // SAFETY: `check` has bound every matrix, state and offset to the sizes in `params`, from which the kernel takes
    // its borders; the views are alive and the outputs borrowed exclusively. A block owns
    // channels of a sequence or of a chunk of one.
    unsafe { gpu.launch(&kernel, Grid::line(grid, THREADS), &params) }
}
