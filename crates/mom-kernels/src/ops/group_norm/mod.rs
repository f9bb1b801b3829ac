//! Group norm of pictures whose channels lie side by side, with the activation behind it (Wu and He 2018, arXiv 1803.08494).
//!
//! Needs the feature `cuda`.
//!
//! ```text
//! y = activation((x - mean) / sqrt(variance + eps) * weight + bias)
//! ```
//!
//! Mean and variance are those of a group of channels over all pixels of a picture, in f32 around the first pixel of every chunk, so
//! that a mean of many deviations costs the variance no digits; what is left is the rounding of the mean itself. Two runs give the same
//! bits.
//!
//! ```
//! use mom_kernels::cuda::{Gpu, group_norm::{Activation, GroupNorm, group_norm, workspace_len}};
//!
//! # fn main() -> mom_kernels::cuda::Result<()> {
//! let Ok(gpu) = Gpu::new(0) else { return Ok(()) }; // no GPU here
//! // One picture of one pixel, eight channels in two groups.
//! let x = gpu.upload(&[1.0f32, 1.0, 3.0, 3.0, 5.0, 5.0, 9.0, 9.0])?;
//! let (weight, bias) = (gpu.upload(&[1.0f32; 8])?, gpu.zeros::<f32>(8)?);
//! let mut y = gpu.zeros::<f32>(8)?;
//! let mut workspace = gpu.zeros::<f32>(workspace_len::<f32>(1, 1, 8, 2))?;
//! let norm = GroupNorm::new(1, 2, gpu.read(&weight), gpu.read(&bias));
//! group_norm(&gpu, &gpu.rows(&x, 8)?, &norm, gpu.rows_mut(&mut y, 8)?, gpu.write(&mut workspace))?;
//! assert!((gpu.download(&y)?[2] - 1.0).abs() < 1e-4);
//! # Ok(())
//! # }
//! ```

mod backward;
mod layer;

use std::mem::offset_of;

use cudarc::driver::DeviceRepr;

use crate::error::{Error, expect_size};
use crate::runtime::{DeviceElement, DeviceMut, DeviceRef, DeviceRows, DeviceRowsMut, Gpu, Grid, Result, blocks};

pub use backward::{backward, backward_workspace_len};
pub use layer::{layer_norm, takes_rows};

const OP: &str = "group_norm";

/// As in kernels/group_norm: threads of a block, and bytes that a thread reads at once.
const THREADS: usize = 256;
const VECTOR_BYTES: usize = 16;

/// Bytes of a chunk, about: enough that what a block does at its end costs little.
const CHUNK_BYTES: usize = 1 << 17;

/// Pictures of a launch.
const MAX_BATCH: usize = 65_535;

/// What is behind the norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activation {
    /// Nothing.
    #[default]
    None,
    /// `x / (1 + exp(-x))`.
    Silu,
    /// `x (1 + erf(x / sqrt(2))) / 2`.
    Gelu,
}

/// A group norm: `weight` and `bias` `(n_channels)`.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct GroupNorm<'a> {
    /// Pictures.
    pub batch: usize,
    /// Groups of channels.
    pub n_groups: usize,
    /// Factor of each channel.
    pub weight: DeviceRef<'a, f32>,
    /// Added to each channel.
    pub bias: DeviceRef<'a, f32>,
    /// Added to every variance; 1e-5.
    pub eps: f32,
    /// What is behind it; none.
    pub activation: Activation,
}

impl<'a> GroupNorm<'a> {
    /// Without an activation.
    pub fn new(batch: usize, n_groups: usize, weight: DeviceRef<'a, f32>, bias: DeviceRef<'a, f32>) -> Self {
        Self { batch, n_groups, weight, bias, eps: 1e-5, activation: Activation::None }
    }

    /// With another number beside the variance.
    pub fn with_eps(self, eps: f32) -> Self {
        Self { eps, ..self }
    }

    /// With an activation behind it.
    pub fn with_activation(self, activation: Activation) -> Self {
        Self { activation, ..self }
    }
}

/// Whether the kernels take so many channels: vectors of 16 bytes, at most 256 of them.
pub fn takes<T: DeviceElement>(n_channels: usize) -> bool {
    let vector = VECTOR_BYTES / size_of::<T>();
    n_channels.is_multiple_of(vector) && (1..=THREADS).contains(&(n_channels / vector))
}

/// Pixels of a chunk, and chunks of a picture.
fn chunks<T>(n_rows: usize, n_channels: usize) -> (usize, usize) {
    let rows = (CHUNK_BYTES / (n_channels * size_of::<T>()).max(1)).max(1);
    (rows, n_rows.div_ceil(rows))
}

/// Elements of the workspace of [`group_norm`].
pub fn workspace_len<T: DeviceElement>(batch: usize, n_rows: usize, n_channels: usize, n_groups: usize) -> usize {
    2 * batch * n_groups * (chunks::<T>(n_rows, n_channels).1 + 1)
}

/// Normalises `x` into `y`, both `(batch * n_rows, n_channels)`, dense, rows of 16 bytes.
///
/// `workspace`: [`workspace_len`] elements, whose contents mean nothing before and after.
///
/// # Errors
/// Sizes that disagree, no picture or more than 65,535, channels that the kernels do not [take](takes) or that the groups do not divide,
/// rows off 16 bytes, a refused launch.
pub fn group_norm<T: DeviceElement>(
    gpu: &Gpu,
    x: &DeviceRows<'_, T>,
    norm: &GroupNorm<'_>,
    y: DeviceRowsMut<'_, T>,
    workspace: DeviceMut<'_, f32>,
) -> Result<()> {
    let Checked { n_rows, n_channels, batch, n_groups } = norm.check(x, "y", &y)?;
    expect_size(OP, "workspace", "elements", workspace_len::<T>(batch, n_rows, n_channels, n_groups), workspace.len())?;
    if n_rows == 0 {
        return Ok(());
    }
    let params = norm.raw(gpu, x, y.address(gpu)?, &workspace)?;
    params.moments::<T>(gpu)?;
    // SAFETY: x and y have n_rows pixels of n_channels for each picture, a block reads and writes those of its chunk; y is borrowed
    // exclusively.
    unsafe { gpu.launch(&format!("group_norm_apply_{}", T::DTYPE.name()), params.of_chunks(), &params) }
}

