//! AdamW over many tensors in a launch, and the global norm of gradients (Loshchilov & Hutter, arXiv 1711.05101).
//!
//! ```text
//! g = grad min(1, max_norm / norm)
//! m = beta1 m + (1 - beta1) g                     v = beta2 v + (1 - beta2) g^2
//! w = w (1 - lr decay) - lr (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps)
//! ```
//!
//! Master weights and moments are f32 whatever the gradients are. Nothing comes to the host: the norm stays on the device.
//! A captured graph keeps the step's constants (lr, step) as they were.

use std::mem::offset_of;

use cudarc::driver::DeviceRepr;

use super::error::Result;
use super::launch::{Grid, blocks};
use super::memory::{DeviceElement, DeviceMut, DeviceRef};
use super::{Gpu, Module};
use crate::error::{Error, expect_size};

const OP: &str = "adamw";

/// As in kernels/adamw: tensors of a launch, threads and elements of a block.
const MAX_TENSORS: usize = 32;
const THREADS: u32 = 256;
const CHUNK: usize = 4096;

/// Constants of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWStep {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Number of this step, from 1.
    pub step: u32,
}

/// A bound on the global norm of the gradients.
#[derive(Debug, Clone)]
pub struct Clip<'a> {
    /// `(1)`: the norm, from [`global_norm`].
    pub norm: DeviceRef<'a, f32>,
    /// Gradients are scaled down to this norm where theirs is larger.
    pub max_norm: f32,
}

/// A tensor to be updated; all of one length.
#[derive(Debug)]
pub struct AdamWTensor<'a, T> {
    /// Its gradient.
    pub grad: DeviceRef<'a, T>,
    /// The weights, in and out.
    pub master: DeviceMut<'a, f32>,
    /// First moment, in and out; zero before the first step.
    pub first: DeviceMut<'a, f32>,
    /// Second moment, in and out; zero before the first step.
    pub second: DeviceMut<'a, f32>,
    /// The weights rounded to the element type, overwritten, if asked for.
    pub weight: Option<DeviceMut<'a, T>>,
    /// Weight decay of this tensor.
    pub weight_decay: f32,
}

/// Elements of the workspace of [`global_norm`], for gradients of these lengths.
pub fn global_norm_workspace_len(lens: impl IntoIterator<Item = usize>) -> usize {
    lens.into_iter().map(|len| len.div_ceil(CHUNK)).sum()
}

