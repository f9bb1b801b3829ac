//! What the kernels take: kernels/cross_entropy/params.h, field by field.

use std::mem::offset_of;

use cudarc::driver::DeviceRepr;

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Raw {
    pub logits: u64,
    pub grad: u64,
    pub targets: u64,
    pub weights: u64,
    pub loss: u64,
    pub lse: u64,
    pub out_of_range: u64,
    pub logits_stride: u32,
    pub grad_stride: u32,
    pub n_rows: u32,
    pub vocabulary: u32,
    pub scale: f32,
    pub z: f32,
}
const _: () = {
    assert!(size_of::<Raw>() == 80 && offset_of!(Raw, logits_stride) == 56 && offset_of!(Raw, z) == 76);
};

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RawSums {
    pub loss: u64,
    pub lse: u64,
    pub targets: u64,
    pub weights: u64,
    pub groups: u64,
    pub partial: u64,
    pub sums: u64,
    pub out_of_range: u64,
    pub n_rows: u32,
    pub vocabulary: u32,
    pub n_groups: u32,
    pub n_blocks: u32,
}
const _: () = {
    assert!(size_of::<RawSums>() == 80 && offset_of!(RawSums, partial) == 40 && offset_of!(RawSums, n_rows) == 64);
};

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RawTotal {
    pub loss: u64,
    pub lse: u64,
    pub weights: u64,
    pub total: u64,
    pub n_rows: u32,
    pub scale: f32,
    pub z: f32,
    pub unused: u32,
}
const _: () = {
    assert!(size_of::<RawTotal>() == 48 && offset_of!(RawTotal, n_rows) == 32 && offset_of!(RawTotal, z) == 40);
};

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RawScaling {
    pub from: u64,
    pub to: u64,
    pub factor: u64,
    pub n: u64,
}
const _: () = assert!(size_of::<RawScaling>() == 32 && offset_of!(RawScaling, n) == 24);

// SAFETY: a plain struct of numbers in C layout; the addresses in it are device addresses.
unsafe impl DeviceRepr for Raw {}
// SAFETY: as above.
unsafe impl DeviceRepr for RawTotal {}
// SAFETY: as above.
unsafe impl DeviceRepr for RawScaling {}
// SAFETY: as above.
unsafe impl DeviceRepr for RawSums {}
