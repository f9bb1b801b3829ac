//! What the kernels take: kernels/embedding/params.h, field by field.

use std::mem::offset_of;

use cudarc::driver::DeviceRepr;

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RawForward {
    pub table: u64,
    pub ids: u64,
    pub out: u64,
    pub out_of_range: u64,
    pub table_stride: u32,
    pub out_stride: u32,
    pub n_rows: u32,
    pub width: u32,
    pub vocabulary: u32,
    pub unused: u32,
}
const _: () = {
    assert!(size_of::<RawForward>() == 56 && offset_of!(RawForward, table_stride) == 32);
    assert!(offset_of!(RawForward, vocabulary) == 48);
};

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RawSort {
    pub keys: u64,
    pub rows: u64,
    pub to_keys: u64,
    pub to_rows: u64,
    pub counts: u64,
    pub totals: u64,
    pub out_of_range: u64,
    pub n: u32,
    pub n_blocks: u32,
    pub vocabulary: u32,
    pub shift: u32,
}
const _: () = {
    assert!(size_of::<RawSort>() == 72 && offset_of!(RawSort, out_of_range) == 48 && offset_of!(RawSort, n) == 56);
};

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RawBackward {
    pub keys: u64,
    pub rows: u64,
    pub grad_out: u64,
    pub grad_table: u64,
    pub partial: u64,
    pub grad_out_stride: u32,
    pub grad_table_stride: u32,
    pub n: u32,
    pub width: u32,
    pub vocabulary: u32,
    pub add: u32,
}
const _: () = {
    assert!(
        size_of::<RawBackward>() == 64 && offset_of!(RawBackward, partial) == 32 && offset_of!(RawBackward, n) == 48
    );
};

// SAFETY: a plain struct of integers in C layout; the addresses in it are device addresses.
unsafe impl DeviceRepr for RawForward {}
// SAFETY: as above.
unsafe impl DeviceRepr for RawSort {}
// SAFETY: as above.
unsafe impl DeviceRepr for RawBackward {}
