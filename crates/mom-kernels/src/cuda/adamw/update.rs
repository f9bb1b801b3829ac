//! The update of tensors.

use std::mem::offset_of;

use cudarc::driver::{DeviceRepr, ValidAsZeroBits};

use super::OP;
use super::abi::{MAX_TENSORS, Raw, RawTensor};
use crate::cuda::runtime::{
    DeviceElement, DeviceMut, DeviceRef, Dtype, Gpu, GradientOf, Grid, Result, blocks, optional_mut,
};
use crate::error::{Error, expect_size};

/// As in kernels/adamw: threads and elements of a block.
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

/// The part of a step's constants that changes from one step to the next, in device memory: a captured graph reads it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepRecord {
    /// Learning rate.
    pub lr: f32,
    /// Number of this step, from 1; zero counts as 1.
    pub step: u32,
    /// Where the norm of the gradients is larger, [`adamw_if_finite`] writes nothing; 0 where it is only not to be infinite.
    pub skip_above: f32,
}
const _: () = assert!(size_of::<StepRecord>() == 12 && offset_of!(StepRecord, skip_above) == 8);
// SAFETY: a plain struct of numbers in C layout.
unsafe impl DeviceRepr for StepRecord {}
// SAFETY: zeros are numbers.
unsafe impl ValidAsZeroBits for StepRecord {}

/// Where a step's constants come from.
#[derive(Debug, Clone)]
pub enum Step<'a> {
    /// The host.
    Host(AdamWStep),
    /// `lr` and `step` of device memory, instead of those of `constants`. Corrections are made of them on the device,
    /// in f64.
    Device {
        /// `(1)`.
        record: DeviceRef<'a, StepRecord>,
        /// The rest.
        constants: AdamWStep,
    },
}

impl From<AdamWStep> for Step<'_> {
    fn from(constants: AdamWStep) -> Self {
        Self::Host(constants)
    }
}

/// A bound on the global norm of the gradients.
#[derive(Debug, Clone)]
pub struct Clip<'a> {
    /// `(1)`: the norm, from [`global_norm`](super::global_norm).
    pub norm: DeviceRef<'a, f32>,
    /// Gradients are scaled down to this norm where theirs is larger.
    pub max_norm: f32,
}

/// A tensor to be updated; all of one length. Gradients are of the weights' type or f32.
#[derive(Debug)]
pub struct AdamWTensor<'a, G, W = G> {
    /// Its gradient.
    pub grad: DeviceRef<'a, G>,
    /// The weights, in and out.
    pub master: DeviceMut<'a, f32>,
    /// First moment, in and out; zero before the first step.
    pub first: DeviceMut<'a, f32>,
    /// Second moment, in and out; zero before the first step.
    pub second: DeviceMut<'a, f32>,
    /// The weights rounded to their type, overwritten, if asked for.
    pub weight: Option<DeviceMut<'a, W>>,
    /// Weight decay of this tensor.
    pub weight_decay: f32,
}

/// Updates tensors.
///
/// # Errors
/// Sizes that disagree, a step of zero, a refused launch. Tensors before the one at fault may have been updated only if
/// the driver refused a launch.
pub fn adamw<'a, W: DeviceElement, G: GradientOf<W>>(
    gpu: &Gpu,
    tensors: &mut [AdamWTensor<'_, G, W>],
    step: impl Into<Step<'a>>,
    clip: Option<&Clip<'_>>,
) -> Result<()> {
    update(gpu, tensors, &step.into(), clip, 0)
}

/// [`adamw`], where the norm of the gradients is finite, and not above what a [`StepRecord`] says. Else nothing is written,
/// and `skipped` `(1)` is raised by one.
///
/// # Errors
/// As [`adamw`].
pub fn adamw_if_finite<'a, W: DeviceElement, G: GradientOf<W>>(
    gpu: &Gpu,
    tensors: &mut [AdamWTensor<'_, G, W>],
    step: impl Into<Step<'a>>,
    clip: &Clip<'_>,
    skipped: &mut DeviceMut<'_, u32>,
) -> Result<()> {
    expect_size(OP, "skipped", "elements", 1, skipped.len())?;
    update(gpu, tensors, &step.into(), Some(clip), skipped.address(gpu)?)
}

/// `skipped`: the address of a count, or null.
fn update<W: DeviceElement, G: GradientOf<W>>(
    gpu: &Gpu,
    tensors: &mut [AdamWTensor<'_, G, W>],
    step: &Step<'_>,
    clip: Option<&Clip<'_>>,
    skipped: u64,
) -> Result<()> {
    let (constants, record) = match step {
        Step::Host(constants) if constants.step == 0 => {
            return Err(Error::Limit { op: OP, arg: "step", min: 1, max: u32::MAX as usize, got: 0 }.into());
        }
        Step::Host(constants) => (constants, 0),
        Step::Device { record, constants } => {
            expect_size(OP, "record", "elements", 1, record.len())?;
            (constants, record.address(gpu)?)
        }
    };
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
    let kernel = match (G::DTYPE, W::DTYPE) {
        (Dtype::F32, Dtype::Bf16 | Dtype::F16) => format!("adamw_f32_{}", W::DTYPE.name()),
        _ => format!("adamw_{}", W::DTYPE.name()),
    };
    let mut tells = 1;
    for tensors in tensors.chunks(MAX_TENSORS) {
        let mut params = Raw::new(constants);
        let mut n_blocks = 0;
        for (raw, tensor) in params.tensors.iter_mut().zip(tensors) {
            *raw = RawTensor {
                grad: tensor.grad.address(gpu)?,
                master: tensor.master.address(gpu)?,
                first: tensor.first.address(gpu)?,
                second: tensor.second.address(gpu)?,
                weight: optional_mut(gpu, &tensor.weight)?,
                len: tensor.master.len() as u64,
                weight_decay: tensor.weight_decay,
                first_block: n_blocks,
            };
            n_blocks += blocks(OP, "tensor", tensor.master.len(), CHUNK)?;
        }
        params.n_tensors = tensors.len() as u32;
        params.norm = clip.map_or(Ok(0), |clip| clip.norm.address(gpu))?;
        params.max_norm = clip.map_or(0.0, |clip| clip.max_norm);
        params.record = record;
        params.skipped = skipped;
        params.tells = tells;
        // SAFETY: all parts of a tensor have its length, by which the kernel bounds its blocks of 4096 elements;
        // record, norm and count have one element; what is written is borrowed exclusively.
        unsafe { gpu.launch(&kernel, Grid::line(n_blocks, THREADS), &params)? };
        // The first launch that happens counts a skipped step.
        tells = if n_blocks > 0 { 0 } else { tells };
    }
    Ok(())
}

impl Raw {
    /// Without tensors, norm, record and count.
    fn new(step: &AdamWStep) -> Self {
        let correction = |beta: f64| (1.0 - beta.powf(f64::from(step.step))) as f32;
        Self {
            tensors: [RawTensor::NONE; MAX_TENSORS],
            norm: 0,
            record: 0,
            skipped: 0,
            log_beta1: step.beta1.ln(),
            log_beta2: step.beta2.ln(),
            n_tensors: 0,
            tells: 0,
            max_norm: 0.0,
            lr: step.lr as f32,
            beta1: step.beta1 as f32,
            beta2: step.beta2 as f32,
            eps: step.eps as f32,
            correction1: correction(step.beta1),
            correction2: correction(step.beta2),
            unused: 0,
        }
    }
}
