//! What the kernels take: kernels/grouped_gemm/params.h, field by field.

use std::mem::offset_of;

use cudarc::driver::DeviceRepr;

use crate::runtime::{Result, TensorMap};

/// As many modalities as a plan may have.
pub(super) const MAX_GROUPS: usize = 256;

/// Modalities whose weights have a tensor map among the arguments.
pub(super) const MAX_MAPS: usize = 16;

/// Addresses of each modality's matrix.
pub(super) fn addresses(of: impl Iterator<Item = Result<u64>>) -> Result<[u64; MAX_GROUPS]> {
    let mut all = [0; MAX_GROUPS];
    for (to, address) in all.iter_mut().zip(of) {
        *to = address?;
    }
    Ok(all)
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

/// `MGrouped90` of kernels/grouped_gemm/params.h.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RawMGrouped90 {
    pub x: TensorMap,
    pub y: TensorMap,
    pub addend: TensorMap,
    pub weights: [TensorMap; MAX_MAPS],
    pub to: u64,
    pub offsets: u64,
    pub biases: u64,
    pub y_stride: i64,
    pub n_rows: u32,
    pub n: u32,
    pub k: u32,
    pub n_groups: u32,
    pub n_tiles: u32,
    pub add: u32,
    pub tiles_at_once: u32,
    pub unused: u32,
    pub addend_rows: u64,
    pub addend_stride: i64,
    pub padding: [u64; 6],
}
const _: () = {
    const MAPS: usize = 128 * (3 + MAX_MAPS);
    assert!(size_of::<RawMGrouped90>() == MAPS + 128 && offset_of!(RawMGrouped90, to) == MAPS);
    assert!(offset_of!(RawMGrouped90, n_rows) == MAPS + 32);
};
// SAFETY: a plain struct of integers in C layout; the addresses in it are device addresses.
unsafe impl DeviceRepr for RawMGrouped90 {}

/// `KGrouped90` of kernels/grouped_gemm/params.h.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RawKGrouped90 {
    pub a: TensorMap,
    pub b: TensorMap,
    pub offsets: u64,
    pub partial: u64,
    pub to_a: i64,
    pub to_b: i64,
    pub n_rows: u32,
    pub a_width: u32,
    pub b_width: u32,
    pub n_groups: u32,
    pub rows_per_split: u32,
    pub b_tiles: u32,
    pub n_tiles: u32,
    pub n_splits: u32,
    pub f32: u32,
    pub vector: u32,
    pub rows_leave: u32,
    pub border_rows: u32,
    pub grads: [u64; MAX_GROUPS],
}
const _: () = {
    assert!(size_of::<RawKGrouped90>() == 384 + 8 * MAX_GROUPS && offset_of!(RawKGrouped90, offsets) == 256);
    assert!(offset_of!(RawKGrouped90, n_rows) == 288 && offset_of!(RawKGrouped90, grads) == 336);
};
// SAFETY: a plain struct of integers in C layout; the addresses in it are device addresses.
unsafe impl DeviceRepr for RawKGrouped90 {}
