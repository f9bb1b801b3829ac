//! The arguments as views of device memory, and what kernels take of them. The shapes stand in [`params`].

use super::abi::{MAX_GROUPS, addresses};
use super::select::VECTOR;
use crate::error::{Error, Result as Checked};
use crate::ops::grouped_gemm::params::{self, BiasRows, OP};
use crate::ops::plan::MAX_MODALITIES;
use crate::ops::plan::cuda::DeviceOffsets;
use crate::runtime::{DeviceElement, DeviceMut, DeviceRef, Gpu, Result};
use crate::shape::{Elements, expect_elements};

/// The weights of a grouped linear layer.
pub type GroupedWeights<'a, T> = params::GroupedWeights<DeviceRef<'a, T>, DeviceRef<'a, f32>>;

/// Gradients of the weights, all overwritten: of the activations' type, or f32.
pub type GroupedGrads<'a, G> = params::GroupedGrads<DeviceMut<'a, G>, DeviceMut<'a, f32>>;

/// Rows that the kernels count in signed 32 bits.
const MAX_ROWS: usize = i32::MAX as usize;

/// Widths whose products and byte strides fit what the kernels compute with.
const MAX_FEATURES: usize = 1 << 24;

const _: () = assert!(MAX_GROUPS == MAX_MODALITIES);

impl BiasRows for DeviceRef<'_, f32> {
    fn expect(&self, args: (&'static str, &'static str), n_groups: usize, width: usize) -> Checked<()> {
        expect_rows(self, args.0, n_groups, width)
    }
}

impl BiasRows for DeviceMut<'_, f32> {
    fn expect(&self, args: (&'static str, &'static str), n_groups: usize, width: usize) -> Checked<()> {
        expect_rows(self, args.0, n_groups, width)
    }
}

fn expect_rows(biases: &impl Elements, arg: &'static str, n_groups: usize, width: usize) -> Checked<()> {
    expect_elements(OP, arg, n_groups * width, biases)
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
        Ok(Self::validated(in_features, out_features, weights, biases, MAX_FEATURES)?)
    }

    /// The biases, `(n_weights, out_features)`.
    pub(crate) fn bias_rows(&self) -> Option<DeviceRef<'a, f32>> {
        self.all_biases().cloned()
    }

    pub(super) fn biases_address(&self, gpu: &Gpu) -> Result<u64> {
        self.all_biases().map_or(Ok(0), |biases| biases.address(gpu))
    }

    pub(super) fn addresses(&self, gpu: &Gpu) -> Result<[u64; MAX_GROUPS]> {
        addresses(self.weights().iter().map(|weight| weight.address(gpu)))
    }

    /// Addresses of one weight and of its bias, null without one.
    pub(crate) fn group(&self, gpu: &Gpu, group: usize) -> Result<(u64, u64)> {
        let bias = match self.all_biases() {
            Some(biases) => biases.address(gpu)? + (group * self.out_features() * size_of::<f32>()) as u64,
            None => 0,
        };
        let weight = self.weights().get(group).map_or(Ok(0), |weight| weight.address(gpu))?;
        Ok((weight, bias))
    }

    /// Whether 16-byte loads of their rows are aligned.
    pub(crate) fn is_vector(&self) -> bool {
        self.in_features().is_multiple_of(VECTOR) && self.weights().iter().all(|weight| weight.is_aligned(VECTOR))
    }
}

/// The offsets that fit the weights: the modalities', or one group over all rows. The kernels can count the rows.
pub(super) fn groups<'a, T: DeviceElement>(
    offsets: &DeviceOffsets<'a>,
    weights: &GroupedWeights<'_, T>,
) -> Checked<DeviceOffsets<'a>> {
    let n_rows = offsets.n_rows();
    if n_rows > MAX_ROWS {
        return Err(Error::Limit { op: OP, arg: "n_rows", min: 0, max: MAX_ROWS, got: n_rows });
    }
    weights.groups(offsets, DeviceOffsets::single)
}
