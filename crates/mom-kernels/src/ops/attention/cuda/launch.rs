//! The launches.

use super::abi::{RawBackward, RawForward};
use super::args::{AttentionGrads, AttentionInputs, expect_vectors};
use super::select::{self, Part};
use crate::ops::attention::params::{Dims, OP};
use crate::runtime::{
    DeviceElement, DeviceMut, DeviceRef, DeviceRows, DeviceRowsMut, Dtype, Gpu, Grid, Result, blocks,
};
use crate::shape::{expect_elements, expect_matrix};

const VECTOR: usize = 8;

/// Attends; see [`crate::attention`] for the equation.
///
/// * `out`: `(n_rows, width)`, overwritten; apart from q, k and v.
/// * `lse`: `(batch, n_heads, seqlen)`, logarithms of the normalisers, for [`backward`].
///
/// # Errors
/// Sizes that disagree or that the kernels are not written for, rows that overlap, a refused launch. Nothing is written then.
pub fn forward<T: DeviceElement>(
    gpu: &Gpu,
    inputs: &AttentionInputs<'_, T>,
    out: DeviceRowsMut<'_, T>,
    lse: DeviceMut<'_, f32>,
) -> Result<()> {
    let dims = inputs.check()?;
    expect_matrix(OP, "out", dims.rows(), &out)?;
    expect_vectors("out", dims, T::DTYPE, out.is_aligned(VECTOR))?;
    dims.expect_lse("lse", &lse)?;
    inputs.expect_apart(&[("out", &out)], &[])?;
    let params = RawForward {
        inputs: inputs.raw(gpu, dims)?,
        out: out.address(gpu)?,
        lse: lse.address(gpu)?,
        out_stride: u64::from(out.stride_bytes()),
    };
    let Some(blocks) = blocks_of(dims, T::DTYPE)? else { return Ok(()) };
    let (kernel, threads) = select::kernel(gpu.card(), Part::Forward, T::DTYPE)?;
    // SAFETY: the checks have bound every matrix to the positions and heads that the kernel takes its borders from, lse to a
    // number for each, and the mask was made for as many positions. A block owns the rows of its queries.
    unsafe { gpu.launch(&kernel, Grid { blocks, threads: (threads, 1, 1) }, &params) }
}

/// Elements of the workspace of [`backward`].
pub fn backward_workspace_len(batch: usize, seqlen: usize, n_heads: usize) -> usize {
    batch * seqlen * n_heads
}

/// Gradients of [`forward`].
///
/// * `out`, `lse`: what the forward pass gave.
/// * `grad_out`: `(n_rows, width)`.
/// * `workspace`: [`backward_workspace_len`] elements, whose contents mean nothing before and after.
///
/// # Errors
/// As [`forward`].
pub fn backward<T: DeviceElement>(
    gpu: &Gpu,
    inputs: &AttentionInputs<'_, T>,
    out: &DeviceRows<'_, T>,
    lse: &DeviceRef<'_, f32>,
    grad_out: &DeviceRows<'_, T>,
    grads: AttentionGrads<'_, T>,
    workspace: DeviceMut<'_, f32>,
) -> Result<()> {
    let dims = inputs.check()?;
    for (arg, rows) in [("out", out), ("grad_out", grad_out)] {
        expect_matrix(OP, arg, dims.rows(), rows)?;
        expect_vectors(arg, dims, T::DTYPE, rows.is_aligned(VECTOR))?;
    }
    dims.expect_lse("lse", lse)?;
    expect_elements(OP, "workspace", backward_workspace_len(dims.batch, dims.seqlen, dims.n_heads), &workspace)?;
    grads.validate(dims)?;
    let written = [("grad_q", &grads.grad_q), ("grad_k", &grads.grad_k), ("grad_v", &grads.grad_v)];
    for (arg, rows) in written {
        expect_vectors(arg, dims, T::DTYPE, rows.is_aligned(VECTOR))?;
    }
    inputs.expect_apart(&written, &[("out", out), ("grad_out", grad_out)])?;
    let params = RawBackward {
        inputs: inputs.raw(gpu, dims)?,
        out: out.address(gpu)?,
        grad_out: grad_out.address(gpu)?,
        lse: lse.address(gpu)?,
        delta: workspace.address(gpu)?,
        grad_q: grads.grad_q.address(gpu)?,
        grad_k: grads.grad_k.address(gpu)?,
        grad_v: grads.grad_v.address(gpu)?,
        out_stride: out.stride_bytes(),
        grad_out_stride: grad_out.stride_bytes(),
        grad_q_stride: grads.grad_q.stride_bytes(),
        grad_k_stride: grads.grad_k.stride_bytes(),
        grad_v_stride: grads.grad_v.stride_bytes(),
        unused: 0,
    };
    let Some(blocks) = blocks_of(dims, T::DTYPE)? else { return Ok(()) };
    // The first one leaves `delta` for the second.
    for part in [Part::BackwardQ, Part::BackwardKv] {
        let (kernel, threads) = select::kernel(gpu.card(), part, T::DTYPE)?;
        // SAFETY: as in the forward pass; the workspace has a number for each head and position, and gradients are borrowed
        // exclusively and apart from what is read.
        unsafe { gpu.launch(&kernel, Grid { blocks, threads: (threads, 1, 1) }, &params)? };
    }
    Ok(())
}

/// A block for the rows that it owns of each head; none without positions.
fn blocks_of(dims: Dims, dtype: Dtype) -> Result<Option<(u32, u32, u32)>> {
    if dims.batch * dims.seqlen == 0 {
        return Ok(None);
    }
    let x = blocks(OP, "seqlen", dims.seqlen, select::owned_rows(dtype))?;
    Ok(Some((x, (dims.batch * dims.n_heads) as u32, 1)))
}
