//! What the kernels take: kernels/selective_scan/params.h, field by field.

use std::mem::offset_of;

use cudarc::driver::DeviceRepr;

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RawInputs {
    pub row_of_position: u64,
    pub document_starts: u64,
    pub bias_offsets: u64,
    pub batch: u32,
    pub seqlen: u32,
    pub d_inner: u32,
    pub d_state: u32,
    pub n_biases: u32,
    pub softplus: u32,
    pub u: u64,
    pub dt: u64,
    pub z: u64,
    pub b: u64,
    pub c: u64,
    pub a: u64,
    pub d: u64,
    pub dt_bias: u64,
    pub u_stride: u32,
    pub dt_stride: u32,
    pub z_stride: u32,
    pub b_stride: u32,
    pub c_stride: u32,
    pub chunk: u32,
}
const _: () = {
    assert!(
        size_of::<RawInputs>() == 136 && offset_of!(RawInputs, batch) == 24 && offset_of!(RawInputs, softplus) == 44
    );
    assert!(offset_of!(RawInputs, u) == 48 && offset_of!(RawInputs, a) == 88 && offset_of!(RawInputs, u_stride) == 112);
    assert!(offset_of!(RawInputs, chunk) == 132);
};

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RawChunks {
    pub inputs: RawInputs,
    pub grad_out: u64,
    pub chunks: u64,
    pub grad_out_stride: u32,
    pub all: u32,
}
const _: () = assert!(size_of::<RawChunks>() == 160 && offset_of!(RawChunks, grad_out_stride) == 152);

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RawFold {
    pub decays: u64,
    pub ends: u64,
    pub decay: u64,
    pub end: u64,
    pub item_stride: u64,
    pub sequence_stride: u64,
    pub batch: u32,
    pub d_inner: u32,
    pub padded: u32,
    pub n_states: u32,
    pub first: u32,
    pub count: u32,
    pub backward: u32,
    pub unused: u32,
}
const _: () = {
    assert!(size_of::<RawFold>() == 80 && offset_of!(RawFold, item_stride) == 32 && offset_of!(RawFold, batch) == 48);
    assert!(offset_of!(RawFold, backward) == 72);
};

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RawForward {
    pub inputs: RawInputs,
    pub initial_state: u64,
    pub out: u64,
    pub last_state: u64,
    pub saved_states: u64,
    pub out_stride: u64,
    pub chunks: u64,
}
const _: () = assert!(size_of::<RawForward>() == 184 && offset_of!(RawForward, chunks) == 176);

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RawBackward {
    pub inputs: RawInputs,
    pub saved_states: u64,
    pub grad_last_state: u64,
    pub grad_out: u64,
    pub grad_u: u64,
    pub grad_dt: u64,
    pub grad_z: u64,
    pub out: u64,
    pub grad_initial_state: u64,
    pub lent_bc: u64,
    pub partial_bc: u64,
    pub partial_a: u64,
    pub partial_d: u64,
    pub partial_bias: u64,
    pub grad_out_stride: u32,
    pub grad_u_stride: u32,
    pub grad_dt_stride: u32,
    pub grad_z_stride: u32,
    pub out_stride: u32,
    pub n_rows: u32,
    pub chunks: u64,
    pub n_lent: u32,
    pub unused: u32,
}
const _: () = {
    assert!(size_of::<RawBackward>() == 280 && offset_of!(RawBackward, grad_out) == 152);
    assert!(offset_of!(RawBackward, partial_bc) == 208 && offset_of!(RawBackward, grad_out_stride) == 240);
    assert!(offset_of!(RawBackward, chunks) == 264);
};

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RawSums {
    pub lent_bc: u64,
    pub partial_bc: u64,
    pub partial_a: u64,
    pub partial_d: u64,
    pub partial_bias: u64,
    pub grad_b: u64,
    pub grad_c: u64,
    pub grad_a: u64,
    pub grad_d: u64,
    pub grad_bias: u64,
    pub grad_b_stride: u64,
    pub grad_c_stride: u64,
    pub n_rows: u64,
    pub n_blocks: u32,
    pub n_parts: u32,
    pub d_inner: u32,
    pub d_state: u32,
    pub n_biases: u32,
    pub n_lent: u32,
}
const _: () = {
    assert!(size_of::<RawSums>() == 128 && offset_of!(RawSums, grad_b_stride) == 80);
    assert!(offset_of!(RawSums, n_blocks) == 104);
};

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RawStep {
    pub inputs: RawInputs,
    pub state: u64,
    pub out: u64,
    pub out_stride: u64,
}
const _: () = assert!(size_of::<RawStep>() == 160 && offset_of!(RawStep, state) == 136);

// SAFETY: plain structs of integers in C layout; the addresses in them are device addresses.
unsafe impl DeviceRepr for RawChunks {}
// SAFETY: as above.
unsafe impl DeviceRepr for RawFold {}
// SAFETY: as above.
unsafe impl DeviceRepr for RawForward {}
// SAFETY: as above.
unsafe impl DeviceRepr for RawBackward {}
// SAFETY: as above.
unsafe impl DeviceRepr for RawSums {}
// SAFETY: as above.
unsafe impl DeviceRepr for RawStep {}

/// Where partial sums lie, by address: those of dB and dC of the first `n_lent` blocks of channels at `lent_bc`, of the
/// others at `bc`, which is where the first block's would be before them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Partials {
    pub lent_bc: u64,
    pub n_lent: u32,
    pub bc: u64,
    pub a: u64,
    pub d: u64,
    pub bias: u64,
}
