//! Sums over the rows of each modality: the gradients of biases.
//!
//! Needs the feature `cuda`.
//!
//! ```
//! use mom_kernels::cuda::{DevicePlan, Gpu, column_sums};
//! use mom_kernels::ModalityPlan;
//!
//! # fn main() -> mom_kernels::cuda::Result<()> {
//! let Ok(gpu) = Gpu::new(0) else { return Ok(()) }; // no GPU here
//! // Two rows of one modality and a third of another.
//! let plan = DevicePlan::upload(&gpu, &ModalityPlan::new(1, 3, 2, &[0, 0, 1], None)?)?;
//! let x = gpu.upload(&[1.0f32, 2.0, 10.0, 20.0, 5.0, 5.0])?;
//! let mut sums = gpu.zeros::<f32>(4)?;
//! let mut workspace = gpu.zeros::<f32>(column_sums::workspace_len(3, 2, 2))?;
//! let (offsets, rows) = (plan.modality_offsets(&gpu), gpu.rows(&x, 2)?);
//! column_sums::column_sums(&gpu, &offsets, &rows, gpu.write(&mut sums), gpu.write(&mut workspace))?;
//! assert_eq!(gpu.download(&sums)?, [11.0, 22.0, 5.0, 5.0]);
//! # Ok(())
//! # }
//! ```

use std::mem::offset_of;

use cudarc::driver::DeviceRepr;

use crate::error::{Error, expect_size};
use crate::ops::plan::cuda::DeviceOffsets;
use crate::runtime::{DeviceElement, DeviceMut, DeviceRows, Gpu, Grid, Result, blocks};

const OP: &str = "column_sums";

/// Rows that one block sums: fixed, so that the sum's order is.
const CHUNK: usize = 128;

/// Columns of a block: 32 threads with 16 bytes of a row each.
const fn columns<T>() -> usize {
    32 * 16 / size_of::<T>()
}

/// Elements of the workspace of [`column_sums`].
pub fn workspace_len(n_rows: usize, n_modalities: usize, width: usize) -> usize {
    (n_rows.div_ceil(CHUNK) + n_modalities) * width
}

/// Fails for more rows than a launch takes: for operations that sum at their end, before they begin.
pub(crate) fn expect_rows(n_rows: usize) -> Result<()> {
    const MAX: usize = 65_535 * CHUNK;
    if n_rows > MAX {
        Err(Error::Limit { op: OP, arg: "n_rows", min: 0, max: MAX, got: n_rows }.into())
    } else {
        Ok(())
    }
}

/// `sums[m] = sum of the rows of modality m`; zero where it is absent.
///
/// * `x`: `(n_rows, width)`, `sums`: `(n_modalities, width)`, overwritten.
/// * `workspace`: [`workspace_len`] elements, whose contents mean nothing before and after.
///
/// # Errors
/// Sizes that disagree, more than 8,388,480 rows, a refused launch.
pub fn column_sums<T: DeviceElement>(
    gpu: &Gpu,
    offsets: &DeviceOffsets<'_>,
    x: &DeviceRows<'_, T>,
    sums: DeviceMut<'_, f32>,
    workspace: DeviceMut<'_, f32>,
) -> Result<()> {
    let (n_rows, n_groups, width) = (offsets.n_rows(), offsets.n_modalities(), x.width());
    x.expect(OP, "x", n_rows, width)?;
    expect_size(OP, "sums", "elements", n_groups * width, sums.len())?;
    expect_size(OP, "workspace", "elements", workspace_len(n_rows, n_groups, width), workspace.len())?;
    expect_rows(n_rows)?;
    let n_chunks = n_rows.div_ceil(CHUNK);
    let params = Raw {
        x: x.address(gpu)?,
        offsets: offsets.address(gpu)?,
        partial: workspace.address(gpu)?,
        sums: sums.address(gpu)?,
        stride: x.stride() as i64,
        n_rows: n_rows as u32,
        width: width as u32,
        n_groups: n_groups as u32,
        unused: 0,
    };
    let grid = Grid { blocks: (blocks(OP, "width", width, columns::<T>())?, n_chunks as u32, 1), threads: (32, 8, 1) };
    let kernel = format!("column_sums_chunk_{}", T::DTYPE.name());
    // SAFETY: a block reads its chunk of rows below n_rows and columns below width, and writes partial sums at
    // chunk + modality, below n_chunks + n_groups.
    unsafe { gpu.launch(&kernel, grid, &params)? };
    let grid = Grid { blocks: (blocks(OP, "width", width, 32)?, n_groups as u32, 1), threads: (32, 8, 1) };
    // SAFETY: reads the partial sums that the first kernel wrote, writes columns below width of each modality.
    unsafe { gpu.launch("column_sums_total", grid, &params) }
}

/// kernels/column_sums/params.h.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Raw {
    x: u64,
    offsets: u64,
    partial: u64,
    sums: u64,
    stride: i64,
    n_rows: u32,
    width: u32,
    n_groups: u32,
    unused: u32,
}
const _: () = {
    assert!(size_of::<Raw>() == 56 && offset_of!(Raw, stride) == 32 && offset_of!(Raw, n_groups) == 48);
};
// SAFETY: a plain struct of integers in C layout; the addresses in it are device addresses.
unsafe impl DeviceRepr for Raw {}
