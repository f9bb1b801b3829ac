//! Backward pass.

use super::abi::RawBackward;
use super::args::{CHANNELS, ConvGrads, ConvInputs, LANES, STRETCH, STRETCHES};
use super::select;
use crate::error::expect_size;
use crate::ops::causal_conv1d::params::{Dims, OP};
use crate::runtime::{
    DeviceElement, DeviceMut, DeviceRef, DeviceRows, DeviceRowsMut, Gpu, Grid, Result, blocks, optional_mut,
    optional_ref, optional_rows,
};
use crate::shape::expect_matrix;

/// Elements of the workspace of [`backward`].
///
/// # Errors
/// Sizes that disagree.
pub fn backward_workspace_len<T: DeviceElement>(inputs: &ConvInputs<'_, T>) -> Result<usize> {
    Ok(inputs.check()?.workspace_len())
}

/// As [`backward_workspace_len`], from the sizes.
pub fn workspace_len(batch: usize, seqlen: usize, d_inner: usize) -> usize {
    Dims { batch, seqlen, d_inner, d_conv: 1 }.workspace_len()
}

/// All gradients of the convolution; every output of `grads` is overwritten.
///
/// * `grad_out`: `(n_rows, d_inner)`.
/// * `grad_last_state`: `(batch, d_conv - 1, d_inner)`; zero if absent.
/// * `workspace`: [`backward_workspace_len`] elements, whose contents mean nothing before and after.
///
/// # Errors
/// Sizes that disagree, a gradient asked for whose input is absent, an output that overlaps an input other than as
/// [`ConvGrads`] allows, a refused launch.
pub fn backward<T: DeviceElement>(
    gpu: &Gpu,
    inputs: &ConvInputs<'_, T>,
    grad_out: DeviceRows<'_, T>,
    grad_last_state: Option<DeviceRef<'_, f32>>,
    grads: ConvGrads<'_, T>,
    workspace: DeviceMut<'_, f32>,
) -> Result<()> {
    let dims = inputs.check()?;
    expect_matrix(OP, "grad_out", dims.channels(), &grad_out)?;
    dims.expect_state("grad_last_state", grad_last_state.as_ref())?;
    let is_in_place = grads.check(inputs, &grad_out, dims)?;
    expect_size(OP, "workspace", "elements", dims.workspace_len(), workspace.len())?;
    let aligned = dims.d_inner.is_multiple_of(CHANNELS)
        && inputs.x.is_aligned(CHANNELS)
        && grad_out.is_aligned(CHANNELS)
        && grads.grad_x.is_aligned(CHANNELS)
        && grads.out.as_ref().is_none_or(|out| out.is_aligned(CHANNELS));
    let (partial, edges) = workspace.split_at(OP, dims.partial_len())?;
    let params = RawBackward {
        inputs: inputs.raw(gpu, dims)?,
        grad_out: grad_out.address(gpu)?,
        grad_last_state: optional_ref(gpu, &grad_last_state)?,
        grad_x: grads.grad_x.address_in_place(gpu)?,
        out: optional_rows(gpu, &grads.out)?,
        grad_initial_state: optional_mut(gpu, &grads.grad_initial_state)?,
        partial: partial.address(gpu)?,
        edges: if is_in_place { edges.address(gpu)? } else { 0 },
        grad_weight: grads.grad_weight.address(gpu)?,
        grad_bias: optional_mut(gpu, &grads.grad_bias)?,
        grad_out_stride: grad_out.stride_bytes(),
        grad_x_stride: grads.grad_x.stride_bytes(),
        out_stride: grads.out.as_ref().map_or(0, DeviceRowsMut::stride_bytes),
        n_partials: dims.time_blocks() as u32,
    };
    let grid = Grid { blocks: (dims.grid(STRETCH)?, 1, 1), threads: (LANES, STRETCHES, 1) };
    let kernel = select::backward(T::DTYPE, aligned, is_in_place || grads.out.is_some());
    // SAFETY: the checks have bound every matrix, state and the workspace to the sizes in `params`; the views are alive
    // and what is written is borrowed exclusively, or lies on exactly the rows of x, of which a thread overwrites those
    // alone that no other reads. A thread owns channels and a stretch of time, a block its partial.
    unsafe { gpu.launch(&kernel, grid, &params)? };
    if is_in_place {
        // SAFETY: as above; the first kernel wrote all edges.
        unsafe { gpu.launch(&select::edges(T::DTYPE, aligned), grid, &params)? };
    }
    let columns = blocks(OP, "d_inner", dims.d_inner, LANES as usize)?;
    let grid = Grid { blocks: (columns, 5, 1), threads: (LANES, 8, 1) };
    // SAFETY: reads the partials that the first kernel wrote, writes taps and bias of channels below d_inner.
    unsafe { gpu.launch("causal_conv1d_sum", grid, &params) }
}
