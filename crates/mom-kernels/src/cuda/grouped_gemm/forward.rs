//! Rows times the weight of their modality: the forward pass, and what the input gradient shares with it.

use super::params::{GroupedWeights, OP, RawMGrouped, TILE_ROWS, VECTOR, groups, module, tile_columns};
use super::{library, sm90};
use crate::cuda::error::Result;
use crate::cuda::launch::{Grid, blocks};
use crate::cuda::memory::{DeviceElement, DeviceRows, DeviceRowsMut};
use crate::cuda::{DeviceOffsets, Gpu};

/// `y = x W_m^T + b_m`.
///
/// * `offsets`: rows of each modality; with a single weight any number of modalities shares it.
/// * `x`: `(n_rows, in_features)`, `y`: `(n_rows, out_features)`, overwritten.
///
/// # Errors
/// Sizes that disagree, 2^31 rows or more, a refused launch.
pub fn forward<T: DeviceElement>(
    gpu: &Gpu,
    offsets: &DeviceOffsets<'_>,
    x: &DeviceRows<'_, T>,
    weights: &GroupedWeights<'_, T>,
    y: DeviceRowsMut<'_, T>,
) -> Result<()> {
    let groups = groups(offsets, weights)?;
    x.expect(OP, "x", groups.n_rows(), weights.in_features())?;
    y.expect(OP, "y", groups.n_rows(), weights.out_features())?;
    m_grouped(gpu, Direction::Forward, &groups, x, weights, y, Addend::None)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Forward,
    Input,
}

/// What a product is added to.
#[derive(Debug)]
pub(super) enum Addend<'r, 'a, T> {
    None,
    /// What the output holds.
    Output,
    /// Rows as wide as the output's.
    Rows(&'r DeviceRows<'a, T>),
}

/// The launch of both directions; the callers have checked the shapes.
pub(super) fn m_grouped<T: DeviceElement>(
    gpu: &Gpu,
    direction: Direction,
    groups: &DeviceOffsets<'_>,
    x: &DeviceRows<'_, T>,
    weights: &GroupedWeights<'_, T>,
    mut y: DeviceRowsMut<'_, T>,
    addend: Addend<'_, '_, T>,
) -> Result<()> {
    let (n_rows, n, k) = (groups.n_rows(), y.width(), x.width());
    if n_rows == 0 {
        return Ok(());
    }
    let faster = sm90::is_faster(n_rows, weights.n_groups(), n) && sm90::takes(gpu, x, weights, &y, &addend)?;
    if let Some(library) = library::library(gpu, groups, weights).filter(|_| !faster) {
        return library::m_grouped(gpu, library, direction, x, weights, &y, &addend);
    }
    if let Some(launched) = sm90::m_grouped(gpu, direction, groups, x, weights, &y, &addend)? {
        return Ok(launched);
    }
    if let Addend::Rows(rows) = addend {
        gpu.copy_rows(rows, &mut y)?;
    }
    let (name, biases) = match direction {
        Direction::Forward => ("forward", weights.biases(gpu)),
        Direction::Input => ("input", 0),
    };
    let columns = tile_columns(T::DTYPE, n);
    let n_tiles = n.div_ceil(columns);
    // For any offsets: each modality's last tile may be cut.
    let m_tiles = n_rows.div_ceil(TILE_ROWS) + groups.n_modalities() - 1;
    let params = RawMGrouped {
        x: x.address(gpu),
        y: y.address(gpu),
        offsets: groups.address(gpu),
        biases,
        x_stride: x.stride() as i64,
        y_stride: y.stride() as i64,
        n_rows: n_rows as u32,
        n: n as u32,
        k: k as u32,
        n_groups: groups.n_modalities() as u32,
        n_tiles: n_tiles as u32,
        add: u32::from(!matches!(addend, Addend::None)),
        x_vector: u32::from(x.is_aligned(VECTOR)),
        w_vector: u32::from(weights.is_vector()),
        y_vector: u32::from(y.is_aligned(VECTOR)),
        unused: 0,
        weights: weights.addresses(gpu),
    };
    let grid = Grid::line(blocks(OP, "tiles", m_tiles * n_tiles, 1)?, 256);
    let kernel = format!("m_grouped_{name}_n{columns}_{}", T::DTYPE.name());
    // SAFETY: x has n_rows rows of k, y n_rows rows of n, each weight k * n elements and the biases a row of n for each,
    // as the callers and `GroupedWeights::new` have checked; offsets end at n_rows; a tile's loads and stores are cut at
    // the end of its modality's rows and of the columns.
    unsafe { gpu.launch(module(T::DTYPE), &kernel, grid, &params) }
}
