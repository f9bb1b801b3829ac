//! What the kernels take: kernels/modality_plan/params.h, field by field.

use std::mem::offset_of;

use cudarc::driver::DeviceRepr;

/// kernels/modality_plan/params.h.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RawPlan {
    pub modality_ids: u64,
    pub counts: u64,
    pub row_of_position: u64,
    pub position_of_row: u64,
    pub modality_offsets: u64,
    pub first_bad: u64,
    pub n: u32,
    pub n_modalities: u32,
    pub n_blocks: u32,
    pub unused: u32,
}
const _: () = {
    assert!(size_of::<RawPlan>() == 64 && offset_of!(RawPlan, first_bad) == 40 && offset_of!(RawPlan, n) == 48);
};
// SAFETY: a plain struct of integers in C layout; the addresses in it are device addresses.
unsafe impl DeviceRepr for RawPlan {}
