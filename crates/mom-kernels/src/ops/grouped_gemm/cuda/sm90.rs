//! The kernels for compute capability 9.0, which move their operands by bulk tensor copies.

use super::abi::{MAX_MAPS, RawKGrouped90, RawMGrouped90};
use super::args::GroupedWeights;
use super::product::{C, Direction, RowsProduct, Sum};
use super::select::{Split, VECTOR, narrow};
use crate::ops::grouped_gemm::params::OP;
use crate::ops::plan::cuda::DeviceOffsets;
use crate::runtime::{
    DeviceElement, DeviceMut, DeviceRows, DeviceRowsMut, Gpu, Grid, Matrix, Result, TensorMap, blocks,
};

/// Multiprocessors of the card that these kernels are for; sums are cut for it, on any card.
const MULTIPROCESSORS: usize = 132;

/// Rows that a warpgroup multiplies, rows and columns of a box: one of an operand whose rows run along the sum, and one on
/// its way out.
const PANEL: usize = 64;

/// Largest sum whose rows stay in shared memory: three steps of 64.
const SHORT: usize = 192;

/// How a kernel cuts an output, kernels/grouped_gemm/sm90_bf16.cu.
#[derive(Debug, Clone, Copy)]
struct Tile {
    rows: usize,
    columns: usize,
    /// Blocks on a multiprocessor at a time.
    blocks_each: usize,
    /// Rows stay in shared memory for several tiles of columns.
    short: bool,
}

impl Tile {
    const WIDE: Self = Self { rows: 128, columns: 256, blocks_each: 1, short: false };

    /// Rows are read once where the output is narrow.
    fn new(n: usize, k: usize) -> Self {
        let narrow = narrow(n);
        if n <= narrow {
            let blocks_each = if narrow <= 80 { 2 } else { 1 };
            Self { rows: 128, columns: narrow, blocks_each, short: false }
        } else if k <= SHORT {
            Self { rows: 256, columns: 128, blocks_each: 1, short: true }
        } else {
            Self::WIDE
        }
    }

    /// Two warpgroups that multiply, or four; beside them a warpgroup that asks for copies, or two warps.
    fn threads(self) -> u32 {
        self.rows as u32 * 2 + if self.blocks_each == 1 { 128 } else { 64 }
    }

    fn name(self) -> String {
        if self.short { "short".to_owned() } else { format!("n{}", self.columns) }
    }

    /// Tiles of columns that a block takes of the same rows: as few as make the longest block short, where new rows cost
    /// as much as a tile.
    fn at_once(self, m_tiles: usize, n_tiles: usize, n_blocks: usize) -> usize {
        let longest = |each: usize| (m_tiles * n_tiles.div_ceil(each)).div_ceil(n_blocks) * (each + 1);
        if self.short { (1..=n_tiles).min_by_key(|&each| longest(each)).unwrap_or(1) } else { 1 }
    }
}

/// Whether the device and the operands are for these kernels: copies start at multiples of 16 bytes, and each weight has a map
/// among the arguments.
fn is_for<T: DeviceElement>(gpu: &Gpu, n_weights: usize, aligned: bool) -> bool {
    let kernel = format!("sm90_m_grouped_forward_n64_{}", T::DTYPE.name());
    aligned && n_weights <= MAX_MAPS && gpu.card().has(&kernel)
}

/// Whether one launch for all modalities is faster than a product of the library for each: there are several modalities,
/// and tiles for every multiprocessor.
pub(super) fn is_faster(n_rows: usize, n_groups: usize, n_columns: usize) -> bool {
    let Tile { rows, columns, .. } = Tile::WIDE;
    n_groups > 1 && n_rows.div_ceil(rows) * n_columns.div_ceil(columns) >= MULTIPROCESSORS
}

/// Whether the device and the operands of a product over the rows of each modality are for these kernels.
pub(super) fn takes<T: DeviceElement>(gpu: &Gpu, product: &RowsProduct<'_, '_, T>, y: &DeviceRowsMut<'_, T>) -> bool {
    let added = match &product.c {
        C::None | C::Output => true,
        C::Rows(rows) => rows.is_aligned(VECTOR),
    };
    added && product.x.is_aligned(VECTOR) && y.is_aligned(VECTOR) && takes_weights(gpu, product.weights)
}

