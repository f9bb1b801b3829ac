//! The residual block: `x + mixer(norm(x))`, the whole of it forward and backward.

use super::workspace::{Parts, bytes};
use super::{MixerBackward, MixerGrads, MixerOutputs, MixerSaved, MixerWeights, OP};
use super::{backward, backward_workspace_bytes, forward, forward_workspace_bytes};
use crate::cuda::error::Result;
use crate::cuda::memory::{DeviceElement, DeviceMut, DeviceRef, DeviceRows, DeviceRowsMut};
use crate::cuda::rms_norm::{self, NormInputs};
use crate::cuda::{DevicePlan, Gpu};
use crate::error::expect_size;

/// Weights of a block.
#[derive(Debug, Clone)]
pub struct Block<'a, T> {
    /// `(d_model)`: the norm's.
    pub norm: DeviceRef<'a, f32>,
    /// Added to the mean square in the norm.
    pub norm_eps: f32,
    /// The mixer.
    pub mixer: MixerWeights<'a, T>,
}

/// Gradients of a block; [`MixerGrads::x`] is that of the block's input.
#[derive(Debug)]
pub struct BlockGrads<'a, T> {
    /// `(d_model)`.
    pub norm: DeviceMut<'a, f32>,
    /// Of the mixer's weights, and of the input.
    pub mixer: MixerGrads<'a, T>,
}

/// Bytes of the workspace of [`block_forward`].
///
/// # Errors
/// Weights that do not fit together.
pub fn block_forward_workspace_bytes<T: DeviceElement>(
    plan: &DevicePlan,
    block: &Block<'_, T>,
    saves: bool,
) -> Result<usize> {
    let sizes = block.mixer.sizes(plan)?;
    Ok(bytes::<T>(sizes.n_rows * sizes.d_model) + forward_workspace_bytes::<T>(&sizes, saves))
}

/// `out = x + mixer(norm(x))`, both `(n_rows, d_model)`.
///
/// `workspace`: [`block_forward_workspace_bytes`], whose contents mean nothing before and after.
///
/// # Errors
/// Sizes that disagree, a refused launch.
pub fn block_forward<T: DeviceElement>(
    gpu: &Gpu,
    plan: &DevicePlan,
    x: &DeviceRows<'_, T>,
    block: &Block<'_, T>,
    out: DeviceRowsMut<'_, T>,
    saved: Option<MixerSaved<'_, T>>,
    workspace: DeviceMut<'_, u8>,
) -> Result<()> {
    let expected = block_forward_workspace_bytes(plan, block, saved.is_some())?;
    expect_size(OP, "workspace", "bytes", expected, workspace.len())?;
    let (normed, rest) = normed(gpu, plan, x, block, workspace)?;
    forward(gpu, plan, &normed, &block.mixer, MixerOutputs { out, residual: Some(x.clone()), saved }, rest)
}

/// Bytes of the workspace of [`block_backward`].
///
/// # Errors
/// Weights that do not fit together.
pub fn block_backward_workspace_bytes<T: DeviceElement>(plan: &DevicePlan, block: &Block<'_, T>) -> Result<usize> {
    let sizes = block.mixer.sizes(plan)?;
    let norm = rms_norm::backward_workspace_len(sizes.n_rows, sizes.d_model);
    Ok(2 * bytes::<T>(sizes.n_rows * sizes.d_model)
        + bytes::<f32>(norm)
        + backward_workspace_bytes(plan, &block.mixer)?)
}

/// All gradients; `pass` and `block` are those of the block's forward pass.
///
/// `workspace`: [`block_backward_workspace_bytes`], whose contents mean nothing before and after.
///
/// # Errors
/// Sizes that disagree, a refused launch.
pub fn block_backward<T: DeviceElement>(
    gpu: &Gpu,
    plan: &DevicePlan,
    block: &Block<'_, T>,
    pass: &MixerBackward<'_, T>,
    grads: BlockGrads<'_, T>,
    workspace: DeviceMut<'_, u8>,
) -> Result<()> {
    let expected = block_backward_workspace_bytes(plan, block)?;
    expect_size(OP, "workspace", "bytes", expected, workspace.len())?;
    let MixerBackward { x, saved, grad_out } = pass;
    let (n_rows, d_model) = (x.n_rows(), x.width());
    let (normed, rest) = normed(gpu, plan, x, block, workspace)?;
    let (mut grad_normed, parts) = Parts(rest).take::<T>(n_rows * d_model)?;
    let (scratch, parts) = parts.take::<f32>(rms_norm::backward_workspace_len(n_rows, d_model))?;
    let BlockGrads { norm, mixer } = grads;
    let grad_x = mixer.x;
    let grad_normed_rows = DeviceRowsMut::new("grad_normed", grad_normed.reborrow(), d_model)?;
    let mixer = MixerGrads { x: grad_normed_rows, ..mixer };
    let inner = MixerBackward { x: normed, saved: saved.clone(), grad_out: grad_out.clone() };
    backward(gpu, plan, &block.mixer, &inner, mixer, parts.0)?;
    let inputs = NormInputs {
        x: x.clone(),
        weight: block.norm.clone(),
        eps: block.norm_eps,
        grad_y: DeviceRows::new("grad_normed", grad_normed.into_ref(), d_model)?,
        grad_sum: Some(grad_out.clone()),
    };
    rms_norm::backward(gpu, &inputs, grad_x, norm, scratch)
}

/// The norm of x at the head of a workspace, and the rest of it.
fn normed<'a, T: DeviceElement>(
    gpu: &Gpu,
    plan: &DevicePlan,
    x: &DeviceRows<'_, T>,
    block: &Block<'_, T>,
    workspace: DeviceMut<'a, u8>,
) -> Result<(DeviceRows<'a, T>, DeviceMut<'a, u8>)> {
    let d_model = block.mixer.in_proj.in_features();
    x.expect(OP, "x", plan.n_rows(), d_model)?;
    let (mut normed, rest) = Parts(workspace).take::<T>(plan.n_rows() * d_model)?;
    let rows = DeviceRowsMut::new("normed", normed.reborrow(), d_model)?;
    rms_norm::forward(gpu, x.clone(), None, block.norm.clone(), block.norm_eps, rows)?;
    Ok((DeviceRows::new("normed", normed.into_ref(), d_model)?, rest.0))
}
