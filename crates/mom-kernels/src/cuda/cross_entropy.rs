//! Softmax cross-entropy of rows of logits on the GPU, with a z-loss, and its gradient; meaning as
//! [`crate::cross_entropy`].
//!
//! ```text
//! lse_r = log sum_v exp(l_rv),   loss_r = lse_r - l_r,target
//! gradient of sum_r scale weight_r (loss_r + z lse_r^2):
//! scale weight_r (softmax_v (1 + 2 z lse_r) - [v = target])
//! ```
//!
//! A row without a target ([`NO_TARGET`]) is not read: its loss and lse are zero, and so is its gradient. Targets
//! cannot be refused before a launch, being on the device: one that names no class counts as none and is told by
//! [`check`].

use std::mem::offset_of;

use cudarc::driver::{CudaSlice, DeviceRepr};

use super::ids;
use crate::cuda::runtime::{
    Card, DeviceElement, DeviceMut, DeviceRef, DeviceRows, DeviceRowsMut, Dtype, Gpu, Grid, Result, blocks,
    optional_ref,
};
use crate::error::{Error, expect_size};

const OP: &str = "cross_entropy";

/// The target of a row that has none.
pub const NO_TARGET: u32 = ids::NONE;

/// Most groups that [`group_sums`] takes.
pub const MAX_GROUPS: usize = 8;

/// Classes that a row may have.
const MAX_VOCABULARY: usize = 1 << 20;

/// As in kernels/cross_entropy: bytes of a granule, granules that a thread holds, threads of a block that streams, rows
/// of a block of the sums, sums of a group, threads of a block that scales and their elements.
const GRANULE: usize = 16;
const SLOTS: usize = 8;
/// Threads of the blocks that hold a row.
const HOLDING: [u32; 4] = [64, 256, 512, 1024];
const STREAM_THREADS: u32 = 512;
const SUM_ROWS: usize = 2048;
const SUM_THREADS: u32 = 256;
const SUMS: usize = 3;
const SCALE_THREADS: u32 = 256;
const SCALE_ELEMENTS: usize = 8;

/// What the rows are to be.
#[derive(Debug, Clone)]
pub struct Targets<'a> {
    /// `(n_rows)`: a class below the vocabulary, or [`NO_TARGET`].
    pub targets: DeviceRef<'a, u32>,
    /// `(n_rows)`: the row's share in the gradient and in [`group_sums`]; 1 if absent.
    pub weights: Option<DeviceRef<'a, f32>>,
}

/// What comes out for each row.
#[derive(Debug)]
pub struct Losses<'a> {
    /// `(n_rows)`, overwritten: `lse - logit[target]`, without weight and z-loss; zero without a target.
    pub loss: DeviceMut<'a, f32>,
    /// `(n_rows)`, overwritten: logarithm of the normaliser; zero without a target.
    pub lse: DeviceMut<'a, f32>,
    /// `(1)`: the number of targets that name no class is added; see [`check`].
    pub out_of_range: DeviceMut<'a, u32>,
}

/// Factors of the gradient.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale {
    /// Factor on all rows: one over the number of targets, say. A captured graph keeps it; weights are read again.
    pub scale: f32,
    /// Weight of the z-loss.
    pub z: f32,
}

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
/// [`group_sums`]' own) has counted since it was zero.
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

/// `grad` has the shape of `logits`, and is them or does not overlap them.
fn launch<T: DeviceElement>(
    gpu: &Gpu,
    logits: Place,
    grad: Option<Place>,
    targets: &Targets<'_>,
    scale: Scale,
    losses: &mut Losses<'_>,
) -> Result<()> {
    let (n_rows, vocabulary) = (logits.n_rows, logits.width);
    if !(2..=MAX_VOCABULARY).contains(&vocabulary) {
        return Err(Error::Limit { op: OP, arg: "vocabulary", min: 2, max: MAX_VOCABULARY, got: vocabulary }.into());
    }
    expect_size(OP, "targets", "elements", n_rows, targets.targets.len())?;
    if let Some(weights) = &targets.weights {
        expect_size(OP, "weights", "elements", n_rows, weights.len())?;
    }
    expect_size(OP, "loss", "elements", n_rows, losses.loss.len())?;
    expect_size(OP, "lse", "elements", n_rows, losses.lse.len())?;
    expect_size(OP, "out_of_range", "elements", 1, losses.out_of_range.len())?;
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

/// Per-row results to be summed by group, over any number of chunks at once.
#[derive(Debug, Clone)]
pub struct GroupInputs<'a> {
    /// As [`forward`] has taken them. Rows without a target, or with one that names no class, count nowhere.
    pub targets: Targets<'a>,
    /// Number of classes.
    pub vocabulary: usize,
    /// `(n_rows)`: from [`Losses`].
    pub loss: DeviceRef<'a, f32>,
    /// `(n_rows)`: from [`Losses`].
    pub lse: DeviceRef<'a, f32>,
    /// `(n_rows)`: the group of a row, its modality say; without it there is one group.
    pub groups: Option<DeviceRef<'a, u8>>,
}

