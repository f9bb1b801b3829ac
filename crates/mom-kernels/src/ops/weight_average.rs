//! Exponential moving averages of weights, many tensors in a launch.
//!
//! Needs the feature `cuda`.
//!
//! ```text
//! average += share (weight - average)
//! ```
//!
//! Each operation is rounded to f32 on its own: the same bits as on the CPU.
//!
//! ```
//! use mom_kernels::cuda::{Gpu, weight_average::{Average, weight_average}};
//!
//! # fn main() -> mom_kernels::cuda::Result<()> {
//! let Ok(gpu) = Gpu::new(0) else { return Ok(()) }; // no GPU here
//! let weight = gpu.upload(&[3.0f32])?;
//! let mut average = gpu.upload(&[1.0f32])?;
//! weight_average(&gpu, &mut [Average::new(gpu.write(&mut average), gpu.read(&weight))], 0.25)?;
//! assert_eq!(gpu.download(&average)?, [1.5]);
//! # Ok(())
//! # }
//! ```

use std::mem::offset_of;

use cudarc::driver::DeviceRepr;

use crate::error::expect_size;
use crate::runtime::{DeviceMut, DeviceRef, Gpu, Grid, Result, blocks};

const OP: &str = "weight_average";

/// As in kernels/weight_average: tensors of a launch, threads and elements of a block.
const MAX_TENSORS: usize = 96;
const THREADS: u32 = 256;
const CHUNK: usize = 4096;

/// A tensor and its average; both of one length.
#[derive(Debug)]
#[non_exhaustive]
pub struct Average<'a> {
    /// The average, in and out.
    pub average: DeviceMut<'a, f32>,
    /// The weights.
    pub weight: DeviceRef<'a, f32>,
}

impl<'a> Average<'a> {
    /// An average of these weights.
    pub fn new(average: DeviceMut<'a, f32>, weight: DeviceRef<'a, f32>) -> Self {
        Self { average, weight }
    }
}

/// Moves averages towards weights; `share` is that of the weights in the new averages, from 0 to 1.
///
/// # Errors
/// Sizes that disagree, a refused launch.
pub fn weight_average(gpu: &Gpu, tensors: &mut [Average<'_>], share: f32) -> Result<()> {
    for tensor in tensors.iter() {
        expect_size(OP, "weight", "elements", tensor.average.len(), tensor.weight.len())?;
    }
    for tensors in tensors.chunks(MAX_TENSORS) {
        let mut params = Raw { tensors: [RawTensor::NONE; MAX_TENSORS], n_tensors: tensors.len() as u32, share };
        let mut n_blocks = 0;
        for (raw, tensor) in params.tensors.iter_mut().zip(tensors) {
            *raw = RawTensor {
                average: tensor.average.address(gpu)?,
                weight: tensor.weight.address(gpu)?,
                len: tensor.average.len() as u64,
                first_block: n_blocks,
                unused: 0,
            };
            n_blocks += blocks(OP, "tensor", tensor.average.len(), CHUNK)?;
        }
        // SAFETY: a block reads and writes 4096 elements of a tensor, bounded by its length, which both parts have; averages
        // are borrowed exclusively.
        unsafe { gpu.launch(OP, Grid::line(n_blocks, THREADS), &params)? };
    }
    Ok(())
}

// What the kernel takes: kernels/weight_average/params.h, field by field.

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct RawTensor {
    average: u64,
    weight: u64,
    len: u64,
    first_block: u32,
    unused: u32,
}
const _: () = assert!(size_of::<RawTensor>() == 32 && offset_of!(RawTensor, first_block) == 24);

impl RawTensor {
    const NONE: Self = Self { average: 0, weight: 0, len: 0, first_block: 0, unused: 0 };
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Raw {
    tensors: [RawTensor; MAX_TENSORS],
    n_tensors: u32,
    share: f32,
}
const _: () = assert!(size_of::<Raw>() == 32 * 96 + 8 && offset_of!(Raw, n_tensors) == 3072);

// SAFETY: a plain struct of numbers in C layout; the addresses in it are device addresses.
unsafe impl DeviceRepr for Raw {}
