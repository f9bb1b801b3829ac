//! Backward pass: the forward pass's operations in reverse.

use super::decays::{decays, decays_gradient};
use super::forward::rows_mut;
use super::workspace::{Parts, bytes};
use super::{MixerSavedRef, MixerSizes, MixerWeights, OP, ScanParts};
use crate::cuda::causal_conv1d::{self, ConvGrads};
use crate::cuda::error::Result;
use crate::cuda::grouped_gemm::{self, GroupedGrads, GroupedWeights, Into};
use crate::cuda::memory::{DeviceElement, DeviceMut, DeviceRows, DeviceRowsMut};
use crate::cuda::selective_scan::{self, ScanGrads, ScanOutputGrads};
use crate::cuda::{DevicePlan, Gpu};
use crate::error::expect_size;

/// Gradients of everything that a mixer reads, all overwritten.
#[derive(Debug)]
pub struct MixerGrads<'a, T> {
    /// `(n_rows, d_model)`: of the input.
    pub x: DeviceRowsMut<'a, T>,
    /// Of in_proj.
    pub in_proj: GroupedGrads<'a, T>,
    /// `(d_inner, d_conv)`.
    pub conv_weight: DeviceMut<'a, f32>,
    /// `(d_inner)`; exactly where there is a bias.
    pub conv_bias: Option<DeviceMut<'a, f32>>,
    /// Of x_proj.
    pub x_proj: GroupedGrads<'a, T>,
    /// Of dt_proj, biases too.
    pub dt_proj: GroupedGrads<'a, T>,
    /// `(d_inner, d_state)`.
    pub a_log: DeviceMut<'a, f32>,
    /// `(d_inner)`.
    pub d_skip: DeviceMut<'a, f32>,
    /// Of out_proj.
    pub out_proj: GroupedGrads<'a, T>,
}

/// What the backward pass reads of the forward pass and of what followed.
#[derive(Debug, Clone)]
pub struct MixerBackward<'a, T> {
    /// `(n_rows, d_model)`: as it was in the forward pass.
    pub x: DeviceRows<'a, T>,
    /// What the forward pass wrote.
    pub saved: MixerSavedRef<'a, T>,
    /// `(n_rows, d_model)`: gradient of the output.
    pub grad_out: DeviceRows<'a, T>,
}

/// Bytes of the workspace of [`backward`].
///
/// # Errors
/// Weights that do not fit together.
pub fn backward_workspace_bytes<T: DeviceElement>(plan: &DevicePlan, weights: &MixerWeights<'_, T>) -> Result<usize> {
    let sizes = weights.sizes(plan)?;
    let scratch = scratch_len(plan, weights, sizes)?;
    Ok(bytes::<f32>(sizes.d_inner * sizes.d_state)
        + 6 * bytes::<T>(sizes.inner_len())
        + bytes::<T>(sizes.xz_len())
        + bytes::<T>(sizes.x_dbl_len())
        + bytes::<f32>(scratch))
}

/// f32 elements that the operations need one after the other.
fn scratch_len<T: DeviceElement>(plan: &DevicePlan, weights: &MixerWeights<'_, T>, sizes: MixerSizes) -> Result<usize> {
    let products = [&weights.in_proj, &weights.x_proj, &weights.dt_proj, &weights.out_proj]
        .map(|weights| grouped_gemm::backward_weights_workspace_len(sizes.n_rows, weights));
    let conv = causal_conv1d::workspace_len(plan.batch(), plan.seqlen(), sizes.d_inner);
    let n_biases = if weights.dt_proj.has_biases() { weights.dt_proj.n_groups() } else { 0 };
    let scan = selective_scan::workspace_len(plan.batch(), plan.seqlen(), sizes.d_inner, sizes.d_state, n_biases);
    Ok(products.into_iter().chain([conv, scan]).max().unwrap_or(0))
}

