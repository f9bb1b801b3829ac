//! The gradients of a step, summed over its batches.

use candle_core::{DType, Tensor};
use mom_models::Parameters;

use crate::Result;

/// Gradients by parameter. One batch' are in its parameter's element type, sums of several in f32 where that is one of 16 bits.
#[derive(Debug)]
pub(super) struct Gradients {
    sums: Vec<Option<Tensor>>,
    n_batches: usize,
}

impl Gradients {
    /// None yet, of so many batches.
    pub fn of(parameters: &Parameters, n_batches: usize) -> Self {
        Self { sums: vec![None; parameters.iter().count()], n_batches }
    }

    /// Whether they are of several batches.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "ranks on GPUs ask"))]
    pub fn are_sums(&self) -> bool {
        self.n_batches > 1
    }

    /// A gradient of one more batch; `None` is zero.
    pub fn add(&mut self, index: usize, gradient: Option<Tensor>) -> Result<()> {
        self.sums[index] = self.with(index, gradient)?;
        Ok(())
    }

    /// The sum of a parameter with one more gradient, which is taken out.
    pub fn with(&mut self, index: usize, gradient: Option<Tensor>) -> Result<Option<Tensor>> {
        match (self.sums[index].take(), gradient) {
            (Some(sum), Some(gradient)) => Ok(Some(mom_core::accumulate(&sum, &gradient)?)),
            (sum, gradient) => Ok(sum.or(gradient)),
        }
    }

    /// What was not taken out.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "ranks on GPUs ask"))]
    pub fn rest(&mut self) -> impl Iterator<Item = (usize, Tensor)> {
        self.sums.iter_mut().enumerate().filter_map(|(index, sum)| Some((index, sum.take()?)))
    }

    /// All, in the order of the parameters; zero where there was none.
    pub fn all(self, parameters: &Parameters) -> Result<Vec<Tensor>> {
        let is_sum = self.n_batches > 1;
        let of = |(sum, (_, variable)): (Option<Tensor>, (&str, &candle_core::Var))| {
            let sum = sum.map_or_else(|| variable.zeros_like(), Ok)?;
            let is_short = matches!(sum.dtype(), DType::BF16 | DType::F16);
            Ok(if is_sum && is_short { mom_core::convert(&sum, DType::F32)? } else { sum })
        };
        self.sums.into_iter().zip(parameters.iter()).map(of).collect()
    }
}
