//! The mixer on the GPU, and the residual block around it; equations and meaning as [`crate::mixer`].
//!
//! The operations of this module's siblings in a row, over one workspace that the caller owns. **Saved for backward:**
//! in_proj's and x_proj's outputs and the scan's states. Conv, dt and y are computed again, and so is the norm. The
//! backward pass consumes what was saved: gradients take the place of what they are gradients of.

mod backward;
mod block;
mod check;
mod decays;
mod forward;
pub mod step;
mod workspace;

pub use backward::{MixerBackward, MixerGrads, backward, backward_workspace_bytes};
pub use block::{
    Block, BlockGrads, block_backward, block_backward_workspace_bytes, block_forward, block_forward_workspace_bytes,
};
pub use forward::{MixerOutputs, MixerStates, forward, forward_workspace_bytes};

use super::causal_conv1d::ConvInputs;
use super::grouped_gemm::GroupedWeights;
use super::selective_scan::{DtBias, ScanInputs, forward_workspace_len, saved_states_len};
use super::{DeviceOffsets, DevicePlan, Gpu};
use crate::causal_conv1d::Activation;
use crate::cuda::runtime::{DeviceElement, DeviceMut, DeviceRef, DeviceRows, Result};
use crate::error::{Error, expect_size};
use crate::selective_scan::{DeltaActivation, MAX_D_STATE};

const OP: &str = "mixer";

/// Weights of a mixer: projections of the activations' type, the rest f32.
#[derive(Debug, Clone)]
pub struct MixerWeights<'a, T> {
    /// `d_model -> 2 d_inner`.
    pub in_proj: GroupedWeights<'a, T>,
    /// `(d_inner, d_conv)`.
    pub conv_weight: DeviceRef<'a, f32>,
    /// `(d_inner)`.
    pub conv_bias: Option<DeviceRef<'a, f32>>,
    /// `d_inner -> dt_rank + 2 d_state`, without bias.
    pub x_proj: GroupedWeights<'a, T>,
    /// `dt_rank -> d_inner`; its biases enter in the scan.
    pub dt_proj: GroupedWeights<'a, T>,
    /// `(d_inner, d_state)`: A = -exp(A_log).
    pub a_log: DeviceRef<'a, f32>,
    /// `(d_inner)`: the skip D.
    pub d_skip: DeviceRef<'a, f32>,
    /// `d_inner -> d_model`.
    pub out_proj: GroupedWeights<'a, T>,
}

/// Where the forward pass leaves what [`backward`] needs, which consumes it: lengths are [`MixerSizes`]', and each begins on
/// 16 bytes.
#[derive(Debug)]
pub struct MixerSaved<'a, T> {
    /// `(n_rows, 2 d_inner)`: in_proj's output.
    pub xz: DeviceMut<'a, T>,
    /// `(n_rows, dt_rank + 2 d_state)`: x_proj's output.
    pub x_dbl: DeviceMut<'a, T>,
    /// States of the scan.
    pub states: DeviceMut<'a, f32>,
}

impl<T> MixerSaved<'_, T> {
    /// Fails unless each begins where kernels for vectors ask it to.
    fn expect_vectors(&self) -> Result<()> {
        self.xz.expect_vectors(OP, "saved.xz")?;
        self.x_dbl.expect_vectors(OP, "saved.x_dbl")?;
        self.states.expect_vectors(OP, "saved.states")
    }
}

/// Sizes of a mixer over the rows of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MixerSizes {
    /// Rows.
    pub n_rows: usize,
    /// Features of the input and output.
    pub d_model: usize,
    /// Channels of conv and scan.
    pub d_inner: usize,
    /// States of a channel.
    pub d_state: usize,
    /// Features between x_proj and dt_proj.
    pub dt_rank: usize,
    /// Elements of [`MixerSaved::states`].
    pub states_len: usize,
    /// Elements of the workspace of the scan's forward pass.
    pub scan_workspace_len: usize,
}

impl MixerSizes {
    /// Elements of [`MixerSaved::xz`].
    pub fn xz_len(&self) -> usize {
        self.n_rows * 2 * self.d_inner
    }

    /// Features of x_proj's output.
    pub fn x_dbl_width(&self) -> usize {
        self.dt_rank + 2 * self.d_state
    }

    /// Elements of [`MixerSaved::x_dbl`].
    pub fn x_dbl_len(&self) -> usize {
        self.n_rows * self.x_dbl_width()
    }