/// All gradients; `weights` are those of the forward pass.
///
/// `workspace`: [`backward_workspace_bytes`], whose contents mean nothing before and after.
///
/// # Errors
/// Sizes that disagree, a refused launch.
pub fn backward<T: DeviceElement>(
    gpu: &Gpu,
    plan: &DevicePlan,
    weights: &MixerWeights<'_, T>,
    pass: &MixerBackward<'_, T>,
    grads: MixerGrads<'_, T>,
    workspace: DeviceMut<'_, u8>,
) -> Result<()> {
    let sizes = weights.sizes(plan)?;
    let MixerSizes { d_inner, d_state, dt_rank, .. } = sizes;
    let MixerBackward { x, saved, grad_out } = pass;
    expect_size(OP, "workspace", "bytes", backward_workspace_bytes(plan, weights)?, workspace.len())?;
    let (mut a, parts) = Parts(workspace).take::<f32>(d_inner * d_state)?;
    let inner = sizes.inner_len();
    let (mut u, parts) = parts.take::<T>(inner)?;
    let (mut dt, parts) = parts.take::<T>(inner)?;
    let (mut y, parts) = parts.take::<T>(inner)?;
    let (mut grad_u, parts) = parts.take::<T>(inner)?;
    let (mut grad_dt, parts) = parts.take::<T>(inner)?;
    let (mut grad_y, parts) = parts.take::<T>(inner)?;
    let (mut grad_xz, parts) = parts.take::<T>(sizes.xz_len())?;
    let (mut grad_x_dbl, parts) = parts.take::<T>(sizes.x_dbl_len())?;
    let (mut scratch, _) = parts.take::<f32>(scratch_len(plan, weights, sizes)?)?;
    let offsets = plan.modality_offsets(gpu);
    let width = sizes.x_dbl_width();
    let xz = DeviceRows::new("saved.xz", saved.xz.clone(), 2 * d_inner)?;
    let x_dbl = DeviceRows::new("saved.x_dbl", saved.x_dbl.clone(), width)?;
    let low = x_dbl.clone().columns(0, dt_rank)?;
    let dt_weights = weights.dt_proj.without_biases();

    let grad_y_rows = rows_mut("grad_y", &mut grad_y, d_inner)?;
    grouped_gemm::backward_input(gpu, &offsets, grad_out, &weights.out_proj, grad_y_rows, Into::Overwrite)?;
    let conv = weights.conv_inputs(gpu, plan, &xz)?;
    causal_conv1d::forward(gpu, &conv, rows_mut("u", &mut u, d_inner)?, None)?;
    let u = DeviceRows::new("u", u.into_ref(), d_inner)?;
    grouped_gemm::forward(gpu, &offsets, &low, &dt_weights, rows_mut("dt", &mut dt, d_inner)?)?;
    decays(gpu, &weights.a_log, &mut a)?;
    let a = a.into_ref();

    let (grad_conv_x, grad_z) = rows_mut("grad_xz", &mut grad_xz, 2 * d_inner)?.split_columns(d_inner)?;
    let (grad_low, grad_bc) = rows_mut("grad_x_dbl", &mut grad_x_dbl, width)?.split_columns(dt_rank)?;
    let (grad_b, grad_c) = grad_bc.split_columns(d_state)?;
    let mut a_log = grads.a_log;
    let dt = DeviceRows::new("dt", dt.into_ref(), d_inner)?;
    let parts = ScanParts { xz: xz.clone(), u: u.clone(), dt, x_dbl: x_dbl.clone(), a: a.clone() };
    let grad_y = DeviceRows::new("grad_y", grad_y.into_ref(), d_inner)?;
    let inputs = parts.inputs(gpu, plan, weights, sizes)?;
    let len = selective_scan::backward_workspace_len(&inputs)?;
    selective_scan::backward(
        gpu,
        &inputs,
        saved.states.clone(),
        &ScanOutputGrads { grad_out: grad_y, grad_last_state: None },
        ScanGrads {
            grad_u: rows_mut("grad_u", &mut grad_u, d_inner)?,
            grad_dt: rows_mut("grad_dt", &mut grad_dt, d_inner)?,
            grad_dt_bias: grads.dt_proj.grad_biases,
            grad_a: a_log.reborrow(),
            grad_b,
            grad_c,
            grad_d_skip: Some(grads.d_skip),
            grad_z: Some(grad_z),
            grad_initial_state: None,
            out: Some(rows_mut("y", &mut y, d_inner)?),
        },
        scratch.reborrow().first("scratch", len)?,
    )?;
    decays_gradient(gpu, &a, &mut a_log)?;

    let mut weight_gradients =
        |x: &DeviceRows<'_, T>, grad: &DeviceRows<'_, T>, weights: &GroupedWeights<'_, T>, grads| {
            let len = grouped_gemm::backward_weights_workspace_len(sizes.n_rows, weights);
            let scratch = scratch.reborrow().first("scratch", len)?;
            grouped_gemm::backward_weights(gpu, &offsets, x, grad, weights, grads, scratch)
        };
    let y = DeviceRows::new("y", y.into_ref(), d_inner)?;
    weight_gradients(&y, grad_out, &weights.out_proj, grads.out_proj)?;

    let grad_dt = DeviceRows::new("grad_dt", grad_dt.into_ref(), d_inner)?;
    grouped_gemm::backward_input(gpu, &offsets, &grad_dt, &dt_weights, grad_low, Into::Overwrite)?;
    let dt_grads = GroupedGrads { grad_weights: grads.dt_proj.grad_weights, grad_biases: None };
    weight_gradients(&low, &grad_dt, &dt_weights, dt_grads)?;

    let grad_x_dbl = DeviceRows::new("grad_x_dbl", grad_x_dbl.into_ref(), width)?;
    let grad_u_rows = rows_mut("grad_u", &mut grad_u, d_inner)?;
    grouped_gemm::backward_input(gpu, &offsets, &grad_x_dbl, &weights.x_proj, grad_u_rows, Into::Add)?;
    weight_gradients(&u, &grad_x_dbl, &weights.x_proj, grads.x_proj)?;

    let conv_grads = ConvGrads {
        grad_x: grad_conv_x,
        grad_weight: grads.conv_weight,
        grad_bias: grads.conv_bias,
        grad_initial_state: None,
    };
    let grad_u = DeviceRows::new("grad_u", grad_u.into_ref(), d_inner)?;
    let len = causal_conv1d::workspace_len(plan.batch(), plan.seqlen(), d_inner);
    causal_conv1d::backward(gpu, &conv, grad_u, None, conv_grads, scratch.reborrow().first("scratch", len)?)?;

    let grad_xz = DeviceRows::new("grad_xz", grad_xz.into_ref(), 2 * d_inner)?;
    grouped_gemm::backward_input(gpu, &offsets, &grad_xz, &weights.in_proj, grads.x, Into::Overwrite)?;
    let len = grouped_gemm::backward_weights_workspace_len(sizes.n_rows, &weights.in_proj);
    let scratch = scratch.first("scratch", len)?;
    grouped_gemm::backward_weights(gpu, &offsets, x, &grad_xz, &weights.in_proj, grads.in_proj, scratch)
}
