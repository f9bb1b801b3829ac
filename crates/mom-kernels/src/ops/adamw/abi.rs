//! What the kernels take: kernels/adamw/params.h, field by field.

use std::mem::offset_of;

use cudarc::driver::DeviceRepr;

/// Tensors of a launch of the update, and gradients of one of the norm.
pub(super) const MAX_TENSORS: usize = 32;
pub(super) const MAX_GRADS: usize = 160;

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RawTensor {
    pub grad: u64,
    pub master: u64,
    pub first: u64,
    pub second: u64,
    pub weight: u64,
    pub len: u64,
    pub weight_decay: f32,
    pub first_block: u32,
}
const _: () = {
    assert!(size_of::<RawTensor>() == 56 && offset_of!(RawTensor, len) == 40);
    assert!(offset_of!(RawTensor, first_block) == 52);
};

impl RawTensor {
    pub const NONE: Self =
        Self { grad: 0, master: 0, first: 0, second: 0, weight: 0, len: 0, weight_decay: 0.0, first_block: 0 };
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Raw {
    pub tensors: [RawTensor; MAX_TENSORS],
    pub norm: u64,
    pub record: u64,
    pub skipped: u64,
    pub log_beta1: f64,
    pub log_beta2: f64,
    pub n_tensors: u32,
    pub tells: u32,
    pub max_norm: f32,
    pub lr: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
    pub correction1: f32,
    pub correction2: f32,
    pub unused: u32,
}
const _: () = {
    assert!(size_of::<Raw>() == 56 * 32 + 80 && offset_of!(Raw, norm) == 1792 && offset_of!(Raw, log_beta1) == 1816);
    assert!(offset_of!(Raw, max_norm) == 1840);
};

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RawGrad {
    pub grad: u64,
    pub len: u64,
    pub first_block: u32,
    pub unused: u32,
}
const _: () = assert!(size_of::<RawGrad>() == 24);

impl RawGrad {
    pub const NONE: Self = Self { grad: 0, len: 0, first_block: 0, unused: 0 };
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RawSquares {
    pub grads: [RawGrad; MAX_GRADS],
    pub partial: u64,
    pub n_grads: u32,
    pub unused: u32,
}
const _: () = assert!(size_of::<RawSquares>() == 24 * 160 + 16 && offset_of!(RawSquares, n_grads) == 3848);

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RawTotal {
    pub partial: u64,
    pub norm: u64,
    pub n: u64,
}
const _: () = assert!(size_of::<RawTotal>() == 24);

// SAFETY: a plain struct of numbers in C layout; the addresses in it are device addresses.
unsafe impl DeviceRepr for Raw {}
// SAFETY: as above.
unsafe impl DeviceRepr for RawSquares {}
// SAFETY: as above.
unsafe impl DeviceRepr for RawTotal {}
