//! What the grouped products take, and how the kernels take it.

use super::abi::{MAX_GROUPS, addresses};
use super::select::VECTOR;
use crate::cuda::DeviceOffsets;
use crate::cuda::runtime::{DeviceElement, DeviceMut, DeviceRef, Gpu, Result, optional_ref};
use crate::error::{Error, expect_limit, expect_size};

pub(super) const OP: &str = "grouped_gemm";

/// Rows that the kernels count in signed 32 bits.
const MAX_ROWS: usize = i32::MAX as usize;

/// Widths whose products and byte strides fit what the kernels compute with.
const MAX_FEATURES: usize = 1 << 24;

/// The weights of a grouped linear layer.
#[derive(Debug, Clone)]
pub struct GroupedWeights<'a, T> {
    in_features: usize,
    out_features: usize,
    weights: Vec<DeviceRef<'a, T>>,
    biases: Option<DeviceRef<'a, f32>>,
}

impl<'a, T: DeviceElement> GroupedWeights<'a, T> {
    /// One weight `(out_features, in_features)` for each modality, or a single one for all rows; biases
    /// `(n_weights, out_features)`.
    ///
    /// # Errors
    /// Sizes that disagree, no weight or more than 256, no features or more than 2^24.
    pub fn new(
        in_features: usize,
        out_features: usize,
        weights: Vec<DeviceRef<'a, T>>,
        biases: Option<DeviceRef<'a, f32>>,
    ) -> Result<Self> {
        expect_limit(OP, "weights", MAX_GROUPS, weights.len())?;
        expect_limit(OP, "in_features", MAX_FEATURES, in_features)?;
        expect_limit(OP, "out_features", MAX_FEATURES, out_features)?;
        for weight in &weights {
            expect_size(OP, "weight", "elements", in_features * out_features, weight.len())?;
        }
        if let Some(biases) = &biases {
            expect_size(OP, "biases", "elements", weights.len() * out_features, biases.len())?;
        }
        Ok(Self { in_features, out_features, weights, biases })
    }

    /// Features of an input row.
    pub fn in_features(&self) -> usize {
        self.in_features
    }

    /// Features of an output row.
    pub fn out_features(&self) -> usize {
        self.out_features
    }

    /// Number of weights: the number of modalities, or 1 where all share one.
    pub fn n_groups(&self) -> usize {
        self.weights.len()
    }

    /// Whether there are biases.
    pub fn has_biases(&self) -> bool {
        self.biases.is_some()
    }

    /// The same weights without their biases.
    pub fn without_biases(&self) -> Self {
        Self { biases: None, ..self.clone() }
    }

    /// The biases, `(n_weights, out_features)`.
    pub(in crate::cuda) fn bias_rows(&self) -> Option<DeviceRef<'a, f32>> {
        self.biases.clone()
    }

    pub(super) fn biases(&self, gpu: &Gpu) -> Result<u64> {
        optional_ref(gpu, &self.biases)
    }

    pub(super) fn addresses(&self, gpu: &Gpu) -> Result<[u64; MAX_GROUPS]> {
        addresses(self.weights.iter().map(|weight| weight.address(gpu)))
    }

    /// Addresses of one weight and of its bias, null without one.
    pub(in crate::cuda) fn group(&self, gpu: &Gpu, group: usize) -> Result<(u64, u64)> {
        let bias = match &self.biases {
            Some(biases) => biases.address(gpu)? + (group * self.out_features * size_of::<f32>()) as u64,
            None => 0,
        };
        let weight = self.weights.get(group).map_or(Ok(0), |weight| weight.address(gpu))?;
        Ok((weight, bias))
    }

    /// Whether 16-byte loads of their rows are aligned.
    pub(in crate::cuda) fn is_vector(&self) -> bool {
        self.in_features.is_multiple_of(VECTOR) && self.weights.iter().all(|weight| weight.is_aligned(VECTOR))
    }
}

/// Gradients of the weights, all overwritten: of the activations' type, or f32.
#[derive(Debug)]
pub struct GroupedGrads<'a, G> {
    /// `(out_features, in_features)` each.
    pub grad_weights: Vec<DeviceMut<'a, G>>,
    /// `(n_weights, out_features)`; exactly where there are biases.
    pub grad_biases: Option<DeviceMut<'a, f32>>,
}

/// The offsets that fit the weights: the modalities', or one group over all rows.
pub(super) fn groups<'a, T: DeviceElement>(
    offsets: &DeviceOffsets<'a>,
    weights: &GroupedWeights<'_, T>,
) -> Result<DeviceOffsets<'a>> {
    let (n_rows, n_groups) = (offsets.n_rows(), weights.n_groups());
    if n_rows > MAX_ROWS {
        return Err(Error::Limit { op: OP, arg: "n_rows", min: 0, max: MAX_ROWS, got: n_rows }.into());
    }
    if n_groups == 1 {
        return Ok(DeviceOffsets::single(n_rows));
    }
    expect_size(OP, "weights", "groups", offsets.n_modalities(), n_groups)?;
    Ok(offsets.clone())
}
