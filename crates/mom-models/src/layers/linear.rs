//! A linear layer over rows, the same for all of them.

use candle_core::Tensor;
use candle_nn::VarBuilder;
use mom_core::ops::{GroupedLinear, grouped_linear};
use mom_core::{Draw, Init, ModalityPlan, Plan};

use crate::Result;

/// `y = x W^T + b`; parameters `weight` `(out_features, in_features)` and `bias` `(out_features)`.
#[derive(Debug, Clone)]
pub struct Linear(GroupedLinear);

impl Linear {
    /// A layer with the parameters of `vb`; new ones are drawn from `weight`, and a new bias is zero.
    ///
    /// # Errors
    /// A parameter that is missing or of another shape.
    pub fn new(n_in: usize, n_out: usize, weight: Draw, init: &Init, vb: VarBuilder) -> Result<Self> {
        let weight = init.parameter(&vb, &[n_out, n_in], "weight", "weight", weight)?;
        let bias = init.precise(&vb, &[n_out], "bias", "bias", Draw::Constant(0.0))?;
        Ok(Self(GroupedLinear::new(n_in, n_out, vec![weight], vec![bias])?))
    }

    /// Number of parameters of such a layer.
    pub const fn n_parameters(n_in: usize, n_out: usize) -> usize {
        n_out * (n_in + 1)
    }

    /// `x`: `(n_rows, in_features)`. Returns `(n_rows, out_features)`.
    ///
    /// # Errors
    /// As [`grouped_linear`].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let n_rows = x.dims().first().copied().unwrap_or(0);
        Ok(grouped_linear(x, &self.0, &Plan::from(ModalityPlan::dense(1, n_rows, None)?))?)
    }
}
