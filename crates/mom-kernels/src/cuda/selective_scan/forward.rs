//! Forward pass.

use super::STATE_STRIDE;
use super::chunks::{Chunks, Direction, TILE, ends};
use super::params::{CHANNELS, Dims, OP, RawForward, ScanInputs, ScanOutputs, forward_module, is_roomy, padded_states};
use crate::cuda::Gpu;
use crate::cuda::error::Result;
use crate::cuda::launch::{Grid, blocks};
use crate::cuda::memory::{DeviceElement, DeviceMut};
use crate::cuda::plan::{optional_mut, optional_ref};
use crate::error::expect_size;

const THREADS: usize = 128;

/// Elements of the saved states: `(batch, ceil(seqlen / STATE_STRIDE), d_inner, d_state padded to 16, 32 or 64)`.
pub fn saved_states_len(batch: usize, seqlen: usize, d_inner: usize, d_state: usize) -> usize {
    batch * seqlen.div_ceil(STATE_STRIDE) * d_inner * padded_states(d_state)
}

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
/// Sizes that disagree, a workspace that lies elsewhere, a refused launch. Nothing is written then.
pub fn forward<T: DeviceElement>(
    gpu: &Gpu,
    inputs: &ScanInputs<'_, T>,
    outputs: ScanOutputs<'_, T>,
    workspace: DeviceMut<'_, f32>,
) -> Result<()> {
    let dims = inputs.validate()?;
    outputs.validate(dims)?;
    let chunks = Chunks::forward(dims);
    expect_size(OP, "workspace", "elements", chunks.workspace_len(dims), workspace.len())?;
    if chunks.count > 1 {
        workspace.expect_vectors(OP, "workspace")?;
    }
    let padded = padded_states(dims.d_state);
    let aligned = inputs.is_aligned(dims) && outputs.out.is_aligned(CHANNELS);
    let (module, dtype) = (forward_module(T::DTYPE), T::DTYPE.name());
    let full = inputs.is_full(dims);
    let n_blocks = dims.batch * chunks.count * dims.d_inner.div_ceil(THREADS * 4 / padded);
    let suffix = match (aligned, full) {
        (true, true) if chunks.count > 1 => "_full_chunks",
        (true, true) if is_roomy(gpu, n_blocks) => "_full_roomy",
        (true, true) if dims.seqlen.is_multiple_of(TILE) => "_full_whole",
        (true, true) => "_full",
        (true, false) => "_aligned",
        (false, _) => "",
    };
    let kernel = format!("selective_scan_forward_{dtype}_{padded}{suffix}");
    let grid = blocks(OP, "batch * d_inner", n_blocks, 1)?;
    let params = RawForward {
        inputs: inputs.raw(gpu, dims, chunks),
        initial_state: optional_ref(gpu, &inputs.initial_state),
        out: outputs.out.address(gpu),
        last_state: optional_mut(gpu, &outputs.last_state),
        saved_states: optional_mut(gpu, &outputs.saved_states),
        out_stride: u64::from(outputs.out.stride_bytes()),
        chunks: workspace.address(gpu),
    };
    if chunks.count > 1 {
        let (kinds, to) = ((aligned, full), params.chunks);
        // SAFETY: sizes are checked as below, the workspace is as long as it must be and borrowed exclusively.
        unsafe { ends::<T>(gpu, params.inputs, dims, chunks.count, kinds, Direction::Forward, to)? };
    }
    // SAFETY: `validate` has bound every matrix, state and offset to the sizes in `params`, from which the kernel takes
    // its borders; the views are alive and the outputs borrowed exclusively. A block owns
    // channels of a sequence or of a chunk of one.
    unsafe { gpu.launch(module, &kernel, Grid::line(grid, THREADS as u32), &params) }
}
