//! The arguments as views of host memory, and what the operations are given of them. The shapes stand in [`params`].

use crate::error::Result;
use crate::ops::causal_conv1d::ConvInputs;
use crate::ops::mixer::params;
use crate::ops::plan::{ModalityOffsets, ModalityPlan};
use crate::ops::selective_scan::{DtBias, ScanInputs};
use crate::rows::Rows;
use crate::simd::Element;

/// Weights of a mixer.
pub type MixerWeights<'a, T> = params::MixerWeights<&'a [T], Vec<&'a [T]>, &'a [T]>;

/// What a sequence carries from one call to the next; `batch` of each.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct MixerState<T> {
    /// `(batch, d_conv - 1, d_inner)`: the last inputs of the conv, oldest first.
    pub conv: Vec<T>,
    /// `(batch, d_inner, d_state)`: the scan's state.
    pub scan: Vec<T>,
}

impl<T> MixerState<T> {
    /// The conv's window and the scan's state.
    pub fn new(conv: Vec<T>, scan: Vec<T>) -> Self {
        Self { conv, scan }
    }
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

    /// A = -exp(A_log).
    pub(super) fn a(&self) -> Vec<T> {
        self.a_log.iter().map(|&a_log| T::from_f64(-a_log.to_f64().exp())).collect()
    }

    pub(super) fn conv_inputs<'b>(
        &'b self,
        plan: &'b ModalityPlan,
        xz: Rows<'b, T>,
        initial_state: Option<&'b [T]>,
    ) -> Result<ConvInputs<'b, T>> {
        let inputs = ConvInputs::new(plan.layout(), xz.columns(0, self.d_inner())?, self.conv_weight);
        Ok(inputs.with_bias(self.conv_bias).with_initial_state(initial_state))
    }
}

/// What the scan reads, as the mixer's matrices hold it.
pub(super) struct ScanParts<'a, T> {
    pub xz: Rows<'a, T>,
    pub u: Rows<'a, T>,
    pub x_dbl: Rows<'a, T>,
    pub dt: Rows<'a, T>,
    pub a: &'a [T],
    pub dt_bias: &'a [T],
    pub dt_offsets: &'a ModalityOffsets,
}

impl<'a, T: Element> ScanParts<'a, T> {
    pub fn inputs(
        &self,
        plan: &'a ModalityPlan,
        weights: &'a MixerWeights<'_, T>,
        initial_state: Option<&'a [T]>,
    ) -> Result<ScanInputs<'a, T>> {
        let (d_inner, d_state, dt_rank) = (weights.d_inner(), weights.d_state(), weights.dt_rank());
        let bias = DtBias::new(self.dt_bias, self.dt_offsets);
        let b = self.x_dbl.columns(dt_rank, d_state)?;
        let c = self.x_dbl.columns(dt_rank + d_state, d_state)?;
        Ok(ScanInputs::new(plan.layout(), self.u, self.dt, self.a, b, c)
            .with_dt_bias(weights.dt_proj.biases().map(|_| bias))
            .with_d_skip(weights.d_skip)
            .with_z(self.xz.columns(d_inner, d_inner)?)
            .with_initial_state(initial_state))
    }
}

/// The biases of dt_proj side by side, and the rows of each: `(n_groups, d_inner)`.
pub(super) fn dt_biases<T: Element>(plan: &ModalityPlan, weights: &MixerWeights<'_, T>) -> (Vec<T>, ModalityOffsets) {
    let offsets = match weights.dt_proj.n_groups() {
        1 => ModalityOffsets::single(plan.n_rows()),
        _ => plan.modality_offsets().clone(),
    };
    (weights.dt_proj.biases().map(<[&[T]]>::concat).unwrap_or_default(), offsets)
}
