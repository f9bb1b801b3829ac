//! Sums of losses over rows: by group, and of what is trained on.

use super::abi::{RawSums, RawTotal};
use super::args::{GroupInputs, MAX_GROUPS, Scale};
use crate::error::{Error, expect_size};
use crate::ops::cross_entropy::params::{OP, expect_rows};
use crate::runtime::{DeviceMut, DeviceRef, Gpu, Grid, Result, blocks, optional_ref};

/// As in kernels/cross_entropy: rows and threads of a block of the sums, sums of a group.
const SUM_ROWS: usize = 2048;
const SUM_THREADS: u32 = 256;
const SUMS: usize = 3;

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
    inputs.targets.check_weights(n_rows)?;
    expect_rows("loss", n_rows, &inputs.loss)?;
    expect_rows("lse", n_rows, &inputs.lse)?;
    if let Some(groups) = &inputs.groups {
        expect_rows("groups", n_rows, groups)?;
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
/// * `loss`, `lse`: `(n_rows)`, from [`Losses`](super::Losses); `weights`: `(n_rows)`, 1 if absent.
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
