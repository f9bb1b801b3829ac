//! Backward pass: the forward pass's operations in reverse.

use super::args::{MixerBackward, MixerGrads, MixerSaved, MixerWeights};
use super::borders::Borders;
use super::decays::{decays, decays_gradient};
use super::forward::rows_mut;
use super::inputs::ScanParts;
use super::sizes::MixerSizes;
use super::workspace::{Parts, bytes};
use crate::error::expect_size;
use crate::ops::causal_conv1d::cuda as causal_conv1d;
use crate::ops::causal_conv1d::cuda::ConvGrads;
use crate::ops::grouped_gemm::cuda as grouped_gemm;
use crate::ops::grouped_gemm::cuda::{GroupedGrads, GroupedWeights, Into};
use crate::ops::mixer::params::OP;
use crate::ops::plan::cuda::{DeviceOffsets, DevicePlan};
use crate::ops::selective_scan::cuda as selective_scan;
use crate::ops::selective_scan::cuda::{BackwardMemory, Dims, ScanGrads, ScanOutputGrads, backward_memory_len};
use crate::runtime::{DeviceElement, DeviceMut, DeviceRows, DeviceRowsMut, Gpu, Result};

/// Bytes of the workspace of [`backward`] on `gpu`, whose multiprocessors the scan's kernel is chosen for.
///
/// # Errors
/// Weights that do not fit together.
pub fn backward_workspace_bytes<T: DeviceElement>(
    gpu: &Gpu,
    plan: &DevicePlan,
    weights: &MixerWeights<'_, T>,
) -> Result<usize> {
    let sizes = weights.sizes(plan)?;
    Ok(Workspace::<T>::bytes(&sizes, scratch_len(gpu, plan, weights, sizes)))
}

/// f32 elements that the operations need one after the other, beside the memory of the input's gradient.
pub(super) fn scratch_len<T: DeviceElement>(
    gpu: &Gpu,
    plan: &DevicePlan,
    weights: &MixerWeights<'_, T>,
    sizes: MixerSizes,
) -> usize {
    let products = [&weights.in_proj, &weights.x_proj, &weights.dt_proj, &weights.out_proj]
        .map(|weights| grouped_gemm::backward_weights_workspace_len(sizes.n_rows, weights));
    let conv = causal_conv1d::workspace_len(plan.batch(), plan.seqlen(), sizes.d_inner);
    let scan = scan_memory_len(gpu, plan, weights, sizes);
    products.into_iter().chain([conv, scan]).max().unwrap_or(0)
}

/// f32 elements that the scan needs beside the memory of the input's gradient.
fn scan_memory_len<T: DeviceElement>(
    gpu: &Gpu,
    plan: &DevicePlan,
    weights: &MixerWeights<'_, T>,
    sizes: MixerSizes,
) -> usize {
    let MixerSizes { n_rows, d_model, d_inner, d_state, dt_rank, .. } = sizes;
    let bias = weights.dt_proj.bias_rows();
    let n_biases = if bias.is_some() { weights.dt_proj.n_groups() } else { 0 };
    let dims = Dims { batch: plan.batch(), seqlen: plan.seqlen(), d_inner, d_state, n_biases };
    // B and C are columns of x_proj's output, behind dt_rank others; all else are whole matrices, or halves of one.
    let vectors = dt_rank.is_multiple_of(8) && bias.is_none_or(|bias| bias.is_aligned(4));
    backward_memory_len::<T>(gpu, dims, vectors, n_rows * d_model * size_of::<T>() / size_of::<f32>())
}

/// A workspace, cut up. Two matrices are free again once the gradient of in_proj's output is there, and are large enough
/// for rows of d_model too.
pub(super) struct Workspace<'a, T> {
    /// `(d_inner, d_state)`.
    a: DeviceMut<'a, f32>,
    /// dt, then its gradient.
    pub dt: DeviceMut<'a, T>,
    /// The gradient of y, then that of u.
    pub grad_u: DeviceMut<'a, T>,
    /// u, then y, then u again.
    u: DeviceMut<'a, T>,
    grad_x_dbl: DeviceMut<'a, T>,
    /// What one operation needs.
    pub scratch: DeviceMut<'a, f32>,
}

