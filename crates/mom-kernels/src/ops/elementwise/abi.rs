//! What the kernels take: kernels/elementwise/params.h, field by field.

use std::mem::offset_of;

use cudarc::driver::DeviceRepr;

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RawCombine {
    pub a: u64,
    pub b: u64,
    pub out: u64,
    pub n: u64,
    pub alpha: f32,
    pub beta: f32,
}
const _: () = {
    assert!(size_of::<RawCombine>() == 40 && offset_of!(RawCombine, n) == 24 && offset_of!(RawCombine, beta) == 36);
};

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RawSilu {
    pub x: u64,
    pub grad: u64,
    pub out: u64,
    pub n: u64,
}
const _: () = assert!(size_of::<RawSilu>() == 32 && offset_of!(RawSilu, n) == 24);

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RawAddNoise {
    pub clean: u64,
    pub epsilon: u64,
    pub factors: u64,
    pub out: u64,
    pub n: u64,
    pub width: u32,
    pub unused: u32,
}
const _: () = assert!(size_of::<RawAddNoise>() == 48 && offset_of!(RawAddNoise, width) == 40);

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RawSquaredError {
    pub predicted: u64,
    pub target: u64,
    pub partial: u64,
    pub grad: u64,
    pub out: u64,
    pub n: u64,
    pub n_partial: u32,
    pub scale: f32,
}
const _: () = {
    assert!(size_of::<RawSquaredError>() == 56 && offset_of!(RawSquaredError, n) == 40);
    assert!(offset_of!(RawSquaredError, scale) == 52);
};

// SAFETY: a plain struct of numbers in C layout; the addresses in it are device addresses.
unsafe impl DeviceRepr for RawCombine {}
// SAFETY: as above.
unsafe impl DeviceRepr for RawSilu {}
// SAFETY: as above.
unsafe impl DeviceRepr for RawAddNoise {}
// SAFETY: as above.
unsafe impl DeviceRepr for RawSquaredError {}
