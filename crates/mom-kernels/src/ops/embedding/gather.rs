//! Rows of the table by id.

use super::abi::RawForward;
use super::params::{OP, VECTOR, WARPS, limits, name};
use crate::error::expect_size;
use crate::runtime::{DeviceElement, DeviceMut, DeviceRef, DeviceRows, DeviceRowsMut, Gpu, Grid, Result, blocks};

/// Gathers rows.
///
/// * `table`: `(vocabulary, width)`; `ids`: `(n_rows)`, each below the vocabulary or [`NO_ID`](super::NO_ID); `out`: `(n_rows,
///   width)`, overwritten.
/// * `out_of_range`: `(1)`: the number of ids that name no row of the table is added; see [`check`](super::check).
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
