//! What the grouped products take, and how the kernels take it.

use std::mem::offset_of;

use cudarc::driver::DeviceRepr;

use crate::cuda::error::Result;
use crate::cuda::memory::{DeviceElement, DeviceMut, DeviceRef, Dtype};
use crate::cuda::plan::optional_ref;
use crate::cuda::{DeviceOffsets, Gpu, Module};
use crate::error::{Error, expect_limit, expect_size};

pub(super) const OP: &str = "grouped_gemm";

/// kernels/grouped_gemm/params.h; as many modalities as a plan may have.
pub(super) const MAX_GROUPS: usize = 256;

/// Rows of a tile, kernels/grouped_gemm/tile.cuh.
pub(super) const TILE_ROWS: usize = 128;

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

    pub(super) fn biases(&self, gpu: &Gpu) -> u64 {
        optional_ref(gpu, &self.biases)
    }

    pub(super) fn addresses(&self, gpu: &Gpu) -> [u64; MAX_GROUPS] {
        addresses(self.weights.iter().map(|weight| weight.address(gpu)))
    }

    /// Addresses of one weight and of its bias, null without one.
    pub(in crate::cuda) fn group(&self, gpu: &Gpu, group: usize) -> (u64, u64) {
        let bias = self.biases.as_ref().map(|biases| biases.address(gpu));
        let bias = bias.map_or(0, |first| first + (group * self.out_features * size_of::<f32>()) as u64);
        (self.weights.get(group).map_or(0, |weight| weight.address(gpu)), bias)
    }

    /// Whether 16-byte loads of their rows are aligned.
    pub(in crate::cuda) fn is_vector(&self) -> bool {
        self.in_features.is_multiple_of(VECTOR) && self.weights.iter().all(|weight| weight.is_aligned(VECTOR))
    }
}

/// Elements that are moved at once.
pub(super) const VECTOR: usize = 8;

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

pub(super) fn addresses(of: impl Iterator<Item = u64>) -> [u64; MAX_GROUPS] {
    let mut all = [0; MAX_GROUPS];
    for (to, address) in all.iter_mut().zip(of) {
        *to = address;
    }
    all
}

pub(super) fn module(dtype: Dtype) -> Module {
    match dtype {
        Dtype::Bf16 => Module::GroupedGemmBf16,
        Dtype::F16 => Module::GroupedGemmF16,
        Dtype::F32 => Module::GroupedGemmF32,
    }
}

/// Columns of the tile for an output that is `width` wide: the narrow outputs of x_proj (80, 160) and dt_proj's input
/// gradient (48, 128) are one tile wide, so that the long operand is read once.
pub(super) fn tile_columns(dtype: Dtype, width: usize) -> usize {
    match (dtype, width) {
        (Dtype::F32, _) | (_, ..=64) => 64,
        (_, ..=80) => 80,
        (_, ..=128) => 128,
        (_, ..=160) => 160,
        _ => 128,
    }
}

/// `MGrouped` of kernels/grouped_gemm/params.h.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RawMGrouped {
    pub x: u64,
    pub y: u64,
    pub offsets: u64,
    pub biases: u64,
    pub x_stride: i64,
    pub y_stride: i64,
    pub n_rows: u32,
    pub n: u32,
    pub k: u32,
    pub n_groups: u32,
    pub n_tiles: u32,
    pub add: u32,
    pub x_vector: u32,
    pub w_vector: u32,
    pub y_vector: u32,
    pub unused: u32,
    pub weights: [u64; MAX_GROUPS],
}
const _: () = {
    assert!(size_of::<RawMGrouped>() == 88 + 8 * MAX_GROUPS && offset_of!(RawMGrouped, x_stride) == 32);
    assert!(offset_of!(RawMGrouped, n_rows) == 48 && offset_of!(RawMGrouped, n_tiles) == 64);
    assert!(offset_of!(RawMGrouped, weights) == 88);
};
// SAFETY: a plain struct of integers in C layout; the addresses in it are device addresses.
unsafe impl DeviceRepr for RawMGrouped {}

/// `KGrouped` of kernels/grouped_gemm/params.h.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RawKGrouped {
    pub a: u64,
    pub b: u64,
    pub offsets: u64,
    pub partial: u64,
    pub a_stride: i64,
    pub b_stride: i64,
    pub to_a: i64,
    pub to_b: i64,
    pub n_rows: u32,
    pub a_width: u32,
    pub b_width: u32,
    pub n_groups: u32,
    pub rows_per_split: u32,
    pub b_tiles: u32,
    pub a_vector: u32,
    pub b_vector: u32,
    pub f32: u32,
    pub unused: u32,
    pub grads: [u64; MAX_GROUPS],
}
const _: () = {
    assert!(size_of::<RawKGrouped>() == 104 + 8 * MAX_GROUPS && offset_of!(RawKGrouped, a_stride) == 32);
    assert!(offset_of!(RawKGrouped, n_rows) == 64 && offset_of!(RawKGrouped, f32) == 96);
    assert!(offset_of!(RawKGrouped, grads) == 104);
};
// SAFETY: a plain struct of integers in C layout; the addresses in it are device addresses.
unsafe impl DeviceRepr for RawKGrouped {}

/// `KGroupedSum` of kernels/grouped_gemm/params.h.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RawKGroupedSum {
    pub partial: u64,
    pub offsets: u64,
    pub size: u64,
    pub n_rows: u32,
    pub n_groups: u32,
    pub rows_per_split: u32,
    pub unused: u32,
    pub grads: [u64; MAX_GROUPS],
}
const _: () = {
    assert!(size_of::<RawKGroupedSum>() == 40 + 8 * MAX_GROUPS && offset_of!(RawKGroupedSum, n_rows) == 24);
    assert!(offset_of!(RawKGroupedSum, grads) == 40);
};
// SAFETY: a plain struct of integers in C layout; the addresses in it are device addresses.
unsafe impl DeviceRepr for RawKGroupedSum {}
