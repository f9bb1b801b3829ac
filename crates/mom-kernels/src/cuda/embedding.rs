//! Rows of a table by id on the GPU, and the gradient of the table.
//!
//! ```text
//! out_r = table[id_r],   grad_table[v] = sum over the rows r with id_r = v, in row order, of grad_out_r
//! ```
//!
//! A row without an id ([`NO_ID`]) is zero and reaches no gradient. Ids cannot be refused before a launch, being on the
//! device: one that names no row of the table counts as none and is told by [`check`].

use std::mem::offset_of;

use cudarc::driver::{CudaSlice, DeviceRepr};

use super::ids;
use crate::cuda::runtime::{
    DeviceElement, DeviceMut, DeviceRef, DeviceRows, DeviceRowsMut, Gpu, GradientOf, Grid, Result, blocks,
};
use crate::error::{Error, expect_size};
pub use crate::grouped_gemm::Into;

const OP: &str = "embedding";

/// The id of a row that has none.
pub const NO_ID: u32 = ids::NONE;

/// Largest vocabulary and number of rows.
const MAX: usize = 1 << 30;

/// As in kernels/embedding: elements of a vector, rows of a block forward, threads and digits of the sort, sorted rows
/// of a piece, columns of a block of the sums.
const VECTOR: usize = 8;
const WARPS: usize = 8;
const SORT_THREADS: usize = 1024;
const DIGITS: usize = 256;
const PIECE: usize = 32;
const PIECE_THREADS: usize = 128;
const ACROSS: (u32, u32, u32) = (16, 16, 1);

/// Gathers rows.
///
/// * `table`: `(vocabulary, width)`; `ids`: `(n_rows)`, each below the vocabulary or [`NO_ID`]; `out`: `(n_rows,
///   width)`, overwritten.
/// * `out_of_range`: `(1)`: the number of ids that name no row of the table is added; see [`check`].
///
/// # Errors
/// Sizes that disagree or are outside of the limits, a refused launch.
pub fn forward<T: DeviceElement>(
    gpu: &Gpu,
    table: &DeviceRows<'_, T>,
    ids: &DeviceRef<'_, u32>,
    out: &mut DeviceRowsMut<'_, T>,
    out_of_range: &mut DeviceMut<'_, u32>,
) -> Result<()> {
    let (n_rows, width, vocabulary) = (ids.len(), table.width(), table.n_rows());
    out.expect(OP, "out", n_rows, width)?;
    expect_size(OP, "out_of_range", "elements", 1, out_of_range.len())?;
    limits(n_rows, vocabulary)?;
    let params = RawForward {
        table: table.address(gpu)?,
        ids: ids.address(gpu)?,
        out: out.address(gpu)?,
        out_of_range: out_of_range.address(gpu)?,
        table_stride: table.stride_bytes(),
        out_stride: out.stride_bytes(),
        n_rows: n_rows as u32,
        width: width as u32,
        vocabulary: vocabulary as u32,
        unused: 0,
    };
    let aligned = width.is_multiple_of(VECTOR) && table.is_aligned(VECTOR) && out.is_aligned(VECTOR);
    let kernel = name("forward", &[T::DTYPE.name()], aligned);
    let grid = Grid::line(blocks(OP, "n_rows", n_rows, WARPS)?, WARPS as u32 * 32);
    // SAFETY: the checks have bound the matrices to their sizes; an id is used as a row only below the vocabulary; a
    // warp owns a row of out, which is borrowed exclusively.
    unsafe { gpu.launch(&kernel, grid, &params) }
}

/// Elements of the workspace of [`backward`].
pub fn backward_workspace_len(n_rows: usize, width: usize) -> usize {
    let n_blocks = n_rows.div_ceil(SORT_THREADS);
    n_rows.div_ceil(PIECE) * 2 * width + 4 * n_rows + DIGITS * (n_blocks + 1)
}