/// Elements of the workspace of [`group_sums`].
pub fn group_sums_workspace_len(n_rows: usize, n_groups: usize) -> usize {
    n_rows.div_ceil(SUM_ROWS) * n_groups * SUMS
}

/// For each group the sums over its rows with a target of `weight`, `weight loss` and `weight lse^2` (without z), in
/// f64.
///
/// * `sums`: `(n_groups, 3)`, overwritten; up to [`MAX_GROUPS`] groups. Without `groups` there is one.
/// * `out_of_range`: `(1)`: the number of rows with a target but of no group is added; they count nowhere.
/// * `workspace`: [`group_sums_workspace_len`] elements, whose contents mean nothing before and after.
///
/// # Errors
/// Sizes that disagree or are outside of the limits, a refused launch.
pub fn group_sums(
    gpu: &Gpu,
    inputs: &GroupInputs<'_>,
    n_groups: usize,
    sums: &mut DeviceMut<'_, f64>,
    out_of_range: &mut DeviceMut<'_, u32>,
    workspace: DeviceMut<'_, f64>,
) -> Result<()> {
    let n_rows = inputs.targets.targets.len();
    let max_groups = if inputs.groups.is_some() { MAX_GROUPS } else { 1 };
    if !(1..=max_groups).contains(&n_groups) {
        return Err(Error::Limit { op: OP, arg: "n_groups", min: 1, max: max_groups, got: n_groups }.into());
    }
    if let Some(weights) = &inputs.targets.weights {
        expect_size(OP, "weights", "elements", n_rows, weights.len())?;
    }
    expect_size(OP, "loss", "elements", n_rows, inputs.loss.len())?;
    expect_size(OP, "lse", "elements", n_rows, inputs.lse.len())?;
    if let Some(groups) = &inputs.groups {
        expect_size(OP, "groups", "elements", n_rows, groups.len())?;
    }
    expect_size(OP, "sums", "elements", n_groups * SUMS, sums.len())?;
    expect_size(OP, "out_of_range", "elements", 1, out_of_range.len())?;
    expect_size(OP, "workspace", "elements", group_sums_workspace_len(n_rows, n_groups), workspace.len())?;
    let n_blocks = blocks(OP, "n_rows", n_rows, SUM_ROWS)?;
    let params = RawSums {
        loss: inputs.loss.address(gpu)?,
        lse: inputs.lse.address(gpu)?,
        targets: inputs.targets.targets.address(gpu)?,
        weights: optional_ref(gpu, &inputs.targets.weights)?,
        groups: optional_ref(gpu, &inputs.groups)?,
        partial: workspace.address(gpu)?,
        sums: sums.address(gpu)?,
        out_of_range: out_of_range.address(gpu)?,
        n_rows: blocks(OP, "n_rows", n_rows, 1)?,
        vocabulary: inputs.vocabulary.min(u32::MAX as usize) as u32,
        n_groups: n_groups as u32,
        n_blocks,
    };
    let grid = Grid::line(n_blocks, SUM_THREADS);
    // SAFETY: what is per row has n_rows elements; a block writes its own partial sums.
    unsafe { gpu.launch("cross_entropy_group_partial", grid, &params)? };
    let grid = Grid::line((n_groups * SUMS) as u32, SUM_THREADS);
    // SAFETY: reads the partial sums that the first kernel wrote; a block writes one of n_groups * 3 sums.
    unsafe { gpu.launch("cross_entropy_group_total", grid, &params) }
}

/// What is trained on: `total = scale sum_r weight_r (loss_r + z lse_r^2)`, summed in f64 in a fixed order.
///
/// * `loss`, `lse`: `(n_rows)`, from [`Losses`]; `weights`: `(n_rows)`, 1 if absent.
/// * `total`: `(1)`, overwritten.
///
/// # Errors
/// Sizes that disagree, a refused launch.
pub fn total(
    gpu: &Gpu,
    loss: &DeviceRef<'_, f32>,
    lse: &DeviceRef<'_, f32>,
    weights: Option<&DeviceRef<'_, f32>>,
    scale: Scale,
    total: &mut DeviceMut<'_, f32>,
) -> Result<()> {
    let n_rows = loss.len();
    expect_size(OP, "lse", "elements", n_rows, lse.len())?;
    if let Some(weights) = weights {
        expect_size(OP, "weights", "elements", n_rows, weights.len())?;
    }
    expect_size(OP, "total", "elements", 1, total.len())?;
    let params = RawTotal {
        loss: loss.address(gpu)?,
        lse: lse.address(gpu)?,
        weights: weights.map_or(Ok(0), |weights| weights.address(gpu))?,
        total: total.address(gpu)?,
        n_rows: blocks(OP, "n_rows", n_rows, 1)?,
        scale: scale.scale,
        z: scale.z,
        unused: 0,
    };
    // SAFETY: what is per row has n_rows elements; one block writes the one total.
    unsafe { gpu.launch("cross_entropy_total", Grid::line(1, 1024), &params) }
}

