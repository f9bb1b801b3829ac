//! Everything that can be refused, before the first launch: an error leaves outputs and states as they were.

use super::args::{MixerBackward, MixerGrads, MixerOutputs, MixerSaved, MixerStates, MixerWeights};
use super::sizes::MixerSizes;
use crate::error::{Error, expect_presence, expect_size};
use crate::ops::column_sums;
use crate::ops::grouped_gemm::cuda::{GroupedGrads, GroupedWeights};
use crate::ops::mixer::params::OP;
use crate::ops::plan::cuda::DevicePlan;
use crate::runtime::{DeviceElement, DeviceMut, DeviceRows, Gpu, Result, optional_mut};

impl<T: DeviceElement> MixerWeights<'_, T> {
    /// Fails for weights that do not fit a plan, or are not of this stream.
    pub(super) fn check(&self, gpu: &Gpu, plan: &DevicePlan) -> Result<()> {
        if plan.n_rows() == 0 {
            return Err(Error::Limit { op: OP, arg: "n_rows", min: 1, max: usize::MAX, got: 0 }.into());
        }
        self.validate_groups(plan.n_modalities())?;
        for (_, projection) in self.projections() {
            for group in 0..projection.n_groups() {
                projection.group(gpu, group)?;
            }
        }
        for view in [Some(&self.conv_weight), self.conv_bias.as_ref(), Some(&self.a_log), Some(&self.d_skip)] {
            view.map_or(Ok(0), |view| view.address(gpu))?;
        }
        Ok(())
    }
}

impl<T: DeviceElement> MixerSaved<'_, T> {
    pub(super) fn check(&self, gpu: &Gpu, sizes: &MixerSizes) -> Result<()> {
        expect_size(OP, "saved.xz", "elements", sizes.xz_len(), self.xz.len())?;
        expect_size(OP, "saved.x_dbl", "elements", sizes.x_dbl_len(), self.x_dbl.len())?;
        expect_size(OP, "saved.states", "elements", sizes.states_len, self.states.len())?;
        let window_len = self.window.as_ref().map_or(0, DeviceMut::len);
        expect_size(OP, "saved.window", "elements", sizes.window_len, window_len)?;
        self.expect_vectors()?;
        self.xz.address(gpu)?;
        self.x_dbl.address(gpu)?;
        optional_mut(gpu, &self.window)?;
        self.states.address(gpu).map(drop)
    }
}

impl MixerStates<'_> {
    fn check(&self, gpu: &Gpu, plan: &DevicePlan, sizes: &MixerSizes, d_conv: usize) -> Result<()> {
        let window = plan.batch() * (d_conv - 1) * sizes.d_inner;
        let state = plan.batch() * sizes.d_inner * sizes.d_state;
        for (arg, expected, got) in [
            ("states.conv", window, self.conv.len()),
            ("states.next_conv", window, self.next_conv.len()),
            ("states.scan", state, self.scan.len()),
            ("states.next_scan", state, self.next_scan.len()),
        ] {
            expect_size(OP, arg, "elements", expected, got)?;
        }
        self.conv.address(gpu)?;
        self.scan.address(gpu)?;
        self.next_conv.address(gpu)?;
        self.next_scan.address(gpu).map(drop)
    }
}

impl<T: DeviceElement> MixerOutputs<'_, T> {
    /// Fails for what [`super::forward`] cannot write, or for inputs that it cannot read.
    pub(super) fn check(
        &self,
        gpu: &Gpu,
        plan: &DevicePlan,
        x: &DeviceRows<'_, T>,
        weights: &MixerWeights<'_, T>,
        sizes: &MixerSizes,
    ) -> Result<()> {
        weights.check(gpu, plan)?;
        x.expect(OP, "x", sizes.n_rows, sizes.d_model)?;
        x.address(gpu)?;
        self.out.expect(OP, "out", sizes.n_rows, sizes.d_model)?;
        self.out.address(gpu)?;
        if let Some(residual) = &self.residual {
            residual.expect(OP, "residual", sizes.n_rows, sizes.d_model)?;
            residual.address(gpu)?;
        }
        if let Some(saved) = &self.saved {
            saved.check(gpu, sizes)?;
        }
        if plan.context().is_some() {
            expect_presence(OP, "states, over chunks of sequences,", false, self.states.is_some())?;
        }
        match &self.states {
            Some(states) => states.check(gpu, plan, sizes, weights.validate()?.d_conv),
            None => Ok(()),
        }
    }
}

impl<T: DeviceElement> MixerBackward<'_, T> {
    /// Fails for what [`super::backward`] cannot read.
    pub(super) fn check(
        &self,
        gpu: &Gpu,
        plan: &DevicePlan,
        weights: &MixerWeights<'_, T>,
        sizes: &MixerSizes,
    ) -> Result<()> {
        weights.check(gpu, plan)?;
        self.saved.check(gpu, sizes)?;
        for (arg, rows) in [("x", &self.x), ("grad_out", &self.grad_out)] {
            rows.expect(OP, arg, sizes.n_rows, sizes.d_model)?;
            rows.address(gpu)?;
        }
        Ok(())
    }
}

impl<T: DeviceElement> MixerGrads<'_, T> {
    /// Fails for gradients that [`super::backward`] cannot write.
    pub(super) fn check(&self, gpu: &Gpu, weights: &MixerWeights<'_, T>, sizes: &MixerSizes) -> Result<()> {
        self.x.expect(OP, "grads.x", sizes.n_rows, sizes.d_model)?;
        self.x.address(gpu)?;
        for (arg, projection, grads) in [
            ("grads.in_proj", &weights.in_proj, &self.in_proj),
            ("grads.x_proj", &weights.x_proj, &self.x_proj),
            ("grads.dt_proj", &weights.dt_proj, &self.dt_proj),
            ("grads.out_proj", &weights.out_proj, &self.out_proj),
        ] {
            check_projection(gpu, arg, projection, grads, sizes.n_rows)?;
        }
        for (arg, expected, grad) in [
            ("grads.conv_weight", weights.conv_weight.len(), &self.conv_weight),
            ("grads.a_log", weights.a_log.len(), &self.a_log),
            ("grads.d_skip", weights.d_skip.len(), &self.d_skip),
        ] {
            expect_size(OP, arg, "elements", expected, grad.len())?;
            grad.address(gpu)?;
        }
        expect_presence(OP, "grads.conv_bias", weights.conv_bias.is_some(), self.conv_bias.is_some())?;
        if let Some(grad) = &self.conv_bias {
            expect_size(OP, "grads.conv_bias", "elements", sizes.d_inner, grad.len())?;
            grad.address(gpu)?;
        }
        Ok(())
    }
}

fn check_projection<T: DeviceElement>(
    gpu: &Gpu,
    arg: &'static str,
    weights: &GroupedWeights<'_, T>,
    grads: &GroupedGrads<'_, T>,
    n_rows: usize,
) -> Result<()> {
    expect_size(OP, arg, "weights", weights.n_groups(), grads.grad_weights.len())?;
    for grad in &grads.grad_weights {
        expect_size(OP, arg, "elements", weights.in_features() * weights.out_features(), grad.len())?;
        grad.address(gpu)?;
    }
    expect_presence(OP, arg, weights.has_biases(), grads.grad_biases.is_some())?;
    if let Some(grad) = &grads.grad_biases {
        expect_size(OP, arg, "elements", weights.n_groups() * weights.out_features(), grad.len())?;
        grad.address(gpu)?;
        column_sums::expect_rows(n_rows)?;
    }
    Ok(())
}