/// Sizes of a call.
#[derive(Debug, Clone, Copy)]
struct Checked {
    /// Pixels of each picture.
    n_rows: usize,
    n_channels: usize,
    batch: usize,
    n_groups: usize,
}

impl GroupNorm<'_> {
    /// Fails unless `x` and what is written fit together and to the parameters.
    fn check<T: DeviceElement>(
        &self,
        x: &DeviceRows<'_, T>,
        arg: &'static str,
        to: &DeviceRowsMut<'_, T>,
    ) -> Result<Checked> {
        let (n, n_channels, batch, n_groups) = (x.n_rows(), x.width(), self.batch, self.n_groups);
        to.expect(OP, arg, n, n_channels)?;
        let vector = VECTOR_BYTES / size_of::<T>();
        if !takes::<T>(n_channels) {
            let (min, max) = (vector, vector * THREADS);
            return Err(Error::Limit { op: OP, arg: "n_channels", min, max, got: n_channels }.into());
        }
        if n_groups == 0 || !n_channels.is_multiple_of(n_groups) {
            return Err(Error::Limit { op: OP, arg: "n_groups", min: 1, max: n_channels, got: n_groups }.into());
        }
        if !(1..=MAX_BATCH).contains(&batch) {
            return Err(Error::Limit { op: OP, arg: "batch", min: 1, max: MAX_BATCH, got: batch }.into());
        }
        expect_size(OP, "x", "pixels of each picture", n / batch * batch, n)?;
        for (arg, stride) in [("x", x.stride()), (arg, to.stride())] {
            expect_size(OP, arg, "elements from a row to the next", n_channels, stride)?;
        }
        for (arg, aligned) in [("x", x.is_aligned(vector)), (arg, to.is_aligned(vector))] {
            expect_size(OP, arg, "rows off 16 bytes", 0, usize::from(!aligned))?;
        }
        expect_size(OP, "weight", "elements", n_channels, self.weight.len())?;
        expect_size(OP, "bias", "elements", n_channels, self.bias.len())?;
        Ok(Checked { n_rows: n / batch, n_channels, batch, n_groups })
    }

    /// What the kernels take, with the moments' place in a workspace of [`workspace_len`]; `y` is 0 where none is written.
    fn raw<T: DeviceElement>(
        &self,
        gpu: &Gpu,
        x: &DeviceRows<'_, T>,
        y: u64,
        workspace: &DeviceMut<'_, f32>,
    ) -> Result<Raw> {
        let (n_channels, batch, n_groups) = (x.width(), self.batch, self.n_groups);
        let n_rows = x.n_rows() / batch;
        let (rows_per_chunk, n_chunks) = chunks::<T>(n_rows, n_channels);
        let partial = workspace.address(gpu)?;
        Ok(Raw {
            x: x.address(gpu)?,
            y,
            weight: self.weight.address(gpu)?,
            bias: self.bias.address(gpu)?,
            partial,
            statistics: partial + (2 * batch * n_chunks * n_groups * size_of::<f32>()) as u64,
            n_rows: n_rows as u64,
            n_channels: n_channels as u32,
            n_groups: n_groups as u32,
            rows_per_chunk: rows_per_chunk as u32,
            n_chunks: blocks(OP, "pixels", n_chunks, 1)?,
            eps: self.eps,
            activation: self.activation as u32,
            batch: blocks(OP, "batch", batch, 1)?,
            unused: 0,
        })
    }
}

impl Raw {
    /// A block for each chunk of each picture.
    fn of_chunks(&self) -> Grid {
        Grid { blocks: (self.n_chunks, self.batch, 1), threads: (THREADS as u32, 1, 1) }
    }

    /// Writes the mean of each picture's groups, and one over their deviation.
    fn moments<T: DeviceElement>(&self, gpu: &Gpu) -> Result<()> {
        let n_groups = self.batch as usize * self.n_groups as usize;
        let of_groups = Grid::line(blocks(OP, "groups", n_groups, THREADS / 32)?, THREADS as u32);
        // SAFETY: x has n_rows pixels of n_channels for each picture, a block reads those of its chunk; a partial sum for each chunk
        // and group, and the moments of each group, lie in the workspace, which the caller has borrowed exclusively.
        unsafe {
            gpu.launch(&format!("group_norm_sums_{}", T::DTYPE.name()), self.of_chunks(), self)?;
            gpu.launch("group_norm_moments", of_groups, self)
        }
    }
}

// What the kernels take: kernels/group_norm/params.h, field by field.

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Raw {
    x: u64,
    y: u64,
    weight: u64,
    bias: u64,
    partial: u64,
    statistics: u64,
    n_rows: u64,
    n_channels: u32,
    n_groups: u32,
    rows_per_chunk: u32,
    n_chunks: u32,
    eps: f32,
    activation: u32,
    batch: u32,
    unused: u32,
}
const _: () = {
    assert!(size_of::<Raw>() == 88 && offset_of!(Raw, n_rows) == 48 && offset_of!(Raw, eps) == 72);
};
// SAFETY: a plain struct of numbers in C layout; the addresses in it are device addresses.
unsafe impl DeviceRepr for Raw {}