/// The same of the weights alone.
pub(super) fn takes_weights<T: DeviceElement>(gpu: &Gpu, weights: &GroupedWeights<'_, T>) -> bool {
    is_for::<T>(gpu, weights.n_groups(), weights.is_vector())
}

/// The same of the elements alone.
pub(super) fn takes_elements<T: DeviceElement>(gpu: &Gpu) -> bool {
    is_for::<T>(gpu, 1, true)
}

/// The same of a sum over the rows of each modality.
pub(super) fn takes_sum<T: DeviceElement>(
    gpu: &Gpu,
    x: &DeviceRows<'_, T>,
    grad_y: &DeviceRows<'_, T>,
    partial: &DeviceMut<'_, f32>,
) -> bool {
    is_for::<T>(gpu, 1, x.is_aligned(VECTOR) && grad_y.is_aligned(VECTOR) && partial.is_aligned(4))
}

fn matrix<T>(rows: &DeviceRows<'_, T>, gpu: &Gpu) -> Result<Matrix> {
    Ok(Matrix { address: rows.address(gpu)?, n_rows: rows.n_rows(), width: rows.width(), stride: rows.stride() })
}

fn matrix_mut<T>(rows: &DeviceRowsMut<'_, T>, gpu: &Gpu) -> Result<Matrix> {
    Ok(Matrix { address: rows.address(gpu)?, n_rows: rows.n_rows(), width: rows.width(), stride: rows.stride() })
}

/// Rows times the weight of their modality, which these kernels take. The callers have checked the shapes, and that there are
/// rows.
pub(super) fn m_grouped<T: DeviceElement>(
    gpu: &Gpu,
    product: &RowsProduct<'_, '_, T>,
    y: &DeviceRowsMut<'_, T>,
) -> Result<()> {
    // The driver describes matrices for the current device.
    gpu.bind()?;
    let RowsProduct { direction, groups, x, weights, c } = product;
    let added = match c {
        C::None => None,
        C::Output => Some(matrix_mut(y, gpu)?),
        C::Rows(rows) => Some(matrix(rows, gpu)?),
    };
    let (n_rows, n, k) = (groups.n_rows(), y.width(), x.width());
    let tile = Tile::new(n, k);
    let n_tiles = n.div_ceil(tile.columns);
    // For any offsets: each modality's last tile may be cut.
    let m_tiles = n_rows.div_ceil(tile.rows) + groups.n_modalities() - 1;
    let at_once = gpu.n_multiprocessors() as usize * tile.blocks_each;
    let tiles_at_once = tile.at_once(m_tiles, n_tiles, at_once);
    let n_blocks = (m_tiles * n_tiles.div_ceil(tiles_at_once)).min(at_once);

    let (name, biases, box_rows) = match direction {
        Direction::Forward => ("forward", weights.biases_address(gpu)?, tile.columns),
        Direction::Input => ("input", 0, PANEL),
    };
    let mut maps = [TensorMap::NONE; MAX_MAPS];
    let (out_features, in_features) = (weights.out_features(), weights.in_features());
    for (map, address) in maps.iter_mut().zip(weights.addresses(gpu)?).take(weights.n_groups()) {
        let weight = Matrix { address, n_rows: out_features, width: in_features, stride: in_features };
        *map = TensorMap::new::<T>(&weight, box_rows)?;
    }
    let params = RawMGrouped90 {
        x: TensorMap::new::<T>(&matrix(x, gpu)?, tile.rows)?,
        y: TensorMap::new::<T>(&matrix_mut(y, gpu)?, PANEL)?,
        addend: added.map_or(Ok(TensorMap::NONE), |added| TensorMap::new::<T>(&added, PANEL))?,
        weights: maps,
        to: y.address(gpu)?,
        offsets: groups.address(gpu)?,
        biases,
        y_stride: y.stride() as i64,
        n_rows: n_rows as u32,
        n: n as u32,
        k: k as u32,
        n_groups: groups.n_modalities() as u32,
        n_tiles: n_tiles as u32,
        add: u32::from(added.is_some()),
        tiles_at_once: tiles_at_once as u32,
        unused: 0,
        addend_rows: added.map_or(0, |added| added.address),
        addend_stride: added.map_or(0, |added| added.stride as i64),
        padding: [0; 6],
    };
    let kernel = format!("sm90_m_grouped_{name}_{}_{}", tile.name(), T::DTYPE.name());
    let grid = Grid::line(blocks(OP, "tiles", n_blocks, 1)?, tile.threads());
    // SAFETY: the maps are those of x, y, the addend and the weights, whose shapes the callers and `GroupedWeights::new` have
    // checked, and copies are cut at their borders; y is borrowed exclusively, and what threads write of a tile is cut at the
    // end of its modality's rows and of the columns; offsets end at n_rows; the biases are a row of n for each weight.
    unsafe { gpu.launch(&kernel, grid, &params) }
}