/// Gradient of the table, of the activations' type or f32; sums are f32 inside.
///
/// * `ids`: `(n_rows)`, as in [`forward`]; `grad_out`: `(n_rows, width)`.
/// * `grad_table`: `(vocabulary, width)`; `into` tells whether it is overwritten (zero for ids that are absent) or
///   added to.
/// * `out_of_range`: as in [`forward`].
/// * `workspace`: [`backward_workspace_len`] elements, whose contents mean nothing before and after.
///
/// # Errors
/// Sizes that disagree or are outside of the limits, a refused launch.
pub fn backward<T: DeviceElement, G: GradientOf<T>>(
    gpu: &Gpu,
    ids: &DeviceRef<'_, u32>,
    grad_out: &DeviceRows<'_, T>,
    grad_table: &mut DeviceRowsMut<'_, G>,
    into: Into,
    out_of_range: &mut DeviceMut<'_, u32>,
    workspace: DeviceMut<'_, u32>,
) -> Result<()> {
    let (n_rows, width, vocabulary) = (ids.len(), grad_out.width(), grad_table.n_rows());
    grad_out.expect(OP, "grad_out", n_rows, width)?;
    grad_table.expect(OP, "grad_table", vocabulary, width)?;
    expect_size(OP, "out_of_range", "elements", 1, out_of_range.len())?;
    expect_size(OP, "workspace", "elements", backward_workspace_len(n_rows, width), workspace.len())?;
    limits(n_rows, vocabulary)?;
    let n_pieces = n_rows.div_ceil(PIECE);
    let (partial, rest) = workspace.split_at("workspace", n_pieces * 2 * width)?;
    let sorted = sort(gpu, ids, vocabulary, out_of_range, rest)?;
    let params = RawBackward {
        keys: sorted.keys,
        rows: sorted.rows,
        grad_out: grad_out.address(gpu)?,
        grad_table: grad_table.address(gpu)?,
        partial: partial.address(gpu)?,
        grad_out_stride: grad_out.stride_bytes(),
        grad_table_stride: grad_table.stride_bytes(),
        n: n_rows as u32,
        width: width as u32,
        vocabulary: vocabulary as u32,
        add: u32::from(into == Into::Add),
    };
    let aligned = width.is_multiple_of(VECTOR)
        && params.partial.is_multiple_of(16)
        && grad_out.is_aligned(VECTOR)
        && grad_table.is_aligned(VECTOR);
    if into == Into::Overwrite {
        let kernel = name("clear", &[G::DTYPE.name()], aligned);
        let grid = Grid::line(blocks(OP, "vocabulary", vocabulary, WARPS)?, WARPS as u32 * 32);
        // SAFETY: a warp owns a row of the table's gradient, which is borrowed exclusively.
        unsafe { gpu.launch(&kernel, grid, &params)? };
    }
    let columns = |per_block: usize| blocks(OP, "width", width, per_block);
    let grid =
        Grid { blocks: (n_pieces as u32, columns(PIECE_THREADS * VECTOR)?, 1), threads: (PIECE_THREADS as u32, 1, 1) };
    let kernel = name("piece", &[T::DTYPE.name(), G::DTYPE.name()], aligned);
    // SAFETY: the sorted rows are a permutation of 0..n_rows and keys below the vocabulary are the ids; a piece writes
    // the gradient of ids that stand in no other piece, and its own two partial sums.
    unsafe { gpu.launch(&kernel, grid, &params)? };
    let grid = Grid { blocks: (n_pieces as u32, columns(ACROSS.0 as usize * VECTOR)?, 1), threads: ACROSS };
    let kernel = name("across", &[G::DTYPE.name()], aligned);
    // SAFETY: reads the partial sums that the pieces of an id have written; the piece where it begins writes its
    // gradient.
    unsafe { gpu.launch(&kernel, grid, &params) }
}

/// Waits for the stream and tells whether every id named a row of the table, by what `out_of_range` has counted since
/// it was zero.
///
/// # Errors
/// Some did not: their number.
pub fn check(gpu: &Gpu, out_of_range: &CudaSlice<u32>) -> Result<()> {
    ids::check(gpu, OP, "ids", out_of_range)
}

/// Addresses of the sorted ids (the vocabulary for those that name nothing) and of the rows that they are of.
struct Sorted {
    keys: u64,
    rows: u64,
}

