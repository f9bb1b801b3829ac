//! What the kernels take: kernels/attention/params.h, field by field.

use std::mem::offset_of;

use cudarc::driver::DeviceRepr;

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RawInputs {
    pub row_of_position: u64,
    pub key_first: u64,
    pub key_end: u64,
    pub query_first: u64,
    pub query_end: u64,
    pub q: u64,
    pub k: u64,
    pub v: u64,
    pub batch: u32,
    pub seqlen: u32,
    pub n_heads: u32,
    pub head_dim: u32,
    pub q_stride: u32,
    pub k_stride: u32,
    pub v_stride: u32,
    pub scale: f32,
}
const _: () = assert!(size_of::<RawInputs>() == 96 && offset_of!(RawInputs, batch) == 64);

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RawForward {
    pub inputs: RawInputs,
    pub out: u64,
    pub lse: u64,
    pub out_stride: u64,
}
const _: () = assert!(size_of::<RawForward>() == 120 && offset_of!(RawForward, out) == 96);

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RawBackward {
    pub inputs: RawInputs,
    pub out: u64,
    pub grad_out: u64,
    pub lse: u64,
    pub delta: u64,
    pub grad_q: u64,
    pub grad_k: u64,
    pub grad_v: u64,
    pub out_stride: u32,
    pub grad_out_stride: u32,
    pub grad_q_stride: u32,
    pub grad_k_stride: u32,
    pub grad_v_stride: u32,
    pub unused: u32,
}
const _: () = assert!(size_of::<RawBackward>() == 176 && offset_of!(RawBackward, out_stride) == 152);

// SAFETY: a plain struct of numbers in C layout; the addresses in it are device addresses.
unsafe impl DeviceRepr for RawForward {}
// SAFETY: as above.
unsafe impl DeviceRepr for RawBackward {}