impl<'a, T: DeviceElement> Workspace<'a, T> {
    /// Elements of the matrices that are free in the end.
    fn shared_len(sizes: &MixerSizes) -> usize {
        sizes.inner_len().max(sizes.n_rows * sizes.d_model)
    }

    /// Bytes of a workspace with `scratch` elements for an operation.
    pub fn bytes(sizes: &MixerSizes, scratch: usize) -> usize {
        bytes::<f32>(sizes.d_inner * sizes.d_state)
            + 2 * bytes::<T>(Self::shared_len(sizes))
            + bytes::<T>(sizes.inner_len())
            + bytes::<T>(sizes.x_dbl_len())
            + bytes::<f32>(scratch)
    }

    pub fn new(workspace: DeviceMut<'a, u8>, sizes: &MixerSizes, scratch: usize) -> Result<Self> {
        expect_size(OP, "workspace", "bytes", Self::bytes(sizes, scratch), workspace.len())?;
        let (a, parts) = Parts(workspace).take(sizes.d_inner * sizes.d_state)?;
        let (dt, parts) = parts.take(Self::shared_len(sizes))?;
        let (grad_u, parts) = parts.take(Self::shared_len(sizes))?;
        let (u, parts) = parts.take(sizes.inner_len())?;
        let (grad_x_dbl, parts) = parts.take(sizes.x_dbl_len())?;
        let (scratch, _) = parts.take(scratch)?;
        Ok(Self { a, dt, grad_u, u, grad_x_dbl, scratch })
    }
}

/// All gradients; `weights` are those of the forward pass.
///
/// `workspace`: [`backward_workspace_bytes`], whose contents mean nothing before and after.
///
/// # Errors
/// Sizes that disagree, no rows, what was saved or the input's gradient off 16 bytes, rows of the latter that are not dense:
/// nothing is written then. A refused launch.
pub fn backward<T: DeviceElement>(
    gpu: &Gpu,
    plan: &DevicePlan,
    weights: &MixerWeights<'_, T>,
    pass: MixerBackward<'_, T>,
    grads: MixerGrads<'_, T>,
    workspace: DeviceMut<'_, u8>,
) -> Result<()> {
    let sizes = weights.sizes(plan)?;
    let mut workspace = Workspace::new(workspace, &sizes, scratch_len(gpu, plan, weights, sizes))?;
    pass.check(gpu, plan, weights, &sizes)?;
    grads.check(gpu, weights, &sizes)?;
    let MixerBackward { x, mut saved, grad_out } = pass;
    let (inner, mut grad_x, grad_in_proj) = grads.split();
    let lent = grad_x.lend(OP, "grads.x")?;
    backward_to_in_proj(gpu, plan, weights, &mut saved, &grad_out, inner, (&mut workspace, lent))?;

    // 12. in_proj.
    let grad_xz = DeviceRows::new("grad_xz", saved.xz.into_ref(), 2 * sizes.d_inner)?;
    let products = WeightGradients { gpu, offsets: plan.modality_offsets(gpu) };
    grouped_gemm::backward_input(gpu, &products.offsets, &grad_xz, &weights.in_proj, grad_x, Into::Overwrite)?;
    products.run(&x, &grad_xz, &weights.in_proj, grad_in_proj, &mut workspace.scratch)
}

/// Gradients of everything behind in_proj's output.
pub(super) struct InnerGrads<'a, T> {
    conv_weight: DeviceMut<'a, f32>,
    conv_bias: Option<DeviceMut<'a, f32>>,
    x_proj: GroupedGrads<'a, T>,
    dt_proj: GroupedGrads<'a, T>,
    a_log: DeviceMut<'a, f32>,
    d_skip: DeviceMut<'a, f32>,
    out_proj: GroupedGrads<'a, T>,
}

