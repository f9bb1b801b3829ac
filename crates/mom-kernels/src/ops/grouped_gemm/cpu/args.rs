//! The arguments as views of host memory; the shapes stand in [`params`].

use crate::error::{MAX_SIZE, Result};
use crate::ops::grouped_gemm::params;

/// The weights of a grouped linear layer.
pub type GroupedWeights<'a, T> = params::GroupedWeights<&'a [T], Vec<&'a [T]>>;

/// Gradients of the weights, all overwritten: one for each weight and bias, in their order.
pub type GroupedGrads<'a, T> = params::GroupedGrads<&'a mut [T], Vec<&'a mut [T]>>;

impl<'a, T> GroupedWeights<'a, T> {
    /// One weight `(out_features, in_features)` for each modality, or a single one for all rows; biases
    /// `(out_features)` in the same number.
    ///
    /// # Errors
    /// Sizes that disagree, no weight or more than 256, no features.
    pub fn new(
        in_features: usize,
        out_features: usize,
        weights: Vec<&'a [T]>,
        biases: Option<Vec<&'a [T]>>,
    ) -> Result<Self> {
        Self::validated(in_features, out_features, weights, biases, MAX_SIZE)
    }

    /// The biases, one for each weight.
    pub fn biases(&self) -> Option<&[&'a [T]]> {
        self.all_biases().map(Vec::as_slice)
    }
}
