//! Forward pass.

use super::decays::decays;
use super::workspace::{Parts, bytes};
use super::{MixerSaved, MixerSizes, MixerWeights, OP, ScanParts};
use crate::cuda::error::Result;
use crate::cuda::memory::{DeviceElement, DeviceMut, DeviceRows, DeviceRowsMut};
use crate::cuda::selective_scan::{self, ScanOutputs};
use crate::cuda::{DevicePlan, Gpu, causal_conv1d, grouped_gemm};
use crate::error::expect_size;

/// Bytes of the workspace of [`forward`], which is smaller where it saves.
pub fn forward_workspace_bytes<T: DeviceElement>(sizes: &MixerSizes, saves: bool) -> usize {
    let outputs = if saves { 0 } else { bytes::<T>(sizes.xz_len()) + bytes::<T>(sizes.x_dbl_len()) };
    bytes::<f32>(sizes.d_inner * sizes.d_state) + 3 * bytes::<T>(sizes.inner_len()) + outputs
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
}

/// The mixer over `x`, `(n_rows, d_model)`, rows in modality order.
///
/// `workspace`: [`forward_workspace_bytes`], whose contents mean nothing before and after.
///
/// # Errors
/// Sizes that disagree, a refused launch.
pub fn forward<T: DeviceElement>(
    gpu: &Gpu,
    plan: &DevicePlan,
    x: &DeviceRows<'_, T>,
    weights: &MixerWeights<'_, T>,
    outputs: MixerOutputs<'_, T>,
    workspace: DeviceMut<'_, u8>,
) -> Result<()> {
    let sizes = weights.sizes(plan)?;
    let MixerOutputs { out, residual, saved } = outputs;
    let MixerSizes { d_inner, d_state, dt_rank, .. } = sizes;
    expect_size(OP, "workspace", "bytes", forward_workspace_bytes::<T>(&sizes, saved.is_some()), workspace.len())?;
    let (mut a, parts) = Parts(workspace).take::<f32>(d_inner * d_state)?;
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
    let conv = weights.conv_inputs(gpu, plan, xz.clone().columns(0, d_inner)?);
    causal_conv1d::forward(gpu, &conv, rows_mut("u", &mut u, d_inner)?, None)?;
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
    let outputs = ScanOutputs { out: rows_mut("y", &mut y, d_inner)?, last_state: None, saved_states: states };
    selective_scan::forward(gpu, &parts.inputs(gpu, plan, weights, sizes)?, outputs)?;
    let y = DeviceRows::new("y", y.into_ref(), d_inner)?;
    grouped_gemm::forward_add(gpu, &offsets, &y, &weights.out_proj, residual.as_ref(), out)
}

/// Writable rows of a part that is needed later too.
pub(super) fn rows_mut<'b, T>(
    arg: &'static str,
    part: &'b mut DeviceMut<'_, T>,
    width: usize,
) -> Result<DeviceRowsMut<'b, T>> {
    Ok(DeviceRowsMut::new(arg, part.reborrow(), width)?)
}
