//! What the kernels take: kernels/causal_conv1d/params.h, field by field.

use std::mem::offset_of;

use cudarc::driver::DeviceRepr;

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RawInputs {
    pub row_of_position: u64,
    pub document_starts: u64,
    pub x: u64,
    pub weight: u64,
    pub bias: u64,
    pub initial_state: u64,
    pub batch: u32,
    pub seqlen: u32,
    pub d_inner: u32,
    pub d_conv: u32,
    pub silu: u32,
    pub x_stride: u32,
}
const _: () = {
    assert!(
        size_of::<RawInputs>() == 72 && offset_of!(RawInputs, batch) == 48 && offset_of!(RawInputs, x_stride) == 68
    );
};

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RawForward {
    pub inputs: RawInputs,
    pub out: u64,
    pub last_state: u64,
    pub out_stride: u32,
    pub stretch: u32,
}
const _: () = {
    assert!(size_of::<RawForward>() == 96 && offset_of!(RawForward, out) == 72);
    assert!(offset_of!(RawForward, stretch) == 92);
};

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RawBackward {
    pub inputs: RawInputs,
    pub grad_out: u64,
    pub grad_last_state: u64,
    pub grad_x: u64,
    pub out: u64,
    pub grad_initial_state: u64,
    pub partial: u64,
    pub edges: u64,
    pub grad_weight: u64,
    pub grad_bias: u64,
    pub grad_out_stride: u32,
    pub grad_x_stride: u32,
    pub out_stride: u32,
    pub n_partials: u32,
}
const _: () = {
    assert!(size_of::<RawBackward>() == 160 && offset_of!(RawBackward, partial) == 112);
    assert!(offset_of!(RawBackward, grad_out_stride) == 144);
};

// SAFETY: plain structs of integers in C layout; the addresses in them are device addresses.
unsafe impl DeviceRepr for RawForward {}
// SAFETY: as above.
unsafe impl DeviceRepr for RawBackward {}