/// `to = from factor`, rounded to `to`'s type: a gradient that was computed along with a loss times that of the loss, which
/// is on the device.
///
/// * `factor`: `(1)`.
///
/// # Errors
/// Sizes that disagree, a refused launch.
pub fn scale<T: DeviceElement>(
    gpu: &Gpu,
    from: &DeviceRef<'_, f32>,
    factor: &DeviceRef<'_, f32>,
    to: &mut DeviceMut<'_, T>,
) -> Result<()> {
    expect_size(OP, "to", "elements", from.len(), to.len())?;
    scale_at::<T>(gpu, from.address(gpu)?, Dtype::F32, factor, to)
}

/// [`scale`] in place.
///
/// # Errors
/// As [`scale`].
pub fn scale_in_place<T: DeviceElement>(
    gpu: &Gpu,
    gradient: &mut DeviceMut<'_, T>,
    factor: &DeviceRef<'_, f32>,
) -> Result<()> {
    scale_at::<T>(gpu, gradient.address(gpu)?, T::DTYPE, factor, gradient)
}

/// `from`: as many elements as `to` of type `dtype`, the same memory or apart from it.
fn scale_at<T: DeviceElement>(
    gpu: &Gpu,
    from: u64,
    dtype: Dtype,
    factor: &DeviceRef<'_, f32>,
    to: &mut DeviceMut<'_, T>,
) -> Result<()> {
    expect_size(OP, "factor", "elements", 1, factor.len())?;
    let params = RawScaling { from, to: to.address(gpu)?, factor: factor.address(gpu)?, n: to.len() as u64 };
    let kernel = format!("cross_entropy_scale_{}_{}", dtype.name(), T::DTYPE.name());
    let grid = Grid::line(blocks(OP, "n", to.len(), SCALE_THREADS as usize * SCALE_ELEMENTS)?, SCALE_THREADS);
    // SAFETY: a thread reads its elements before it writes them, and both have n.
    unsafe { gpu.launch(&kernel, grid, &params) }
}

// What the kernels take: kernels/cross_entropy/params.h, field by field.

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Raw {
    logits: u64,
    grad: u64,
    targets: u64,
    weights: u64,
    loss: u64,
    lse: u64,
    out_of_range: u64,
    logits_stride: u32,
    grad_stride: u32,
    n_rows: u32,
    vocabulary: u32,
    scale: f32,
    z: f32,
}
const _: () = {
    assert!(size_of::<Raw>() == 80 && offset_of!(Raw, logits_stride) == 56 && offset_of!(Raw, z) == 76);
};

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct RawSums {
    loss: u64,
    lse: u64,
    targets: u64,
    weights: u64,
    groups: u64,
    partial: u64,
    sums: u64,
    out_of_range: u64,
    n_rows: u32,
    vocabulary: u32,
    n_groups: u32,
    n_blocks: u32,
}
const _: () = {
    assert!(size_of::<RawSums>() == 80 && offset_of!(RawSums, partial) == 40 && offset_of!(RawSums, n_rows) == 64);
};

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct RawTotal {
    loss: u64,
    lse: u64,
    weights: u64,
    total: u64,
    n_rows: u32,
    scale: f32,
    z: f32,
    unused: u32,
}
const _: () = {
    assert!(size_of::<RawTotal>() == 48 && offset_of!(RawTotal, n_rows) == 32 && offset_of!(RawTotal, z) == 40);
};

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct RawScaling {
    from: u64,
    to: u64,
    factor: u64,
    n: u64,
}
const _: () = assert!(size_of::<RawScaling>() == 32 && offset_of!(RawScaling, n) == 24);

// SAFETY: a plain struct of numbers in C layout; the addresses in it are device addresses.
unsafe impl DeviceRepr for Raw {}
// SAFETY: as above.
unsafe impl DeviceRepr for RawTotal {}
// SAFETY: as above.
unsafe impl DeviceRepr for RawScaling {}
// SAFETY: as above.
unsafe impl DeviceRepr for RawSums {}

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
                for (from, to) in [(dtype, dtype), (Dtype::F32, dtype)] {
                    assert!(card.has(&format!("cross_entropy_scale_{}_{}", from.name(), to.name())));
                }
            }
        }
    }
}