    /// Elements of a matrix of channels.
    fn inner_len(&self) -> usize {
        self.n_rows * self.d_inner
    }
}

impl<T: DeviceElement> MixerWeights<'_, T> {
    /// Features of a row, channels, states of a channel, features between x_proj and dt_proj.
    fn features(&self) -> Result<(usize, usize, usize, usize)> {
        let d_inner = self.d_skip.len();
        let d_state = self.a_log.len() / d_inner.max(1);
        let (d_model, dt_rank) = (self.in_proj.in_features(), self.dt_proj.in_features());
        for (arg, expected, got) in [
            ("in_proj output", 2 * d_inner, self.in_proj.out_features()),
            ("x_proj input", d_inner, self.x_proj.in_features()),
            ("x_proj output", dt_rank + 2 * d_state, self.x_proj.out_features()),
            ("dt_proj output", d_inner, self.dt_proj.out_features()),
            ("out_proj input", d_inner, self.out_proj.in_features()),
            ("out_proj output", d_model, self.out_proj.out_features()),
        ] {
            expect_size(OP, arg, "features", expected, got)?;
        }
        expect_size(OP, "a_log", "elements", d_inner * d_state, self.a_log.len())?;
        if !(1..=MAX_D_STATE).contains(&d_state) {
            return Err(Error::Limit { op: OP, arg: "d_state", min: 1, max: MAX_D_STATE, got: d_state }.into());
        }
        Ok((d_model, d_inner, d_state, dt_rank))
    }

    /// Sizes over the rows of a plan.
    ///
    /// # Errors
    /// Weights that do not fit together, more than 64 states.
    pub fn sizes(&self, plan: &DevicePlan) -> Result<MixerSizes> {
        let (d_model, d_inner, d_state, dt_rank) = self.features()?;
        let states_len = saved_states_len(plan.batch(), plan.seqlen(), d_inner, d_state);
        let scan_workspace_len = forward_workspace_len(plan.batch(), plan.seqlen(), d_inner, d_state);
        let n_rows = plan.n_rows();
        Ok(MixerSizes { n_rows, d_model, d_inner, d_state, dt_rank, states_len, scan_workspace_len })
    }

    /// `x`: the first half of in_proj's output.
    fn conv_inputs<'b>(&'b self, gpu: &'b Gpu, plan: &'b DevicePlan, x: DeviceRows<'b, T>) -> ConvInputs<'b, T> {
        ConvInputs {
            layout: plan.layout(gpu),
            x,
            weight: self.conv_weight.clone(),
            bias: self.conv_bias.clone(),
            activation: Activation::Silu,
            initial_state: None,
        }
    }

    fn dt_bias<'b>(&'b self, gpu: &'b Gpu, plan: &'b DevicePlan) -> Option<DtBias<'b>> {
        let offsets = match self.dt_proj.n_groups() {
            1 => DeviceOffsets::single(plan.n_rows()),
            _ => plan.modality_offsets(gpu),
        };
        self.dt_proj.bias_rows().map(|bias| DtBias { bias, offsets })
    }
}

/// What the scan reads, as the mixer's matrices hold it.
struct ScanParts<'b, T> {
    u: DeviceRows<'b, T>,
    dt: DeviceRows<'b, T>,
    z: DeviceRows<'b, T>,
    x_dbl: DeviceRows<'b, T>,
    a: DeviceRef<'b, f32>,
}

impl<'b, T: DeviceElement> ScanParts<'b, T> {
    fn inputs(
        self,
        gpu: &'b Gpu,
        plan: &'b DevicePlan,
        weights: &'b MixerWeights<'_, T>,
        sizes: MixerSizes,
    ) -> Result<ScanInputs<'b, T>> {
        let MixerSizes { d_state, dt_rank, .. } = sizes;
        Ok(ScanInputs {
            layout: plan.layout(gpu),
            u: self.u,
            dt: self.dt,
            dt_bias: weights.dt_bias(gpu, plan),
            delta_activation: DeltaActivation::Softplus,
            a: self.a,
            b: self.x_dbl.clone().columns(dt_rank, d_state)?,
            c: self.x_dbl.columns(dt_rank + d_state, d_state)?,
            d_skip: Some(weights.d_skip.clone()),
            z: Some(self.z),
            initial_state: None,
        })
    }
}
