//! Sizes of a mixer over the rows of a batch.

use super::args::MixerWeights;
use crate::ops::mixer::params::Features;
use crate::ops::plan::cuda::DevicePlan;
use crate::ops::selective_scan::cuda::{forward_workspace_len, saved_states_len};
use crate::runtime::{DeviceElement, Result};

/// Sizes of a mixer over the rows of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
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
    /// Elements of [`MixerSaved::states`](super::MixerSaved::states).
    pub states_len: usize,
    /// Elements of [`MixerSaved::window`](super::MixerSaved::window); 0 where a plan is of whole sequences.
    pub window_len: usize,
    /// Elements of the workspace of the scan's forward pass.
    pub scan_workspace_len: usize,
}

impl MixerSizes {
    /// Elements of [`MixerSaved::xz`](super::MixerSaved::xz).
    pub fn xz_len(&self) -> usize {
        self.n_rows * 2 * self.d_inner
    }

    /// Features of x_proj's output.
    pub fn x_dbl_width(&self) -> usize {
        self.dt_rank + 2 * self.d_state
    }

    /// Elements of [`MixerSaved::x_dbl`](super::MixerSaved::x_dbl).
    pub fn x_dbl_len(&self) -> usize {
        self.n_rows * self.x_dbl_width()
    }

    /// Elements of a matrix of channels.
    pub(super) fn inner_len(&self) -> usize {
        self.n_rows * self.d_inner
    }
}

impl<T: DeviceElement> MixerWeights<'_, T> {
    /// Sizes over the rows of a plan.
    ///
    /// # Errors
    /// Weights that do not fit together, more than 64 states.
    pub fn sizes(&self, plan: &DevicePlan) -> Result<MixerSizes> {
        let Features { d_model, d_inner, d_state, d_conv, dt_rank } = self.validate()?;
        let states_len = saved_states_len(plan.batch(), plan.seqlen(), d_inner, d_state);
        let scan_workspace_len = forward_workspace_len(plan.batch(), plan.seqlen(), d_inner, d_state);
        let window_len = plan.context().map_or(0, |_| plan.batch() * (d_conv - 1) * d_inner);
        let n_rows = plan.n_rows();
        Ok(MixerSizes { n_rows, d_model, d_inner, d_state, dt_rank, states_len, window_len, scan_workspace_len })
    }
}
