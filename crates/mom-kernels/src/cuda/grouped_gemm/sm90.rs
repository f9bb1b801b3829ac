//! The launches of the kernels for compute capability 9.0, which move their operands by bulk tensor copies.

use std::mem::offset_of;

use cudarc::driver::DeviceRepr;

use super::Into;
use super::backward::Split;
use super::forward::Direction;
use super::params::{GroupedWeights, OP, TILE_ROWS, VECTOR, tile_columns};
use crate::cuda::error::Result;
use crate::cuda::launch::{Grid, blocks};
use crate::cuda::memory::{DeviceElement, DeviceMut, DeviceRows, DeviceRowsMut, Dtype};
use crate::cuda::tensor_map::{Matrix, TensorMap};
use crate::cuda::{DeviceOffsets, Gpu, Module};

/// kernels/grouped_gemm/params.h.
const MAX_MAPS: usize = 16;

/// Threads of a block, of which `blocks_each` are on a multiprocessor at a time: two warpgroups that multiply and a warp or
/// a warpgroup that asks for copies, kernels/grouped_gemm/sm90.cuh.
fn threads(blocks_each: usize) -> u32 {
    if blocks_each == 1 { 384 } else { 288 }
}

/// Rows of a box of an operand whose rows run along the sum.
const PANEL: usize = 64;

/// Largest sum whose rows stay in shared memory: three steps of 64.
const SHORT: usize = 192;

/// Columns of a tile of a wide output.
const WIDE: usize = 256;

/// Tiles of columns that a block takes of the same rows, where these stay.
const TILES_AT_ONCE: usize = 4;

/// The module of these kernels, where the device and the operands are for it: copies start at multiples of 16 bytes, and
/// each weight has a map among the arguments.
fn module<T: DeviceElement>(gpu: &Gpu, n_weights: usize, aligned: bool) -> Result<Option<Module>> {
    let module = match T::DTYPE {
        Dtype::Bf16 => Module::GroupedGemmSm90Bf16,
        Dtype::F16 => Module::GroupedGemmSm90F16,
        Dtype::F32 => return Ok(None),
    };
    Ok((aligned && n_weights <= MAX_MAPS && gpu.takes(module)?).then_some(module))
}

/// Whether the device and the operands of a product over the rows of each modality are for these kernels.
pub(super) fn takes<T: DeviceElement>(
    gpu: &Gpu,
    x: &DeviceRows<'_, T>,
    weights: &GroupedWeights<'_, T>,
    y: &DeviceRowsMut<'_, T>,
) -> Result<bool> {
    Ok(x.is_aligned(VECTOR) && y.is_aligned(VECTOR) && takes_weights(gpu, weights)?)
}

/// The same of the weights alone.
pub(super) fn takes_weights<T: DeviceElement>(gpu: &Gpu, weights: &GroupedWeights<'_, T>) -> Result<bool> {
    Ok(module::<T>(gpu, weights.n_groups(), weights.is_vector())?.is_some())
}

fn matrix<T>(rows: &DeviceRows<'_, T>, gpu: &Gpu) -> Matrix {
    Matrix { address: rows.address(gpu), n_rows: rows.n_rows(), width: rows.width(), stride: rows.stride() }
}

/// Rows times the weight of their modality; `None` where these kernels are not for it. The callers have checked the
/// shapes, and that there are rows.
pub(super) fn m_grouped<T: DeviceElement>(
    gpu: &Gpu,
    direction: Direction,
    groups: &DeviceOffsets<'_>,
    x: &DeviceRows<'_, T>,
    weights: &GroupedWeights<'_, T>,
    y: &DeviceRowsMut<'_, T>,
    into: Into,
) -> Result<Option<()>> {
    let aligned = x.is_aligned(VECTOR) && y.is_aligned(VECTOR) && weights.is_vector();
    let Some(module) = module::<T>(gpu, weights.n_groups(), aligned)? else {
        return Ok(None);
    };
    let (n_rows, n, k) = (groups.n_rows(), y.width(), x.width());
    let narrow = tile_columns(T::DTYPE, n);
    let short = n > narrow && k <= SHORT;
    let columns = if n > narrow && !short { WIDE } else { narrow };
    let n_tiles = n.div_ceil(columns);
    // For any offsets: each modality's last tile may be cut.
    let m_tiles = n_rows.div_ceil(TILE_ROWS) + groups.n_modalities() - 1;
    let blocks_each = if columns <= 80 || short { 2 } else { 1 };
    let at_once = gpu.n_multiprocessors() as usize * blocks_each;
    let tiles_at_once = if short { TILES_AT_ONCE } else { 1 };
    let n_blocks = (m_tiles * n_tiles.div_ceil(tiles_at_once)).min(at_once);

    let (name, biases, box_rows) = match direction {
        Direction::Forward => ("forward", weights.biases(gpu), columns),
        Direction::Input => ("input", 0, PANEL),
    };
    let mut maps = [TensorMap::NONE; MAX_MAPS];
    let (out_features, in_features) = (weights.out_features(), weights.in_features());
    for (map, address) in maps.iter_mut().zip(weights.addresses(gpu)).take(weights.n_groups()) {
        let weight = Matrix { address, n_rows: out_features, width: in_features, stride: in_features };
        *map = TensorMap::new::<T>(&weight, box_rows)?;
    }
    let params = RawMGrouped90 {
        x: TensorMap::new::<T>(&matrix(x, gpu), TILE_ROWS)?,
        weights: maps,
        to: y.address(gpu),
        offsets: groups.address(gpu),
        biases,
        y_stride: y.stride() as i64,
        n_rows: n_rows as u32,
        n: n as u32,
        k: k as u32,
        n_groups: groups.n_modalities() as u32,
        n_tiles: n_tiles as u32,
        add: u32::from(into == Into::Add),
        tiles_at_once: tiles_at_once as u32,
        unused: 0,
    };
    let kind = match short {
        true if k <= 64 => "short1_",
        true if k <= 128 => "short2_",
        true => "short3_",
        false => "",
    };
    let kernel = format!("sm90_m_grouped_{name}_n{columns}_{kind}{}", T::DTYPE.name());
    let grid = Grid::line(blocks(OP, "tiles", n_blocks, 1)?, threads(blocks_each));
    // SAFETY: the maps are those of x and the weights, whose shapes the callers and `GroupedWeights::new` have checked, and
    // copies are cut at their borders; y has n_rows rows of n, and a tile's stores are cut at the end of its modality's
    // rows and of the columns; offsets end at n_rows; the biases are a row of n for each weight.
    unsafe { gpu.launch(module, &kernel, grid, &params) }.map(Some)
}

