//! The residual block: `x + mixer(norm(x))`, the whole of it forward and backward.

use super::args::{Block, BlockGrads, MixerBackward, MixerOutputs, MixerSaved};
use super::backward::{WeightGradients, Workspace, backward_to_in_proj, scratch_len};
use super::forward::{Saves, forward, forward_workspace_bytes, rows_mut};
use super::sizes::MixerSizes;
use super::workspace::{Parts, bytes};
use crate::error::expect_size;
use crate::ops::grouped_gemm::cuda as grouped_gemm;
use crate::ops::grouped_gemm::cuda::Into;
use crate::ops::mixer::params::OP;
use crate::ops::plan::cuda::DevicePlan;
use crate::ops::rms_norm::cuda as rms_norm;
use crate::ops::rms_norm::cuda::NormInputs;
use crate::runtime::{DeviceElement, DeviceMut, DeviceRows, DeviceRowsMut, Gpu, Result};

/// Bytes of the workspace of [`block_forward`].
///
/// # Errors
/// Weights that do not fit together.
pub fn block_forward_workspace_bytes<T: DeviceElement>(
    plan: &DevicePlan,
    block: &Block<'_, T>,
    saves: Saves,
) -> Result<usize> {
    let sizes = block.mixer.sizes(plan)?;
    Ok(bytes::<T>(sizes.n_rows * sizes.d_model) + forward_workspace_bytes::<T>(&sizes, saves))
}

/// `out = x + mixer(norm(x))`, both `(n_rows, d_model)`.
///
/// `workspace`: [`block_forward_workspace_bytes`], whose contents mean nothing before and after.
///
/// # Errors
/// As [`super::forward`].
pub fn block_forward<T: DeviceElement>(
    gpu: &Gpu,
    plan: &DevicePlan,
    x: &DeviceRows<'_, T>,
    block: &Block<'_, T>,
    out: DeviceRowsMut<'_, T>,
    saved: Option<MixerSaved<'_, T>>,
    workspace: DeviceMut<'_, u8>,
) -> Result<()> {
    let expected = block_forward_workspace_bytes(plan, block, Saves::of(saved.as_ref()))?;
    expect_size(OP, "workspace", "bytes", expected, workspace.len())?;
    let sizes = block.mixer.sizes(plan)?;
    let MixerSizes { n_rows, d_model, .. } = sizes;
    expect_size(OP, "norm", "elements", d_model, block.norm.len())?;
    block.norm.address(gpu)?;
    let outputs = MixerOutputs { out, residual: Some(x.clone()), saved, states: None };
    outputs.check(gpu, plan, x, &block.mixer, &sizes)?;
    let (normed, Parts(rest)) = Parts(workspace).take::<T>(n_rows * d_model)?;
    let normed = block.normed(gpu, x, normed)?;
    forward(gpu, plan, &normed, &block.mixer, outputs, rest)
}

/// Bytes of the workspace of [`block_backward`] on `gpu`, whose multiprocessors the scan's kernel is chosen for.
///
/// # Errors
/// Weights that do not fit together.
pub fn block_backward_workspace_bytes<T: DeviceElement>(
    gpu: &Gpu,
    plan: &DevicePlan,
    block: &Block<'_, T>,
) -> Result<usize> {
    let sizes = block.mixer.sizes(plan)?;
    Ok(Workspace::<T>::bytes(&sizes, backward_scratch_len(gpu, plan, block, sizes)))
}

/// f32 elements that the operations need one after the other, beside the memory of the input's gradient.
fn backward_scratch_len<T: DeviceElement>(
    gpu: &Gpu,
    plan: &DevicePlan,
    block: &Block<'_, T>,
    sizes: MixerSizes,
) -> usize {
    let norm = rms_norm::backward_workspace_len(sizes.n_rows, sizes.d_model);
    scratch_len(gpu, plan, &block.mixer, sizes).max(norm)
}

/// All gradients; `pass` and `block` are those of the block's forward pass.
///
/// `workspace`: [`block_backward_workspace_bytes`], whose contents mean nothing before and after.
///
/// # Errors
/// As [`super::backward`].
pub fn block_backward<T: DeviceElement>(
    gpu: &Gpu,
    plan: &DevicePlan,
    block: &Block<'_, T>,
    pass: MixerBackward<'_, T>,
    grads: BlockGrads<'_, T>,
    workspace: DeviceMut<'_, u8>,
) -> Result<()> {
    let sizes = block.mixer.sizes(plan)?;
    let MixerSizes { n_rows, d_model, d_inner, .. } = sizes;
    pass.check(gpu, plan, &block.mixer, &sizes)?;
    expect_size(OP, "norm", "elements", d_model, block.norm.len())?;
    expect_size(OP, "grads.norm", "elements", d_model, grads.norm.len())?;
    block.norm.address(gpu)?;
    grads.norm.address(gpu)?;
    grads.mixer.check(gpu, &block.mixer, &sizes)?;
    let MixerBackward { x, mut saved, grad_out } = pass;
    let mut workspace = Workspace::new(workspace, &sizes, backward_scratch_len(gpu, plan, block, sizes))?;
    let BlockGrads { norm: grad_norm, mixer } = grads;
    let (inner, mut grad_x, grad_in_proj) = mixer.split();
    let lent = grad_x.lend(OP, "grads.x")?;
    backward_to_in_proj(gpu, plan, &block.mixer, &mut saved, &grad_out, inner, (&mut workspace, lent))?;

    // 12. in_proj, from the norm computed once more.
    let products = WeightGradients { gpu, offsets: plan.modality_offsets(gpu) };
    let grad_xz = DeviceRows::new("grad_xz", saved.xz.into_ref(), 2 * d_inner)?;
    let Workspace { dt: normed, grad_u: grad_normed, mut scratch, .. } = workspace;
    let mut grad_normed = grad_normed.first("grad_normed", n_rows * d_model)?;
    let to = rows_mut("grad_normed", &mut grad_normed, d_model)?;
    grouped_gemm::backward_input(gpu, &products.offsets, &grad_xz, &block.mixer.in_proj, to, Into::Overwrite)?;
    let normed = normed.first("normed", n_rows * d_model)?;
    let normed = block.normed(gpu, &x, normed)?;
    products.run(&normed, &grad_xz, &block.mixer.in_proj, grad_in_proj, &mut scratch)?;
    let inputs = NormInputs {
        x,
        weight: block.norm.clone(),
        eps: block.norm_eps,
        grad_y: DeviceRows::new("grad_normed", grad_normed.into_ref(), d_model)?,
        grad_sum: Some(grad_out),
    };
    let scratch = scratch.first("scratch", rms_norm::backward_workspace_len(n_rows, d_model))?;
    rms_norm::backward(gpu, &inputs, grad_x, grad_norm, scratch)
}

impl<T: DeviceElement> Block<'_, T> {
    /// The norm of x, written to `to`.
    fn normed<'a>(&self, gpu: &Gpu, x: &DeviceRows<'_, T>, mut to: DeviceMut<'a, T>) -> Result<DeviceRows<'a, T>> {
        let rows = rows_mut("normed", &mut to, x.width())?;
        rms_norm::forward(gpu, x.clone(), None, self.norm.clone(), self.norm_eps, rows)?;
        DeviceRows::new("normed", to.into_ref(), x.width())
    }
}