impl<'a, T> MixerGrads<'a, T> {
    /// What [`backward_to_in_proj`] writes, and what in_proj's products do.
    pub(super) fn split(self) -> (InnerGrads<'a, T>, DeviceRowsMut<'a, T>, GroupedGrads<'a, T>) {
        let Self { x, in_proj, conv_weight, conv_bias, x_proj, dt_proj, a_log, d_skip, out_proj } = self;
        (InnerGrads { conv_weight, conv_bias, x_proj, dt_proj, a_log, d_skip, out_proj }, x, in_proj)
    }
}

/// Products that give the gradients of weights, each in the same scratch memory.
pub(super) struct WeightGradients<'a> {
    pub gpu: &'a Gpu,
    pub offsets: DeviceOffsets<'a>,
}

impl WeightGradients<'_> {
    pub fn run<T: DeviceElement>(
        &self,
        x: &DeviceRows<'_, T>,
        grad: &DeviceRows<'_, T>,
        weights: &GroupedWeights<'_, T>,
        grads: GroupedGrads<'_, T>,
        scratch: &mut DeviceMut<'_, f32>,
    ) -> Result<()> {
        let len = grouped_gemm::backward_weights_workspace_len(x.n_rows(), weights);
        let scratch = scratch.reborrow().first("scratch", len)?;
        grouped_gemm::backward_weights(self.gpu, &self.offsets, x, grad, weights, grads, scratch)
    }
}

