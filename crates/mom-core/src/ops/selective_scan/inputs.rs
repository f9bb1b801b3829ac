//! What the selective scan reads, on any device.

use candle_core::Tensor;
use mom_kernels::ModalityPlan;
use mom_kernels::selective_scan::DeltaActivation;

use crate::Result;
use crate::error::{expect_device, expect_shape};
use crate::host::contiguous;

pub(super) const OP: &str = "selective_scan";

/// Inputs of [`super::selective_scan`]; rows are in modality order.
#[derive(Debug, Clone)]
pub struct SelectiveScan {
    /// `(n_rows, d_inner)`.
    pub u: Tensor,
    /// `(n_rows, d_inner)`: the step size before bias and activation.
    pub dt: Tensor,
    /// `(n_modalities, d_inner)`, or `(1, d_inner)` for all modalities.
    pub dt_bias: Option<Tensor>,
    /// `(d_inner, d_state)`, usually negative.
    pub a: Tensor,
    /// `(n_rows, d_state)`.
    pub b: Tensor,
    /// `(n_rows, d_state)`.
    pub c: Tensor,
    /// `(d_inner)`: the skip D.
    pub d_skip: Option<Tensor>,
    /// `(n_rows, d_inner)`: the gate before its SiLU.
    pub z: Option<Tensor>,
    /// What makes delta of `dt + dt_bias`.
    pub delta_activation: DeltaActivation,
}

impl SelectiveScan {
    pub(super) fn contiguous(self) -> Result<Self> {
        Ok(Self {
            u: contiguous(&self.u)?,
            dt: contiguous(&self.dt)?,
            dt_bias: self.dt_bias.as_ref().map(contiguous).transpose()?,
            a: contiguous(&self.a)?,
            b: contiguous(&self.b)?,
            c: contiguous(&self.c)?,
            d_skip: self.d_skip.as_ref().map(contiguous).transpose()?,
            z: self.z.as_ref().map(contiguous).transpose()?,
            delta_activation: self.delta_activation,
        })
    }

    /// d_inner and d_state, once every shape fits the plan and all is on one device.
    pub(super) fn check(&self, plan: &ModalityPlan) -> Result<(usize, usize)> {
        let last = |tensor: &Tensor| tensor.dims().last().copied().unwrap_or(0);
        let (n_rows, d_inner, d_state) = (plan.n_rows(), last(&self.u), last(&self.b));
        expect_shape(OP, "u", &[n_rows, d_inner], &self.u)?;
        expect_shape(OP, "dt", &[n_rows, d_inner], &self.dt)?;
        expect_shape(OP, "a", &[d_inner, d_state], &self.a)?;
        expect_shape(OP, "b", &[n_rows, d_state], &self.b)?;
        expect_shape(OP, "c", &[n_rows, d_state], &self.c)?;
        if let Some(bias) = &self.dt_bias {
            let groups = if bias.dims().first() == Some(&1) { 1 } else { plan.n_modalities() };
            expect_shape(OP, "dt_bias", &[groups, d_inner], bias)?;
        }
        if let Some(d_skip) = &self.d_skip {
            expect_shape(OP, "d_skip", &[d_inner], d_skip)?;
        }
        if let Some(z) = &self.z {
            expect_shape(OP, "z", &[n_rows, d_inner], z)?;
        }
        self.named().try_for_each(|(name, tensor)| expect_device(OP, name, &self.u, tensor))?;
        Ok((d_inner, d_state))
    }

    /// The recorded inputs; the gradients of a backward pass keep this order.
    pub(crate) fn tensors(&self) -> Vec<&Tensor> {
        self.named().map(|(_, tensor)| tensor).collect()
    }

    fn named(&self) -> impl Iterator<Item = (&'static str, &Tensor)> {
        let needed = [("u", &self.u), ("dt", &self.dt), ("a", &self.a), ("b", &self.b), ("c", &self.c)];
        let optional = [("dt_bias", &self.dt_bias), ("d_skip", &self.d_skip), ("z", &self.z)];
        needed.into_iter().chain(optional.into_iter().filter_map(|(name, tensor)| Some((name, tensor.as_ref()?))))
    }
}
