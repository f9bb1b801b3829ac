//! Forward pass.

use super::args::{MixerOutputs, MixerStates, MixerWeights};
use super::borders::Borders;
use super::decays::decays;
use super::inputs::ScanParts;
use super::sizes::MixerSizes;
use super::workspace::{Parts, bytes};
use crate::error::expect_size;
use crate::ops::causal_conv1d::cuda as causal_conv1d;
use crate::ops::grouped_gemm::cuda as grouped_gemm;
use crate::ops::mixer::params::OP;
use crate::ops::plan::cuda::DevicePlan;
use crate::ops::selective_scan::cuda as selective_scan;
use crate::ops::selective_scan::cuda::ScanOutputs;
use crate::runtime::{DeviceElement, DeviceMut, DeviceRows, DeviceRowsMut, Gpu, Result};

/// Whether a forward pass is to be followed by a backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saves {
    /// It is not: in_proj's and x_proj's outputs lie in the workspace.
    Nothing,
    /// It is: they lie in [`MixerSaved`](super::MixerSaved).
    ForBackward,
}

impl Saves {
    /// What a forward pass does with this memory.
    pub fn of<S>(saved: Option<&S>) -> Self {
        if saved.is_some() { Self::ForBackward } else { Self::Nothing }
    }
}

/// Bytes of the workspace of [`forward`], which is smaller where it saves.
pub fn forward_workspace_bytes<T: DeviceElement>(sizes: &MixerSizes, saves: Saves) -> usize {
    let outputs = match saves {
        Saves::ForBackward => 0,
        Saves::Nothing => bytes::<T>(sizes.xz_len()) + bytes::<T>(sizes.x_dbl_len()),
    };
    let scan = bytes::<f32>(sizes.scan_workspace_len);
    bytes::<f32>(sizes.d_inner * sizes.d_state) + scan + 3 * bytes::<T>(sizes.inner_len()) + outputs
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
    let borders = Borders::of(gpu, plan, weights)?;
    let MixerOutputs { out, residual, saved, states: carried } = outputs;
    let MixerSizes { d_inner, d_state, dt_rank, .. } = sizes;
    expect_size(
        OP,
        "workspace",
        "bytes",
        forward_workspace_bytes::<T>(&sizes, Saves::of(saved.as_ref())),
        workspace.len(),
    )?;
    let (mut a, parts) = Parts(workspace).take::<f32>(d_inner * d_state)?;
    let (scan_workspace, parts) = parts.take::<f32>(sizes.scan_workspace_len)?;
    let (mut u, parts) = parts.take::<T>(sizes.inner_len())?;
    let (mut dt, parts) = parts.take::<T>(sizes.inner_len())?;
    let (mut y, parts) = parts.take::<T>(sizes.inner_len())?;
    let (mut xz, mut x_dbl, states, kept) = match saved {
        Some(saved) => (saved.xz, saved.x_dbl, Some(saved.states), saved.window),
        None => {
            let (xz, parts) = parts.take::<T>(sizes.xz_len())?;
            let (x_dbl, _) = parts.take::<T>(sizes.x_dbl_len())?;
            (xz, x_dbl, None, None)
        }
    };
    let offsets = plan.modality_offsets(gpu);

    // 1. in_proj. The steps are those of the operation's page.
    grouped_gemm::forward(gpu, &offsets, x, &weights.in_proj, rows_mut("xz", &mut xz, 2 * d_inner)?)?;
    let xz = DeviceRows::new("xz", xz.into_ref(), 2 * d_inner)?;

    // 2. conv.
    let (window, next_window, state) = match carried {
        Some(MixerStates { conv, scan, next_conv, next_scan }) => {
            (Some(conv), Some(next_conv), Some((scan, next_scan)))
        }
        None => (None, None, None),
    };
    let conv = weights.conv_inputs(gpu, plan, xz.clone().columns(0, d_inner)?);
    let before = borders.as_ref().map_or(Ok(None), |borders| borders.window(&conv))?;
    let before = before.as_ref().map(|before| before.view(gpu)).transpose()?;
    if let (Some(borders), Some(kept)) = (&borders, kept) {
        borders.keep(before.as_ref(), kept)?;
    }
    let conv = conv.with_initial_state(before.or(window));
    causal_conv1d::forward(gpu, &conv, rows_mut("u", &mut u, d_inner)?, next_window)?;
    let u = DeviceRows::new("u", u.into_ref(), d_inner)?;

    // 3. x_proj.
    let width = sizes.x_dbl_width();
    grouped_gemm::forward(gpu, &offsets, &u, &weights.x_proj, rows_mut("x_dbl", &mut x_dbl, width)?)?;
    let x_dbl = DeviceRows::new("x_dbl", x_dbl.into_ref(), width)?;

    // 4. dt_proj.
    let low = x_dbl.clone().columns(0, dt_rank)?;
    let dt_weights = weights.dt_proj.without_biases();
    grouped_gemm::forward(gpu, &offsets, &low, &dt_weights, rows_mut("dt", &mut dt, d_inner)?)?;

    // 5. A.
    decays(gpu, &weights.a_log, &mut a)?;

    // 6. scan.
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
            match borders.as_ref().map(|borders| borders.state(&inputs)).transpose()? {
                None => {
                    let inputs = inputs.with_initial_state(initial_state);
                    selective_scan::forward(gpu, &inputs, outputs, scan_workspace)?;
                }
                Some(carried) => {
                    let received = carried.received.as_ref().map(|received| received.view(gpu)).transpose()?;
                    let inputs = inputs.with_initial_state(received.or(initial_state));
                    selective_scan::forward_with_ends(gpu, &inputs, outputs, carried.ends(gpu))?;
                }
            }
        }
    }

    // 7. out_proj, and the residual.
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
