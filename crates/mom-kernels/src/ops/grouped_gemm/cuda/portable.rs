//! The kernels that run on every card.

use super::abi::{RawKGrouped, RawKGroupedSum, RawMGrouped};
use super::product::{C, Direction, RowsProduct, Sum};
use super::select::{Family, Split, TILE_ROWS, VECTOR, split};
use crate::ops::grouped_gemm::params::OP;
use crate::ops::plan::cuda::DeviceOffsets;
use crate::runtime::{DeviceElement, DeviceMut, DeviceRows, DeviceRowsMut, Gpu, Grid, Result, blocks};

/// Rows times the weight of their modality. The callers have checked the shapes, and that there are rows.
pub(super) fn m_grouped<T: DeviceElement>(
    gpu: &Gpu,
    product: &RowsProduct<'_, '_, T>,
    mut y: DeviceRowsMut<'_, T>,
) -> Result<()> {
    let RowsProduct { direction, groups, x, weights, c } = product;
    let (n_rows, n, k) = (groups.n_rows(), y.width(), x.width());
    if let C::Rows(rows) = c {
        gpu.copy_rows(rows, &mut y)?;
    }
    let (family, biases) = match direction {
        Direction::Forward => (Family::Forward, weights.biases_address(gpu)?),
        Direction::Input => (Family::Input, 0),
    };
    let columns = family.columns(gpu.card(), T::DTYPE, n);
    let n_tiles = n.div_ceil(columns);
    // For any offsets: each modality's last tile may be cut.
    let m_tiles = n_rows.div_ceil(TILE_ROWS) + groups.n_modalities() - 1;
    let params = RawMGrouped {
        x: x.address(gpu)?,
        y: y.address(gpu)?,
        offsets: groups.address(gpu)?,
        biases,
        x_stride: x.stride() as i64,
        y_stride: y.stride() as i64,
        n_rows: n_rows as u32,
        n: n as u32,
        k: k as u32,
        n_groups: groups.n_modalities() as u32,
        n_tiles: n_tiles as u32,
        add: u32::from(!matches!(c, C::None)),
        x_vector: u32::from(x.is_aligned(VECTOR)),
        w_vector: u32::from(weights.is_vector()),
        y_vector: u32::from(y.is_aligned(VECTOR)),
        unused: 0,
        weights: weights.addresses(gpu)?,
    };
    let grid = Grid::line(blocks(OP, "tiles", m_tiles * n_tiles, 1)?, 256);
    // SAFETY: x has n_rows rows of k, y n_rows rows of n, each weight k * n elements and the biases a row of n for each,
    // as the callers and `GroupedWeights::new` have checked; offsets end at n_rows; a tile's loads and stores are cut at
    // the end of its modality's rows and of the columns.
    unsafe { gpu.launch(&family.kernel(columns, T::DTYPE), grid, &params) }
}

/// Sums over the rows of each modality, in one launch or in two. The callers have checked the shapes.
pub(super) fn k_grouped<T: DeviceElement, G: DeviceElement>(
    gpu: &Gpu,
    groups: &DeviceOffsets<'_>,
    x: &DeviceRows<'_, T>,
    grad_y: &DeviceRows<'_, T>,
    grads: &[DeviceMut<'_, G>],
    partial: &DeviceMut<'_, f32>,
) -> Result<()> {
    let (n_rows, n_in, n_out) = (groups.n_rows(), x.width(), grad_y.width());
    let sum = Sum::new(x, grad_y, n_out > n_in, grads, partial);
    let columns = Family::Sum.columns(gpu.card(), T::DTYPE, sum.b.width());
    let split = split(columns, n_rows, n_in, n_out);
    parts(gpu, groups, columns, split, &sum)?;
    if split.n == 1 {
        return Ok(());
    }
    let size = n_in * n_out;
    let vector = size % 4 == 0 && partial.is_aligned(4) && grads.iter().all(|grad| grad.is_aligned(4));
    let params = RawKGroupedSum {
        partial: partial.address(gpu)?,
        offsets: groups.address(gpu)?,
        size: size as u64,
        n_rows: n_rows as u32,
        n_groups: grads.len() as u32,
        rows_per_split: split.rows as u32,
        unused: 0,
        grads: sum.grads(gpu)?,
    };
    let (suffix, per_block) = if vector { ("vector_", 1024) } else { ("", 256) };
    let grid = Grid {
        blocks: (blocks(OP, "in_features * out_features", size, per_block)?, grads.len() as u32, 1),
        threads: (256, 1, 1),
    };
    let kernel = format!("k_grouped_sum_{suffix}{}", G::DTYPE.name());
    // SAFETY: reads the pairs of split and modality that have rows, which the first kernel wrote, and writes elements
    // below `size` of each gradient, borrowed exclusively.
    unsafe { gpu.launch(&kernel, grid, &params) }
}

/// The first of the two launches.
fn parts<T: DeviceElement, G: DeviceElement>(
    gpu: &Gpu,
    groups: &DeviceOffsets<'_>,
    columns: usize,
    split: Split,
    sum: &Sum<'_, '_, T, G>,
) -> Result<()> {
    let (a, b) = (sum.a, sum.b);
    let params = RawKGrouped {
        a: a.address(gpu)?,
        b: b.address(gpu)?,
        offsets: groups.address(gpu)?,
        partial: sum.partial.address(gpu)?,
        a_stride: a.stride() as i64,
        b_stride: b.stride() as i64,
        to_a: sum.to_a as i64,
        to_b: sum.to_b as i64,
        n_rows: groups.n_rows() as u32,
        a_width: a.width() as u32,
        b_width: b.width() as u32,
        n_groups: groups.n_modalities() as u32,
        rows_per_split: split.rows as u32,
        b_tiles: split.b_tiles as u32,
        a_vector: u32::from(a.is_aligned(VECTOR)),
        b_vector: u32::from(b.is_aligned(VECTOR)),
        f32: sum.f32(),
        unused: 0,
        grads: sum.grads(gpu)?,
    };
    let n_tiles = blocks(OP, "tiles", split.a_tiles * split.b_tiles, 1)?;
    let grid = Grid { blocks: (n_tiles, split.n as u32, 1), threads: (256, 1, 1) };
    let kernel = Family::Sum.kernel(columns, T::DTYPE);
    // SAFETY: a and b are x and grad_y, whose shapes were checked; a block reads rows of its split, below n_rows, and
    // writes inside of a gradient, or of the partial sums at split + modality, below n + n_groups - 1.
    unsafe { gpu.launch(&kernel, grid, &params) }
}
