//! The gradient of the table.

use super::abi::RawBackward;
use super::params::{OP, VECTOR, WARPS, limits, name};
use super::sort;
use crate::error::expect_size;
use crate::ops::grouped_gemm::params::Into;
use crate::runtime::{
    DeviceElement, DeviceMut, DeviceRef, DeviceRows, DeviceRowsMut, Gpu, GradientOf, Grid, Result, blocks,
};

/// As in kernels/embedding: sorted rows of a piece and threads of its block, threads of a block that adds across pieces.
const PIECE: usize = 32;
const PIECE_THREADS: usize = 128;
const ACROSS: (u32, u32, u32) = (16, 16, 1);

/// Elements of the workspace of [`backward`].
pub fn backward_workspace_len(n_rows: usize, width: usize) -> usize {
    n_rows.div_ceil(PIECE) * 2 * width + sort::workspace_len(n_rows)
}

/// Gradient of the table, of the activations' type or f32; sums are f32 inside.
///
/// * `ids`: `(n_rows)`, as in [`forward`](super::forward); `grad_out`: `(n_rows, width)`.
/// * `grad_table`: `(vocabulary, width)`; `into` tells whether it is overwritten (zero for ids that are absent) or
///   added to.
/// * `out_of_range`: as in [`forward`](super::forward).
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
    let sorted = sort::sort(gpu, ids, vocabulary, out_of_range, rest)?;
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
