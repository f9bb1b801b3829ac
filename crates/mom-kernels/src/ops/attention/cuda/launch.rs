//! The launches.

use super::abi::{RawBackward, RawForward};
use super::args::{AttentionGrads, AttentionInputs, expect_vectors};
use crate::error::Error;
use crate::ops::attention::params::{Dims, OP};
use crate::runtime::{
    CudaError, DeviceElement, DeviceMut, DeviceRef, DeviceRows, DeviceRowsMut, Dtype, Gpu, Grid, Result, blocks,
};
use crate::shape::{expect_elements, expect_matrix};

/// Threads of a block.
const THREADS: u32 = 128;
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
    let Some(grid) = grid(dims, T::DTYPE)? else { return Ok(()) };
    // SAFETY: the checks have bound every matrix to the positions and heads that the kernel takes its borders from, lse to a
    // number for each, and the mask was made for as many positions. A block owns the rows of its queries.
    unsafe { gpu.launch(&format!("attention_forward_{}", kernel_type(T::DTYPE)?), grid, &params) }
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
    let Some(grid) = grid(dims, T::DTYPE)? else { return Ok(()) };
    let dtype = kernel_type(T::DTYPE)?;
    // The first one leaves `delta` for the second.
    for part in ["q", "kv"] {
        // SAFETY: as in the forward pass; the workspace has a number for each head and position, and gradients are borrowed
        // exclusively and apart from what is read.
        unsafe { gpu.launch(&format!("attention_backward_{part}_{dtype}"), grid, &params)? };
    }
    Ok(())
}

/// A block for the rows that it owns of each head; none without positions.
fn grid(dims: Dims, dtype: Dtype) -> Result<Option<Grid>> {
    let owned = if dtype == Dtype::F32 { 64 } else { 128 };
    if dims.batch * dims.seqlen == 0 {
        return Ok(None);
    }
    let x = blocks(OP, "seqlen", dims.seqlen, owned)?;
    Ok(Some(Grid { blocks: (x, (dims.batch * dims.n_heads) as u32, 1), threads: (THREADS, 1, 1) }))
}

/// The types that there are kernels for.
fn kernel_type(dtype: Dtype) -> std::result::Result<&'static str, CudaError> {
    match dtype {
        Dtype::Bf16 | Dtype::F32 => Ok(dtype.name()),
        Dtype::F16 => {
            Err(Error::Presence { op: OP, arg: "kernels for f16", expected: "present", got: "absent" }.into())
        }
    }
}
