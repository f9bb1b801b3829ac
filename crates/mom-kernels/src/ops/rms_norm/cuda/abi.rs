//! What the kernels take: kernels/rms_norm/params.h, field by field.

use std::mem::offset_of;

use cudarc::driver::DeviceRepr;

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RawForward {
    pub x: u64,
    pub residual: u64,
    pub weight: u64,
    pub y: u64,
    pub sum: u64,
    pub x_stride: u32,
    pub residual_stride: u32,
    pub y_stride: u32,
    pub sum_stride: u32,
    pub n_rows: u32,
    pub width: u32,
    pub eps: f32,
    pub team: u32,
}
const _: () = {
    assert!(size_of::<RawForward>() == 72 && offset_of!(RawForward, x_stride) == 40);
    assert!(offset_of!(RawForward, eps) == 64);
};

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RawBackward {
    pub x: u64,
    pub grad_y: u64,
    pub grad_sum: u64,
    pub weight: u64,
    pub grad_x: u64,
    pub partial: u64,
    pub x_stride: u32,
    pub grad_y_stride: u32,
    pub grad_sum_stride: u32,
    pub grad_x_stride: u32,
    pub n_rows: u32,
    pub width: u32,
    pub eps: f32,
    pub team: u32,
}
const _: () = {
    assert!(size_of::<RawBackward>() == 80 && offset_of!(RawBackward, partial) == 40);
    assert!(offset_of!(RawBackward, eps) == 72);
};

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RawWeight {
    pub partial: u64,
    pub grad_weight: u64,
    pub n_partial: u32,
    pub width: u32,
}
const _: () = assert!(size_of::<RawWeight>() == 24 && offset_of!(RawWeight, n_partial) == 16);

// SAFETY: a plain struct of numbers in C layout; the addresses in it are device addresses.
unsafe impl DeviceRepr for RawForward {}
// SAFETY: as above.
unsafe impl DeviceRepr for RawBackward {}
// SAFETY: as above.
unsafe impl DeviceRepr for RawWeight {}