/// Sums of squares of gradients into `partial`, one for each 4096 elements: the first half of [`global_norm`], for
/// gradients of several element types.
///
/// `partial`: [`global_norm_workspace_len`] of these gradients.
///
/// # Errors
/// Sizes that disagree, a refused launch.
pub fn squares<T: DeviceElement>(
    gpu: &Gpu,
    grads: &[DeviceRef<'_, T>],
    partial: &mut DeviceMut<'_, f32>,
) -> Result<()> {
    let len = global_norm_workspace_len(grads.iter().map(DeviceRef::len));
    expect_size(OP, "partial", "elements", len, partial.len())?;
    let mut at = 0;
    for grads in grads.chunks(MAX_TENSORS) {
        let mut params = Raw::new();
        let mut n_blocks = 0;
        for (tensor, grad) in params.tensors.iter_mut().zip(grads) {
            *tensor =
                RawTensor { grad: grad.address(gpu), len: grad.len() as u64, first_block: n_blocks, ..RawTensor::NONE };
            n_blocks += blocks(OP, "gradient", grad.len(), CHUNK)?;
        }
        params.n_tensors = grads.len() as u32;
        params.partial = partial.address(gpu) + (at * size_of::<f32>()) as u64;
        at += n_blocks as usize;
        let kernel = format!("adamw_squares_{}", T::DTYPE.name());
        // SAFETY: a block reads 4096 elements of a gradient, bounded by its length, and writes its partial, of which there
        // are as many as blocks.
        unsafe { gpu.launch(Module::AdamW, &kernel, Grid::line(n_blocks, THREADS), &params)? };
    }
    Ok(())
}

/// The norm of all gradients together, from their sums of squares.
///
/// # Errors
/// A refused launch.
pub fn norm_of_squares(gpu: &Gpu, partial: &DeviceRef<'_, f32>, norm: &mut DeviceMut<'_, f32>) -> Result<()> {
    expect_size(OP, "norm", "elements", 1, norm.len())?;
    let params = RawTotal { partial: partial.address(gpu), norm: norm.address(gpu), n: partial.len() as u64 };
    // SAFETY: one block reads the partials and writes one element.
    unsafe { gpu.launch(Module::AdamW, "adamw_norm_total", Grid::line(1, THREADS), &params) }
}

/// The norm of all gradients together: `norm` is `(1)`.
///
/// `workspace`: [`global_norm_workspace_len`] elements, whose contents mean nothing before and after.
///
/// # Errors
/// Sizes that disagree, a refused launch.
pub fn global_norm<T: DeviceElement>(
    gpu: &Gpu,
    grads: &[DeviceRef<'_, T>],
    norm: &mut DeviceMut<'_, f32>,
    mut workspace: DeviceMut<'_, f32>,
) -> Result<()> {
    squares(gpu, grads, &mut workspace)?;
    norm_of_squares(gpu, &workspace.into_ref(), norm)
}

/// Updates tensors.
///
/// # Errors
/// Sizes that disagree, a step of zero, a refused launch. Tensors before the one at fault may have been updated only if
/// the driver refused a launch.
pub fn adamw<T: DeviceElement>(
    gpu: &Gpu,
    tensors: &mut [AdamWTensor<'_, T>],
    step: AdamWStep,
    clip: Option<&Clip<'_>>,
) -> Result<()> {
    if step.step == 0 {
        return Err(Error::Limit { op: OP, arg: "step", min: 1, max: u32::MAX as usize, got: 0 }.into());
    }
    for tensor in tensors.iter() {
        let len = tensor.master.len();
        expect_size(OP, "grad", "elements", len, tensor.grad.len())?;
        expect_size(OP, "first", "elements", len, tensor.first.len())?;
        expect_size(OP, "second", "elements", len, tensor.second.len())?;
        if let Some(weight) = &tensor.weight {
            expect_size(OP, "weight", "elements", len, weight.len())?;
        }
    }
    if let Some(clip) = clip {
        expect_size(OP, "norm", "elements", 1, clip.norm.len())?;
    }
    for tensors in tensors.chunks(MAX_TENSORS) {
        let mut params = Raw::new();
        let mut n_blocks = 0;
        for (raw, tensor) in params.tensors.iter_mut().zip(tensors) {
            *raw = RawTensor {
                grad: tensor.grad.address(gpu),
                master: tensor.master.address(gpu),
                first: tensor.first.address(gpu),
                second: tensor.second.address(gpu),
                weight: tensor.weight.as_ref().map_or(0, |weight| weight.address(gpu)),
                len: tensor.master.len() as u64,
                weight_decay: tensor.weight_decay,
                first_block: n_blocks,
            };
            n_blocks += blocks(OP, "tensor", tensor.master.len(), CHUNK)?;
        }
        params.n_tensors = tensors.len() as u32;
        params.norm = clip.map_or(0, |clip| clip.norm.address(gpu));
        params.max_norm = clip.map_or(0.0, |clip| clip.max_norm);
        params.lr = step.lr as f32;
        params.beta1 = step.beta1 as f32;
        params.beta2 = step.beta2 as f32;
        params.eps = step.eps as f32;
        params.correction1 = (1.0 - step.beta1.powf(f64::from(step.step))) as f32;
        params.correction2 = (1.0 - step.beta2.powf(f64::from(step.step))) as f32;
        let kernel = format!("adamw_{}", T::DTYPE.name());
        // SAFETY: all parts of a tensor have its length, by which the kernel bounds its blocks of 4096 elements; what is
        // written is borrowed exclusively.
        unsafe { gpu.launch(Module::AdamW, &kernel, Grid::line(n_blocks, THREADS), &params)? };
    }
    Ok(())
}

// What the kernels take: kernels/adamw/params.h, field by field.

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct RawTensor {
    grad: u64,
    master: u64,
    first: u64,
    second: u64,
    weight: u64,
    len: u64,
    weight_decay: f32,
    first_block: u32,
}
const _: () = {
    assert!(size_of::<RawTensor>() == 56 && offset_of!(RawTensor, len) == 40);
    assert!(offset_of!(RawTensor, first_block) == 52);
};

impl RawTensor {
    const NONE: Self =
        Self { grad: 0, master: 0, first: 0, second: 0, weight: 0, len: 0, weight_decay: 0.0, first_block: 0 };
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Raw {
    tensors: [RawTensor; MAX_TENSORS],
    norm: u64,
    partial: u64,
    n_tensors: u32,
    max_norm: f32,
    lr: f32,
    beta1: f32,
    beta2: f32,
    eps: f32,
    correction1: f32,
    correction2: f32,
}
const _: () = {
    assert!(size_of::<Raw>() == 56 * 32 + 48 && offset_of!(Raw, norm) == 1792 && offset_of!(Raw, max_norm) == 1812);
};

impl Raw {
    fn new() -> Self {
        Self {
            tensors: [RawTensor::NONE; MAX_TENSORS],
            norm: 0,
            partial: 0,
            n_tensors: 0,
            max_norm: 0.0,
            lr: 0.0,
            beta1: 0.0,
            beta2: 0.0,
            eps: 0.0,
            correction1: 1.0,
            correction2: 1.0,
        }
    }
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct RawTotal {
    partial: u64,
    norm: u64,
    n: u64,
}
const _: () = assert!(size_of::<RawTotal>() == 24);

// SAFETY: a plain struct of numbers in C layout; the addresses in it are device addresses.
unsafe impl DeviceRepr for Raw {}
// SAFETY: as above.
unsafe impl DeviceRepr for RawTotal {}