/// The partial sums of the gradients of the weights; `None` where these kernels are not for it. The caller has checked the
/// shapes.
pub(super) fn k_grouped<T: DeviceElement>(
    gpu: &Gpu,
    groups: &DeviceOffsets<'_>,
    split: Split,
    [a, b]: [&DeviceRows<'_, T>; 2],
    [to_a, to_b]: [usize; 2],
    partial: &DeviceMut<'_, f32>,
) -> Result<Option<()>> {
    let Some(module) = module::<T>(gpu, 1, a.is_aligned(VECTOR) && b.is_aligned(VECTOR))? else {
        return Ok(None);
    };
    let params = RawKGrouped90 {
        a: TensorMap::new::<T>(&matrix(a, gpu), PANEL)?,
        b: TensorMap::new::<T>(&matrix(b, gpu), PANEL)?,
        offsets: groups.address(gpu),
        partial: partial.address(gpu),
        to_a: to_a as i64,
        to_b: to_b as i64,
        n_rows: groups.n_rows() as u32,
        a_width: a.width() as u32,
        b_width: b.width() as u32,
        n_groups: groups.n_modalities() as u32,
        rows_per_split: split.rows as u32,
        b_tiles: split.b_tiles as u32,
    };
    let blocks_each = if split.columns <= 128 { 2 } else { 1 };
    let n_tiles = blocks(OP, "tiles", split.a_tiles * split.b_tiles, 1)?;
    let grid = Grid { blocks: (n_tiles, split.n as u32, 1), threads: (threads(blocks_each), 1, 1) };
    let kernel = format!("sm90_k_grouped_n{}_{}", split.columns, T::DTYPE.name());
    // SAFETY: the maps are those of x and grad_y, whose shapes were checked, and copies are cut at their borders; what is
    // written is inside of the partial sums at split + modality, below n + n_groups - 1.
    unsafe { gpu.launch(module, &kernel, grid, &params) }.map(Some)
}

/// `MGrouped90` of kernels/grouped_gemm/params.h.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct RawMGrouped90 {
    x: TensorMap,
    weights: [TensorMap; MAX_MAPS],
    to: u64,
    offsets: u64,
    biases: u64,
    y_stride: i64,
    n_rows: u32,
    n: u32,
    k: u32,
    n_groups: u32,
    n_tiles: u32,
    add: u32,
    tiles_at_once: u32,
    unused: u32,
}
const _: () = {
    const MAPS: usize = 128 * (1 + MAX_MAPS);
    assert!(size_of::<RawMGrouped90>() == MAPS + 128 && offset_of!(RawMGrouped90, to) == MAPS);
    assert!(offset_of!(RawMGrouped90, n_rows) == MAPS + 32);
};
// SAFETY: a plain struct of integers in C layout; the addresses in it are device addresses.
unsafe impl DeviceRepr for RawMGrouped90 {}

/// `KGrouped90` of kernels/grouped_gemm/params.h.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct RawKGrouped90 {
    a: TensorMap,
    b: TensorMap,
    offsets: u64,
    partial: u64,
    to_a: i64,
    to_b: i64,
    n_rows: u32,
    a_width: u32,
    b_width: u32,
    n_groups: u32,
    rows_per_split: u32,
    b_tiles: u32,
}
const _: () = {
    assert!(size_of::<RawKGrouped90>() == 384 && offset_of!(RawKGrouped90, offsets) == 256);
    assert!(offset_of!(RawKGrouped90, n_rows) == 288);
};
// SAFETY: a plain struct of integers in C layout; the addresses in it are device addresses.
unsafe impl DeviceRepr for RawKGrouped90 {}