/// Sorts rows by id; rows of one id stay in order.
fn sort(
    gpu: &Gpu,
    ids: &DeviceRef<'_, u32>,
    vocabulary: usize,
    out_of_range: &DeviceMut<'_, u32>,
    workspace: DeviceMut<'_, u32>,
) -> Result<Sorted> {
    let n = ids.len();
    let n_blocks = n.div_ceil(SORT_THREADS);
    let words = |count: usize| (count * size_of::<u32>()) as u64;
    let base = workspace.address(gpu)?;
    let buffers = [0, 1].map(|i| Sorted { keys: base + words(2 * i * n), rows: base + words((2 * i + 1) * n) });
    let counts = base + words(4 * n);
    // The vocabulary is a key too.
    let n_passes = (usize::BITS - vocabulary.leading_zeros()).div_ceil(DIGITS.ilog2());
    let (mut keys, mut rows) = (ids.address(gpu)?, 0);
    for pass in 0..n_passes {
        let to = &buffers[pass as usize % 2];
        let params = RawSort {
            keys,
            rows,
            to_keys: to.keys,
            to_rows: to.rows,
            counts,
            totals: counts + words(DIGITS * n_blocks),
            out_of_range: if pass == 0 { out_of_range.address(gpu)? } else { 0 },
            n: n as u32,
            n_blocks: n_blocks as u32,
            vocabulary: vocabulary as u32,
            shift: pass * DIGITS.ilog2(),
        };
        let grid = Grid::line(n_blocks as u32, SORT_THREADS as u32);
        // SAFETY: keys and rows have n elements, each buffer of the workspace too, and the counts 256 a block: a block
        // reads 1024 positions below n and writes its own counts.
        unsafe { gpu.launch("embedding_sort_count", grid, &params)? };
        let scan = Grid::line(if n == 0 { 0 } else { DIGITS as u32 }, DIGITS as u32);
        // SAFETY: a block for each digit, whose counts it alone reads and writes.
        unsafe { gpu.launch("embedding_sort_scan", scan, &params)? };
        // SAFETY: by the counts' prefix sums each position has a place of its own below n in the buffer, which is not
        // the one that is read.
        unsafe { gpu.launch("embedding_sort_scatter", grid, &params)? };
        (keys, rows) = (to.keys, to.rows);
    }
    Ok(Sorted { keys, rows })
}

fn limits(n_rows: usize, vocabulary: usize) -> Result<()> {
    for (arg, min, got) in [("n_rows", 0, n_rows), ("vocabulary", 1, vocabulary)] {
        if !(min..=MAX).contains(&got) {
            return Err(Error::Limit { op: OP, arg, min, max: MAX, got }.into());
        }
    }
    Ok(())
}

fn name(what: &str, dtypes: &[&str], aligned: bool) -> String {
    format!("embedding_{what}_{}{}", dtypes.join("_"), if aligned { "_aligned" } else { "" })
}

// What the kernels take: kernels/embedding/params.h, field by field.

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct RawForward {
    table: u64,
    ids: u64,
    out: u64,
    out_of_range: u64,
    table_stride: u32,
    out_stride: u32,
    n_rows: u32,
    width: u32,
    vocabulary: u32,
    unused: u32,
}
const _: () = {
    assert!(size_of::<RawForward>() == 56 && offset_of!(RawForward, table_stride) == 32);
    assert!(offset_of!(RawForward, vocabulary) == 48);
};

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct RawSort {
    keys: u64,
    rows: u64,
    to_keys: u64,
    to_rows: u64,
    counts: u64,
    totals: u64,
    out_of_range: u64,
    n: u32,
    n_blocks: u32,
    vocabulary: u32,
    shift: u32,
}
const _: () = {
    assert!(size_of::<RawSort>() == 72 && offset_of!(RawSort, out_of_range) == 48 && offset_of!(RawSort, n) == 56);
};

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct RawBackward {
    keys: u64,
    rows: u64,
    grad_out: u64,
    grad_table: u64,
    partial: u64,
    grad_out_stride: u32,
    grad_table_stride: u32,
    n: u32,
    width: u32,
    vocabulary: u32,
    add: u32,
}
const _: () = {
    assert!(
        size_of::<RawBackward>() == 64 && offset_of!(RawBackward, partial) == 32 && offset_of!(RawBackward, n) == 48
    );
};

// SAFETY: a plain struct of integers in C layout; the addresses in it are device addresses.
unsafe impl DeviceRepr for RawForward {}
// SAFETY: as above.
unsafe impl DeviceRepr for RawSort {}
// SAFETY: as above.
unsafe impl DeviceRepr for RawBackward {}
