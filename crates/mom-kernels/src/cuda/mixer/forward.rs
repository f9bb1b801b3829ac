//! Forward pass.

use super::decays::decays;
use super::workspace::{Parts, bytes};
use super::{MixerSaved, MixerSizes, MixerWeights, OP, ScanParts};
use crate::cuda::causal_conv1d::ConvInputs;
use crate::cuda::runtime::{DeviceElement, DeviceMut, DeviceRef, DeviceRows, DeviceRowsMut, Gpu, Result};
use crate::cuda::selective_scan::{self, ScanInputs, ScanOutputs};
use crate::cuda::{DevicePlan, causal_conv1d, grouped_gemm};
use crate::error::expect_size;

/// Bytes of the workspace of [`forward`], which is smaller where it saves.
pub fn forward_workspace_bytes<T: DeviceElement>(sizes: &MixerSizes, saves: bool) -> usize {
    let outputs = if saves { 0 } else { bytes::<T>(sizes.xz_len()) + bytes::<T>(sizes.x_dbl_len()) };
    let scan = bytes::<f32>(sizes.scan_workspace_len);
    bytes::<f32>(sizes.d_inner * sizes.d_state) + scan + 3 * bytes::<T>(sizes.inner_len()) + outputs
}

/// What the forward pass writes.
#[derive(Debug)]
pub struct MixerOutputs<'a, T> {
    /// `(n_rows, d_model)`: the mixer's output.
    pub out: DeviceRowsMut<'a, T>,
    /// `(n_rows, d_model)`: added to the output, where there is one.
    pub residual: Option<DeviceRows<'a, T>>,
    /// What [`super::backward`] needs, if asked for.
    pub saved: Option<MixerSaved<'a, T>>,
    /// Where sequences go on from and are left, while decoding; zero before the first position without it.
    pub states: Option<MixerStates<'a>>,
}

/// Conv's window and the scan's state, f32: read before the first position of every sequence and written behind the last,
/// beside what was there, so that a caller who branches has both.
#[derive(Debug)]
pub struct MixerStates<'a> {
    /// `(batch, d_conv - 1, d_inner)`: inputs of conv, oldest first.
    pub conv: DeviceRef<'a, f32>,
    /// `(batch, d_inner, d_state)`.
    pub scan: DeviceRef<'a, f32>,
    /// As `conv`, overwritten.
    pub next_conv: DeviceMut<'a, f32>,
    /// As `scan`, overwritten.
    pub next_scan: DeviceMut<'a, f32>,
}

/// The mixer over `x`, `(n_rows, d_model)`, rows in modality order.
///
/// `workspace`: [`forward_workspace_bytes`], whose contents mean nothing before and after.
///
/// # Errors
/// Sizes that disagree, no rows, memory for what is saved that does not begin on 16 bytes: nothing is written then. A refused
/// launch.
pub fn forward<T: DeviceElement>(
    gpu: &Gpu,
    plan: &DevicePlan,
    x: &DeviceRows<'_, T>,
    weights: &MixerWeights<'_, T>,
    outputs: MixerOutputs<'_, T>,
    workspace: DeviceMut<'_, u8>,
) -> Result<()> {
    let sizes = weights.sizes(plan)?;
    outputs.check(gpu, plan, x, weights, &sizes)?;
    let MixerOutputs { out, residual, saved, states: carried } = outputs;
    let MixerSizes { d_inner, d_state, dt_rank, .. } = sizes;
    expect_size(OP, "workspace", "bytes", forward_workspace_bytes::<T>(&sizes, saved.is_some()), workspace.len())?;
    let (mut a, parts) = Parts(workspace).take::<f32>(d_inner * d_state)?;
    let (scan_workspace, parts) = parts.take::<f32>(sizes.scan_workspace_len)?;
    let (mut u, parts) = parts.take::<T>(sizes.inner_len())?;
    let (mut dt, parts) = parts.take::<T>(sizes.inner_len())?;
    let (mut y, parts) = parts.take::<T>(sizes.inner_len())?;
    let (mut xz, mut x_dbl, states) = match saved {
        Some(saved) => (saved.xz, saved.x_dbl, Some(saved.states)),
        None => {
            let (xz, parts) = parts.take::<T>(sizes.xz_len())?;
            let (x_dbl, _) = parts.take::<T>(sizes.x_dbl_len())?;
            (xz, x_dbl, None)
        }
    };
    let offsets = plan.modality_offsets(gpu);

    grouped_gemm::forward(gpu, &offsets, x, &weights.in_proj, rows_mut("xz", &mut xz, 2 * d_inner)?)?;
    let xz = DeviceRows::new("xz", xz.into_ref(), 2 * d_inner)?;
    let (window, next_window, state) = match carried {
        Some(MixerStates { conv, scan, next_conv, next_scan }) => {
            (Some(conv), Some(next_conv), Some((scan, next_scan)))
        }
        None => (None, None, None),
    };
    let conv = ConvInputs { initial_state: window, ..weights.conv_inputs(gpu, plan, xz.clone().columns(0, d_inner)?) };
    causal_conv1d::forward(gpu, &conv, rows_mut("u", &mut u, d_inner)?, next_window)?;
    let u = DeviceRows::new("u", u.into_ref(), d_inner)?;
    let width = sizes.x_dbl_width();
    grouped_gemm::forward(gpu, &offsets, &u, &weights.x_proj, rows_mut("x_dbl", &mut x_dbl, width)?)?;
    let x_dbl = DeviceRows::new("x_dbl", x_dbl.into_ref(), width)?;
    let low = x_dbl.clone().columns(0, dt_rank)?;
    let dt_weights = weights.dt_proj.without_biases();
    grouped_gemm::forward(gpu, &offsets, &low, &dt_weights, rows_mut("dt", &mut dt, d_inner)?)?;
    decays(gpu, &weights.a_log, &mut a)?;
    let (dt, z) = (DeviceRows::new("dt", dt.into_ref(), d_inner)?, xz.columns(d_inner, d_inner)?);
    let parts = ScanParts { u, dt, z, x_dbl, a: a.into_ref() };
    let inputs = parts.inputs(gpu, plan, weights, sizes)?;
    let out_of_scan = rows_mut("y", &mut y, d_inner)?;
    match state {
        Some((state, mut next)) if plan.seqlen() == 1 && states.is_none() => {
            let from = DeviceRows::new("scan", state, d_inner * d_state)?;
            gpu.copy_rows(&from, &mut rows_mut("next_scan", &mut next, d_inner * d_state)?)?;
            selective_scan::step(gpu, &inputs, next, out_of_scan)?;
        }
        state => {
            let (initial_state, last_state) = state.unzip();
            let outputs = ScanOutputs { out: out_of_scan, last_state, saved_states: states };
            selective_scan::forward(gpu, &ScanInputs { initial_state, ..inputs }, outputs, scan_workspace)?;
        }
    }
    let y = DeviceRows::new("y", y.into_ref(), d_inner)?;
    grouped_gemm::forward_add(gpu, &offsets, &y, &weights.out_proj, residual.as_ref(), out)
}

/// Writable rows of a part that is needed later too.
pub(super) fn rows_mut<'b, T>(
    arg: &'static str,
    part: &'b mut DeviceMut<'_, T>,
    width: usize,
) -> Result<DeviceRowsMut<'b, T>> {
    DeviceRowsMut::new(arg, part.reborrow(), width)
}
