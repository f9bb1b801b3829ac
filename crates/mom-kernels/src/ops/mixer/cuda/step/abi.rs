//! How the kernels of a step take their arguments: kernels/mixer_step/params.h.

use std::mem::offset_of;

use cudarc::driver::DeviceRepr;

/// `StepIn`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RawIn {
    pub x: u64,
    pub norm: u64,
    pub in_proj: u64,
    pub in_bias: u64,
    pub conv_weight: u64,
    pub conv_bias: u64,
    pub window: u64,
    pub x_proj: u64,
    pub u: u64,
    pub z: u64,
    pub partial: u64,
    pub rows: u32,
    pub d_model: u32,
    pub d_inner: u32,
    pub d_conv: u32,
    pub width: u32,
    pub padded: u32,
    pub eps: f32,
    pub unused: u32,
}
const _: () = {
    assert!(size_of::<RawIn>() == 120 && offset_of!(RawIn, partial) == 80 && offset_of!(RawIn, rows) == 88);
    assert!(offset_of!(RawIn, width) == 104 && offset_of!(RawIn, eps) == 112);
};
// SAFETY: a plain struct of numbers in C layout; the addresses in it are device addresses.
unsafe impl DeviceRepr for RawIn {}

/// `StepScan`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RawScan {
    pub partial: u64,
    pub u: u64,
    pub z: u64,
    pub dt_proj: u64,
    pub dt_bias: u64,
    pub a_log: u64,
    pub d_skip: u64,
    pub state: u64,
    pub y: u64,
    pub n_partials: u32,
    pub padded: u32,
    pub d_inner: u32,
    pub d_state: u32,
    pub dt_rank: u32,
    pub channels: u32,
    pub dt_vector: u32,
    pub unused: u32,
}
const _: () =
    assert!(size_of::<RawScan>() == 104 && offset_of!(RawScan, y) == 64 && offset_of!(RawScan, dt_vector) == 96);
// SAFETY: as above.
unsafe impl DeviceRepr for RawScan {}

/// `StepProduct`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RawProduct {
    pub x: u64,
    pub norm: u64,
    pub weight: u64,
    pub bias: u64,
    pub out: u64,
    pub rows: u32,
    pub n: u32,
    pub k: u32,
    pub eps: f32,
}
const _: () =
    assert!(size_of::<RawProduct>() == 56 && offset_of!(RawProduct, rows) == 40 && offset_of!(RawProduct, eps) == 52);
// SAFETY: as above.
unsafe impl DeviceRepr for RawProduct {}
