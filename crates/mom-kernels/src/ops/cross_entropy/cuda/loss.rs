//! Losses of rows, and their gradient.

use cudarc::driver::CudaSlice;

use super::abi::Raw;
use super::args::{Losses, Scale, Targets};
use crate::ops::cross_entropy::params::{OP, expect_rows, validate};
use crate::runtime::ids;
use crate::runtime::{Card, DeviceElement, DeviceRows, DeviceRowsMut, Dtype, Gpu, Grid, Result, blocks, optional_ref};
use crate::shape::{Matrix, expect_elements};

/// Classes that a row may have.
const MAX_VOCABULARY: usize = 1 << 20;

/// As in kernels/cross_entropy: bytes of a granule, granules that a thread holds, threads of the blocks that hold a row, and
/// of one that streams.
const GRANULE: usize = 16;
const SLOTS: usize = 8;
const HOLDING: [u32; 4] = [64, 256, 512, 1024];
const STREAM_THREADS: u32 = 512;

/// Losses alone: `logits` is `(n_rows, vocabulary)`, of 2 to 2^20 classes.
///
/// # Errors
/// Sizes that disagree or are outside of the limits, a refused launch.
pub fn forward<T: DeviceElement>(
    gpu: &Gpu,
    logits: &DeviceRows<'_, T>,
    targets: &Targets<'_>,
    losses: &mut Losses<'_>,
) -> Result<()> {
    launch::<T>(gpu, Place::of(gpu, logits)?, None, targets, Scale { scale: 0.0, z: 0.0 }, losses)
}

/// Losses, and the gradient beside the logits: `grad` is `(n_rows, vocabulary)`, overwritten.
///
/// # Errors
/// As [`forward`].
pub fn forward_backward<T: DeviceElement>(
    gpu: &Gpu,
    logits: &DeviceRows<'_, T>,
    targets: &Targets<'_>,
    scale: Scale,
    grad: &mut DeviceRowsMut<'_, T>,
    losses: &mut Losses<'_>,
) -> Result<()> {
    grad.expect(OP, "grad", logits.n_rows(), logits.width())?;
    let grad = Place::of_mut(gpu, grad)?;
    launch::<T>(gpu, Place::of(gpu, logits)?, Some(grad), targets, scale, losses)
}

/// Losses, and the gradient in place of the logits: a caller that works in chunks of rows never holds more than a
/// chunk.
///
/// # Errors
/// As [`forward`].
pub fn forward_backward_in_place<T: DeviceElement>(
    gpu: &Gpu,
    logits: &mut DeviceRowsMut<'_, T>,
    targets: &Targets<'_>,
    scale: Scale,
    losses: &mut Losses<'_>,
) -> Result<()> {
    let place = Place::of_mut(gpu, logits)?;
    launch::<T>(gpu, place, Some(place), targets, scale, losses)
}

/// Waits for the stream and tells whether every target named a class, by what [`Losses::out_of_range`] (or
/// [`group_sums`](super::group_sums)' own) has counted since it was zero.
///
/// # Errors
/// Some did not: their number.
pub fn check(gpu: &Gpu, out_of_range: &CudaSlice<u32>) -> Result<()> {
    ids::check(gpu, OP, "targets", out_of_range)
}

/// A matrix of logits or of their gradient.
#[derive(Debug, Clone, Copy)]
struct Place {
    address: u64,
    stride_bytes: u32,
    n_rows: usize,
    width: usize,
}

impl Place {
    fn of<T>(gpu: &Gpu, rows: &DeviceRows<'_, T>) -> Result<Self> {
        let (n_rows, width) = (rows.n_rows(), rows.width());
        Ok(Self { address: rows.address(gpu)?, stride_bytes: rows.stride_bytes(), n_rows, width })
    }

    fn of_mut<T>(gpu: &Gpu, rows: &DeviceRowsMut<'_, T>) -> Result<Self> {
        let (n_rows, width) = (rows.n_rows(), rows.width());
        Ok(Self { address: rows.address(gpu)?, stride_bytes: rows.stride_bytes(), n_rows, width })
    }
}

impl Matrix for Place {
    fn n_rows(&self) -> usize {
        self.n_rows
    }

    fn width(&self) -> usize {
        self.width
    }
}

/// `grad` has the shape of `logits`, and is them or does not overlap them.
fn launch<T: DeviceElement>(
    gpu: &Gpu,
    logits: Place,
    grad: Option<Place>,
    targets: &Targets<'_>,
    scale: Scale,
    losses: &mut Losses<'_>,
) -> Result<()> {
    let (n_rows, vocabulary) = validate(&logits, ("vocabulary", 2..=MAX_VOCABULARY), &targets.targets)?;
    targets.check_weights(n_rows)?;
    expect_rows("loss", n_rows, &losses.loss)?;
    expect_rows("lse", n_rows, &losses.lse)?;
    expect_elements(OP, "out_of_range", 1, &losses.out_of_range)?;
    let params = Raw {
        logits: logits.address,
        grad: grad.map_or(0, |grad| grad.address),
        targets: targets.targets.address(gpu)?,
        weights: optional_ref(gpu, &targets.weights)?,
        loss: losses.loss.address(gpu)?,
        lse: losses.lse.address(gpu)?,
        out_of_range: losses.out_of_range.address(gpu)?,
        logits_stride: logits.stride_bytes,
        grad_stride: grad.map_or(0, |grad| grad.stride_bytes),
        n_rows: blocks(OP, "n_rows", n_rows, 1)?,
        vocabulary: vocabulary as u32,
        scale: scale.scale,
        z: scale.z,
    };
    let (kernel, holding) = kernel(gpu.card(), T::DTYPE, vocabulary);
    let grid = match holding {
        Some(threads) => Grid::line(params.n_rows.min(gpu.n_multiprocessors() * (1024 / threads)), threads),
        None => Grid::line(params.n_rows, STREAM_THREADS),
    };
    // SAFETY: the checks have bound every matrix to n_rows and vocabulary and what is per row to n_rows; a target is
    // used as a column only below vocabulary. A block owns whole rows, and reads a row's logits before a barrier behind
    // which it writes its gradient, so that they may be the same memory; outputs are borrowed exclusively.
    unsafe { gpu.launch(&kernel, grid, &params) }
}

/// The kernel for rows of a vocabulary: of the smallest block that holds a row, with its threads, where the card has the
/// shared memory; else the one that streams them.
fn kernel(card: &Card, dtype: Dtype, vocabulary: usize) -> (String, Option<u32>) {
    let bytes = vocabulary * if dtype.is_half() { 2 } else { 4 };
    // A row that does not start on a granule touches one more.
    let n_granules = bytes.div_ceil(GRANULE) + 1;
    let held = HOLDING.into_iter().filter(|&threads| threads as usize * SLOTS >= n_granules);
    let mut named = held.map(|threads| (format!("cross_entropy_{threads}_{}", dtype.name()), Some(threads)));
    let fits = named.find(|(kernel, _)| card.has(kernel));
    fits.unwrap_or_else(|| (format!("cross_entropy_streamed_{}", dtype.name()), None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_card_has_a_kernel_for_every_vocabulary() {
        for card in Card::capabilities().filter_map(|of| Card::known(of, 100)) {
            for dtype in [Dtype::Bf16, Dtype::F16, Dtype::F32] {
                for vocabulary in [2, 500, 4000, 32_000, 50_000, 65_000, 1 << 20] {
                    let (kernel, _) = kernel(&card, dtype, vocabulary);
                    assert!(card.has(&kernel), "{:?}: {kernel} for {vocabulary} classes", card.capability);
                }
            }
        }
    }
}
