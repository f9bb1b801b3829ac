//! What the kernels take: kernels/rotary_embedding/params.h, field by field.

use std::mem::offset_of;

use cudarc::driver::DeviceRepr;

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RawRotary {
    pub row_of_position: u64,
    pub positions: u64,
    pub table: u64,
    pub x: u64,
    pub out: u64,
    pub n_positions: u32,
    pub n_heads: u32,
    pub head_dim: u32,
    pub x_stride: u32,
    pub out_stride: u32,
    pub direction: f32,
}
const _: () = assert!(size_of::<RawRotary>() == 64 && offset_of!(RawRotary, n_positions) == 40);

// SAFETY: a plain struct of numbers in C layout; the addresses in it are device addresses.
unsafe impl DeviceRepr for RawRotary {}
