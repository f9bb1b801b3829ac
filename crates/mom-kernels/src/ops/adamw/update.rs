//! The update of tensors.

use super::abi::{MAX_TENSORS, Raw, RawTensor};
use super::params::{AdamWStep, AdamWTensor, Clip, OP, Step};
use crate::error::{Error, expect_size};
use crate::runtime::{DeviceElement, DeviceMut, Dtype, Gpu, GradientOf, Grid, Result, blocks, optional_mut};

/// As in kernels/adamw: threads and elements of a block.
const THREADS: u32 = 256;
const CHUNK: usize = 4096;

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

/// [`adamw`], where the norm of the gradients is finite, and not above what a [`StepRecord`](super::StepRecord) says. Else
/// nothing is written, and `skipped` `(1)` is raised by one.
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
