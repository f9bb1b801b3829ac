//! What conv and scan are given of a mixer's weights and matrices.

use super::args::MixerWeights;
use super::sizes::MixerSizes;
use crate::ops::causal_conv1d::cuda::ConvInputs;
use crate::ops::plan::cuda::{DeviceOffsets, DevicePlan};
use crate::ops::selective_scan::cuda::{DtBias, ScanInputs};
use crate::runtime::{DeviceElement, DeviceRef, DeviceRows, Gpu, Result};

impl<T: DeviceElement> MixerWeights<'_, T> {
    /// `x`: the first half of in_proj's output.
    pub(super) fn conv_inputs<'b>(
        &'b self,
        gpu: &'b Gpu,
        plan: &'b DevicePlan,
        x: DeviceRows<'b, T>,
    ) -> ConvInputs<'b, T> {
        ConvInputs::new(plan.layout(gpu), x, self.conv_weight.clone()).with_bias(self.conv_bias.clone())
    }

    fn dt_bias<'b>(&'b self, gpu: &'b Gpu, plan: &'b DevicePlan) -> Option<DtBias<'b>> {
        let offsets = match self.dt_proj.n_groups() {
            1 => DeviceOffsets::single(plan.n_rows()),
            _ => plan.modality_offsets(gpu),
        };
        self.dt_proj.bias_rows().map(|bias| DtBias::new(bias, offsets))
    }
}

/// What the scan reads, as the mixer's matrices hold it.
pub(super) struct ScanParts<'b, T> {
    pub u: DeviceRows<'b, T>,
    pub dt: DeviceRows<'b, T>,
    pub z: DeviceRows<'b, T>,
    pub x_dbl: DeviceRows<'b, T>,
    pub a: DeviceRef<'b, f32>,
}

impl<'b, T: DeviceElement> ScanParts<'b, T> {
    pub fn inputs(
        self,
        gpu: &'b Gpu,
        plan: &'b DevicePlan,
        weights: &'b MixerWeights<'_, T>,
        sizes: MixerSizes,
    ) -> Result<ScanInputs<'b, T>> {
        let MixerSizes { d_state, dt_rank, .. } = sizes;
        let b = self.x_dbl.clone().columns(dt_rank, d_state)?;
        let c = self.x_dbl.columns(dt_rank + d_state, d_state)?;
        Ok(ScanInputs::new(plan.layout(gpu), self.u, self.dt, self.a, b, c)
            .with_dt_bias(weights.dt_bias(gpu, plan))
            .with_d_skip(weights.d_skip.clone())
            .with_z(self.z))
    }
}