/// How a kernel cuts a gradient, kernels/grouped_gemm/sm90.cuh: columns of a, 64 for each of its warpgroups, and of b.
#[derive(Debug, Clone, Copy)]
struct SumTile {
    a: usize,
    b: usize,
}

impl SumTile {
    /// Threads that multiply.
    fn consumers(self) -> usize {
        self.a * 2
    }

    /// Blocks that take tiles side by side in a, and share their loads of b.
    fn cluster(self) -> usize {
        if matches!(self.b, 128 | 160 | 256) { 2 } else { 1 }
    }

    /// Columns of b whose partial sums a block adds.
    fn added_at_once(self) -> usize {
        if self.b <= 160 { 8 } else { 32 }
    }

    /// Rows that a block could have summed in the time that a border between modalities costs it: a gradient or a partial
    /// sum is stored, of which a narrow one is small.
    fn border_rows(self) -> usize {
        if self.b <= 160 { 0 } else { 256 }
    }

    /// Those that ask for copies are a warpgroup more.
    fn threads(self) -> u32 {
        self.consumers() as u32 + 128
    }
}

/// How the gradients of a grouped linear layer are cut, by its sizes alone.
#[derive(Debug, Clone, Copy)]
struct SumPlan {
    tile: SumTile,
    /// a is the gradient of y, b is x; else the other way round.
    a_is_grad: bool,
    split: Split,
}

impl SumPlan {
    fn new(n_rows: usize, n_groups: usize, n_in: usize, n_out: usize) -> Self {
        let cut = |tile, a_is_grad| Self::cut(n_rows, n_groups, n_in, n_out, tile, a_is_grad);
        let narrow = narrow(n_in.min(n_out));
        if n_in.min(n_out) <= narrow {
            // The narrow operand, which every tile reads, is one tile wide.
            return cut(SumTile { a: 128, b: narrow }, n_out > n_in).1;
        }
        // Both are wide: a tile of a gradient has long rows.
        let large = cut(SumTile { a: 128, b: 256 }, true);
        let square = cut(SumTile { a: 192, b: 192 }, true);
        if square.0 < large.0 { square.1 } else { large.1 }
    }

    /// The number of splits that takes the least time, and that time.
    fn cut(n_rows: usize, n_groups: usize, n_in: usize, n_out: usize, tile: SumTile, a_is_grad: bool) -> (f64, Self) {
        let (a_width, b_width) = if a_is_grad { (n_out, n_in) } else { (n_in, n_out) };
        let (a_tiles, b_tiles) = (a_width.div_ceil(tile.a).next_multiple_of(tile.cluster()), b_width.div_ceil(tile.b));
        let n_tiles = a_tiles * b_tiles;
        // Rounds of a card's multiprocessors over tiles of which each takes a share of the rows; a partial sum costs as
        // much as a thousand rows more.
        let time = |n: usize| {
            let (rounds, partial) = ((n_tiles * n).div_ceil(MULTIPROCESSORS), if n == 1 { 0.0 } else { 1000.0 });
            rounds as f64 * (tile.a * tile.b) as f64 * (n_rows as f64 / n as f64 + partial)
        };
        let most = (MULTIPROCESSORS / n_tiles).max(16);
        let n = (1..=most).min_by(|&a, &b| time(a).total_cmp(&time(b))).unwrap_or(1);
        let n_rows = n_rows + (n_groups - 1) * tile.border_rows();
        let split = Split::new(n_rows, [a_tiles, b_tiles], n, n_tiles * tile.a * tile.b);
        (time(n), Self { tile, a_is_grad, split })
    }
}