/// All gradients but those of in_proj and its input; that of in_proj's output takes its place in `saved.xz`. `lent`:
/// elements that are free until this is done.
pub(super) fn backward_to_in_proj<T: DeviceElement>(
    gpu: &Gpu,
    plan: &DevicePlan,
    weights: &MixerWeights<'_, T>,
    saved: &mut MixerSaved<'_, T>,
    grad_out: &DeviceRows<'_, T>,
    grads: InnerGrads<'_, T>,
    (workspace, lent): (&mut Workspace<'_, T>, DeviceMut<'_, f32>),
) -> Result<()> {
    let sizes = weights.sizes(plan)?;
    let borders = Borders::of(gpu, plan, weights)?;
    let MixerSizes { d_inner, d_state, dt_rank, .. } = sizes;
    let width = sizes.x_dbl_width();
    let offsets = plan.modality_offsets(gpu);
    let products = WeightGradients { gpu, offsets: offsets.clone() };
    let Workspace { a, dt, grad_u, u, grad_x_dbl, scratch } = workspace;
    let x_dbl = DeviceRows::new("saved.x_dbl", saved.x_dbl.reborrow().into_ref(), width)?;
    let low = x_dbl.clone().columns(0, dt_rank)?;
    let dt_weights = weights.dt_proj.without_biases();
    let (x, z) = rows_mut("saved.xz", &mut saved.xz, 2 * d_inner)?.split_columns(d_inner)?;
    let ((x, grad_x), (z, grad_z)) = (x.in_place(), z.in_place());
    let inner = sizes.inner_len();
    let mut dt = dt.reborrow().first("dt", inner)?;
    let mut grad_u = grad_u.reborrow().first("grad_u", inner)?;

    // 1. out_proj: the gradient of y. The steps are those of the operation's page.
    let grad_y = rows_mut("grad_y", &mut grad_u, d_inner)?;
    grouped_gemm::backward_input(gpu, &offsets, grad_out, &weights.out_proj, grad_y, Into::Overwrite)?;

    // 2. conv once more.
    let conv = weights.conv_inputs(gpu, plan, x);
    let kept = saved.window.as_mut().map(|window| window.reborrow().into_ref());
    let before = borders.as_ref().zip(kept).and_then(|(borders, kept)| borders.kept(kept));
    let conv = conv.with_initial_state(before.clone());
    causal_conv1d::forward(gpu, &conv, rows_mut("u", u, d_inner)?, None)?;

    // 3. dt_proj once more.
    grouped_gemm::forward(gpu, &offsets, &low, &dt_weights, rows_mut("dt", &mut dt, d_inner)?)?;

    // 4. A.
    decays(gpu, &weights.a_log, a)?;
    let a = a.reborrow().into_ref();

    // 5. scan.
    let (grad_low, grad_bc) = rows_mut("grad_x_dbl", grad_x_dbl, width)?.split_columns(dt_rank)?;
    let (grad_b, grad_c) = grad_bc.split_columns(d_state)?;
    let mut grad_a = grads.a_log;
    {
        let (u, y) = rows_mut("u", u, d_inner)?.in_place();
        let (dt, grad_dt) = rows_mut("dt", &mut dt, d_inner)?.in_place();
        let (grad_y, grad_u) = rows_mut("grad_y", &mut grad_u, d_inner)?.in_place();
        let inputs = ScanParts { u, dt, z, x_dbl, a: a.clone() }.inputs(gpu, plan, weights, sizes)?;
        let len = scan_memory_len(gpu, plan, weights, sizes);
        let to = ScanGrads {
            grad_u,
            grad_dt,
            grad_dt_bias: grads.dt_proj.grad_biases,
            grad_a: grad_a.reborrow(),
            grad_b,
            grad_c,
            grad_d_skip: Some(grads.d_skip),
            grad_z: Some(grad_z),
            grad_initial_state: None,
            out: Some(y),
        };
        let behind = borders.as_ref().map(|borders| borders.state_gradient(&inputs, &grad_y)).transpose()?;
        let received = behind.as_ref().and_then(|behind| behind.received.as_ref());
        let grad_last_state = received.map(|received| received.view(gpu)).transpose()?;
        let output_grads = ScanOutputGrads { grad_out: grad_y, grad_last_state };
        let ends = behind.as_ref().map(|behind| behind.ends(gpu));
        let memory = BackwardMemory { own: scratch.reborrow().first("scratch", len)?, lent, ends };
        let states = saved.states.reborrow().into_ref();
        selective_scan::backward_in(gpu, &inputs, states, &output_grads, to, memory)?;
    }

    // 6. A_log.
    decays_gradient(gpu, &a, &mut grad_a)?;

    // 7. out_proj: its weights.
    {
        let y = DeviceRows::new("y", u.reborrow().into_ref(), d_inner)?;
        products.run(&y, grad_out, &weights.out_proj, grads.out_proj, scratch)?;
    }

    // 8. dt_proj.
    let grad_dt = DeviceRows::new("grad_dt", dt.into_ref(), d_inner)?;
    grouped_gemm::backward_input(gpu, &offsets, &grad_dt, &dt_weights, grad_low, Into::Overwrite)?;
    let dt_grads = GroupedGrads { grad_weights: grads.dt_proj.grad_weights, grad_biases: None };
    products.run(&low, &grad_dt, &dt_weights, dt_grads, scratch)?;

    // 9. x_proj: its input.
    let grad_x_dbl = DeviceRows::new("grad_x_dbl", grad_x_dbl.reborrow().into_ref(), width)?;
    let grad_u_rows = rows_mut("grad_u", &mut grad_u, d_inner)?;
    grouped_gemm::backward_input(gpu, &offsets, &grad_x_dbl, &weights.x_proj, grad_u_rows, Into::Add)?;

    // 10. conv.
    let conv_grads = ConvGrads {
        grad_x,
        // y has served: u comes back on the way, for x_proj.
        out: Some(rows_mut("u", u, d_inner)?),
        grad_weight: grads.conv_weight,
        grad_bias: grads.conv_bias,
        grad_initial_state: None,
    };
    let len = causal_conv1d::workspace_len(plan.batch(), plan.seqlen(), d_inner);
    let grad_u = DeviceRows::new("grad_u", grad_u.into_ref(), d_inner)?;
    let of_conv = |borders: &Borders<'_>| borders.window_gradient(&conv, before, &grad_u);
    let behind = borders.as_ref().map_or(Ok(None), of_conv)?;
    let grad_last = behind.as_ref().map(|behind| behind.view(gpu)).transpose()?;
    causal_conv1d::backward(gpu, &conv, grad_u, grad_last, conv_grads, scratch.reborrow().first("scratch", len)?)?;

    // 11. x_proj: its weights.
    let u = DeviceRows::new("u", u.reborrow().into_ref(), d_inner)?;
    products.run(&u, &grad_x_dbl, &weights.x_proj, grads.x_proj, scratch)
}
