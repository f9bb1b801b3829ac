//! The Mixture-of-Mamba mixer: everything between the norm and the residual of a block.
//!
//! ```text
//! [x | z]     = in_proj_m(input)                 d_model -> 2 d_inner      per modality
//! u           = silu(conv1d(x))                  along time                shared
//! [dt | B | C] = x_proj_m(u)                     d_inner -> dt_rank + 2 d_state
//! delta       = softplus(dt_proj_m(dt) + bias_m) dt_rank -> d_inner
//! y           = scan(u, delta, -exp(A_log), B, C, D) silu(z)               shared
//! output      = out_proj_m(y)                    d_inner -> d_model
//! ```
//!
//! Source: class `MixtureOfMamba` of the published code (arXiv 2501.16295), with the dt bias applied also where dt_proj
//! is shared. A projection with a single weight is shared by all modalities; four of them make a dense Mamba mixer.
//!
//! **Saved for backward:** in_proj's and x_proj's outputs and the scan's states. Conv, dt and y are computed again.

mod backward;
mod forward;

pub use backward::{MixerGrads, ProjectionGrads, backward};
pub use forward::{MixerSaved, forward, forward_saving, step};

use crate::causal_conv1d::{Activation, ConvInputs};
use crate::error::{Result, expect_size};
use crate::grouped_gemm::GroupedWeights;
use crate::plan::{ModalityOffsets, ModalityPlan};
use crate::rows::Rows;
use crate::selective_scan::{DeltaActivation, DtBias, ScanInputs};
use crate::simd::Element;

const OP: &str = "mixer";

/// Weights of a mixer.
#[derive(Debug, Clone)]
pub struct MixerWeights<'a, T> {
    /// `d_model -> 2 d_inner`.
    pub in_proj: GroupedWeights<'a, T>,
    /// `(d_inner, d_conv)`.
    pub conv_weight: &'a [T],
    /// `(d_inner)`.
    pub conv_bias: Option<&'a [T]>,
    /// `d_inner -> dt_rank + 2 d_state`, without bias.
    pub x_proj: GroupedWeights<'a, T>,
    /// `dt_rank -> d_inner`; its biases enter in the scan.
    pub dt_proj: GroupedWeights<'a, T>,
    /// `(d_inner, d_state)`: A = -exp(A_log).
    pub a_log: &'a [T],
    /// `(d_inner)`: the skip D.
    pub d_skip: &'a [T],
    /// `d_inner -> d_model`.
    pub out_proj: GroupedWeights<'a, T>,
}

/// What a sequence carries from one call to the next; `batch` of each.
#[derive(Debug, Clone, PartialEq)]
pub struct MixerState<T> {
    /// `(batch, d_conv - 1, d_inner)`: the last inputs of the conv, oldest first.
    pub conv: Vec<T>,
    /// `(batch, d_inner, d_state)`: the scan's state.
    pub scan: Vec<T>,
}

impl<T: Element> MixerState<T> {
    /// The state before a sequence: zero.
    pub fn zeros(weights: &MixerWeights<'_, T>, batch: usize) -> Self {
        // Weights that do not fit together give a state that the operations then refuse.
        let taps_before = weights.conv_weight.len().saturating_sub(weights.d_inner());
        Self { conv: vec![T::ZERO; batch * taps_before], scan: vec![T::ZERO; batch * weights.a_log.len()] }
    }
}

impl<T: Element> MixerWeights<'_, T> {
    /// Features of the input and output.
    pub fn d_model(&self) -> usize {
        self.in_proj.in_features()
    }

    /// Channels of conv and scan.
    pub fn d_inner(&self) -> usize {
        self.d_skip.len()
    }

    /// States of a channel.
    pub fn d_state(&self) -> usize {
        self.a_log.len() / self.d_skip.len().max(1)
    }

    /// Features between x_proj and dt_proj.
    pub fn dt_rank(&self) -> usize {
        self.dt_proj.in_features()
    }

    /// Checks that the parts fit together; each operation checks its own sizes again.
    fn validate(&self) -> Result<()> {
        let (d_inner, d_state) = (self.d_inner(), self.d_state());
        let features = |arg, expected, got| expect_size(OP, arg, "features", expected, got);
        features("in_proj output", 2 * d_inner, self.in_proj.out_features())?;
        features("x_proj input", d_inner, self.x_proj.in_features())?;
        features("x_proj output", self.dt_rank() + 2 * d_state, self.x_proj.out_features())?;
        features("dt_proj output", d_inner, self.dt_proj.out_features())?;
        features("out_proj input", d_inner, self.out_proj.in_features())?;
        features("out_proj output", self.d_model(), self.out_proj.out_features())?;
        expect_size(OP, "a_log", "elements", d_inner * d_state, self.a_log.len())
    }

    /// A = -exp(A_log).
    fn a(&self) -> Vec<T> {
        self.a_log.iter().map(|&a_log| T::from_f64(-a_log.to_f64().exp())).collect()
    }

    fn conv_inputs<'b>(
        &'b self,
        plan: &'b ModalityPlan,
        xz: Rows<'b, T>,
        initial_state: Option<&'b [T]>,
    ) -> Result<ConvInputs<'b, T>> {
        Ok(ConvInputs {
            layout: plan.layout(),
            x: xz.columns(0, self.d_inner())?,
            weight: self.conv_weight,
            bias: self.conv_bias,
            activation: Activation::Silu,
            initial_state,
        })
    }
}

/// What the scan reads, as the mixer's matrices hold it.
struct ScanParts<'a, T> {
    xz: Rows<'a, T>,
    u: Rows<'a, T>,
    x_dbl: Rows<'a, T>,
    dt: Rows<'a, T>,
    a: &'a [T],
    dt_bias: &'a [T],
    dt_offsets: &'a ModalityOffsets,
}

impl<'a, T: Element> ScanParts<'a, T> {
    fn inputs(
        &self,
        plan: &'a ModalityPlan,
        weights: &'a MixerWeights<'_, T>,
        initial_state: Option<&'a [T]>,
    ) -> Result<ScanInputs<'a, T>> {
        let (d_inner, d_state, dt_rank) = (weights.d_inner(), weights.d_state(), weights.dt_rank());
        let bias = DtBias { bias: self.dt_bias, offsets: self.dt_offsets };
        Ok(ScanInputs {
            layout: plan.layout(),
            u: self.u,
            dt: self.dt,
            dt_bias: weights.dt_proj.biases().map(|_| bias),
            delta_activation: DeltaActivation::Softplus,
            a: self.a,
            b: self.x_dbl.columns(dt_rank, d_state)?,
            c: self.x_dbl.columns(dt_rank + d_state, d_state)?,
            d_skip: Some(weights.d_skip),
            z: Some(self.xz.columns(d_inner, d_inner)?),
            initial_state,
        })
    }
}

/// The biases of dt_proj side by side, and the rows of each: `(n_groups, d_inner)`.
fn dt_biases<T: Element>(plan: &ModalityPlan, weights: &MixerWeights<'_, T>) -> (Vec<T>, ModalityOffsets) {
    let offsets = match weights.dt_proj.n_groups() {
        1 => ModalityOffsets::single(plan.n_rows()),
        _ => plan.modality_offsets().clone(),
    };
    (weights.dt_proj.biases().map(<[&[T]]>::concat).unwrap_or_default(), offsets)
}