/// The cut of the gradients' sums over the rows.
pub(super) fn split(n_rows: usize, n_groups: usize, n_in: usize, n_out: usize) -> Split {
    SumPlan::new(n_rows, n_groups, n_in, n_out).split
}

/// The gradients of the weights, which these kernels take. The caller has checked the shapes.
pub(super) fn k_grouped<T: DeviceElement, G: DeviceElement>(
    gpu: &Gpu,
    groups: &DeviceOffsets<'_>,
    x: &DeviceRows<'_, T>,
    grad_y: &DeviceRows<'_, T>,
    grads: &[DeviceMut<'_, G>],
    partial: &DeviceMut<'_, f32>,
) -> Result<()> {
    gpu.bind()?;
    let (n_in, n_out) = (x.width(), grad_y.width());
    let SumPlan { tile, a_is_grad, split } = SumPlan::new(groups.n_rows(), groups.n_modalities(), n_in, n_out);
    let sum = Sum::new(x, grad_y, a_is_grad, grads, partial);
    let (a, b) = (sum.a, sum.b);
    let vector = n_in.is_multiple_of(4) && grads.iter().all(|grad| grad.is_aligned(4));
    let rows_leave =
        size_of::<G>() == 2 && n_in.is_multiple_of(VECTOR) && grads.iter().all(|grad| grad.is_aligned(VECTOR));
    let n_tiles = split.a_tiles * split.b_tiles;
    let params = RawKGrouped90 {
        a: TensorMap::new::<T>(&matrix(a, gpu)?, PANEL)?,
        b: TensorMap::new::<T>(&matrix(b, gpu)?, PANEL / tile.cluster())?,
        offsets: groups.address(gpu)?,
        partial: partial.address(gpu)?,
        to_a: sum.to_a as i64,
        to_b: sum.to_b as i64,
        n_rows: groups.n_rows() as u32,
        a_width: a.width() as u32,
        b_width: b.width() as u32,
        n_groups: groups.n_modalities() as u32,
        rows_per_split: split.rows as u32,
        b_tiles: split.b_tiles as u32,
        n_tiles: blocks(OP, "tiles", n_tiles, 1)?,
        n_splits: split.n as u32,
        f32: sum.f32(),
        vector: u32::from(vector),
        rows_leave: u32::from(rows_leave),
        border_rows: tile.border_rows() as u32,
        grads: sum.grads(gpu)?,
    };
    let (name, dtype) = (format!("n{}", tile.b), T::DTYPE.name());
    let cluster = tile.cluster() as u32;
    let n_blocks = blocks(OP, "tiles", n_tiles * split.n, 1)?.min((gpu.n_multiprocessors() / cluster).max(1) * cluster);
    // SAFETY: the maps are those of x and grad_y, whose shapes were checked, and copies are cut at their borders; what is
    // written is inside of a gradient, or of the partial sums at split + modality, below n + n_groups - 1.
    unsafe {
        let grid = Grid::line(n_blocks, tile.threads());
        gpu.launch(&format!("sm90_k_grouped_{name}_{dtype}"), grid, &params)
    }?;
    if split.n == 1 {
        return Ok(());
    }
    let n_blocks = blocks(OP, "tiles", n_tiles * tile.b / tile.added_at_once(), 1)?;
    let threads = (tile.consumers() as u32, 1, 1);
    let grid = Grid { blocks: (n_blocks, groups.n_modalities() as u32, 1), threads };
    // SAFETY: reads the partial sums that the first kernel wrote, once that has ended, and writes inside of the gradients,
    // borrowed exclusively, of modalities that the first kernel does not write.
    unsafe { gpu.launch_early(&format!("sm90_k_grouped_sum_{name}_{dtype}"), grid, &params) }
}
