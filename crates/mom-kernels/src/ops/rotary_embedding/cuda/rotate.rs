//! The launch.

use super::abi::RawRotary;
use crate::error::{Error, expect_size};
use crate::ops::plan::cuda::DeviceLayout;
use crate::ops::rotary_embedding::params::{Direction, OP, validate};
use crate::runtime::{DeviceElement, DeviceRef, DeviceRows, DeviceRowsMut, Gpu, Grid, Overlap, Result, blocks};

const THREADS: usize = 256;

/// What the angles are made of.
#[derive(Debug, Clone)]
pub struct Angles<'a> {
    /// Which row a position has.
    pub layout: DeviceLayout<'a>,
    /// `(batch, seqlen)`: the position that gives the angle.
    pub positions: DeviceRef<'a, u32>,
    /// `(.., head_dim / 2, 2)`: cosines and sines ([`crate::rotary_embedding::RotaryTable::turns`]).
    pub table: DeviceRef<'a, f32>,
    /// Number of heads.
    pub n_heads: usize,
    /// Features of a head.
    pub head_dim: usize,
}

/// Turns the features of every head; see [`crate::rotary_embedding`] for the equation.
///
/// `x`, `out`: `(n_rows, n_heads * head_dim)`; `out` is overwritten, and may lie on exactly the rows of x.
///
/// # Errors
/// Sizes that disagree, rows that overlap otherwise, a refused launch. Nothing is written then.
///
/// # Safety
/// Every position is below the number of positions that the table has.
pub unsafe fn rotate<T: DeviceElement>(
    gpu: &Gpu,
    angles: &Angles<'_>,
    x: &DeviceRows<'_, T>,
    out: DeviceRowsMut<'_, T>,
    direction: Direction,
) -> Result<()> {
    let Angles { layout, positions, table, n_heads, head_dim } = angles;
    let (n_heads, head_dim) = (*n_heads, *head_dim);
    validate(layout, positions.len(), (n_heads, head_dim), x, &out)?;
    expect_size(OP, "head_dim", "features", head_dim / 2 * 2, head_dim)?;
    if out.place().overlap(&x.place()) == Overlap::Partial {
        return Err(Error::Overlap { op: OP, arg: "out", with: "x" }.into());
    }
    let n = positions.len();
    if n == 0 {
        return Ok(());
    }
    let params = RawRotary {
        row_of_position: layout.row_of_position(gpu)?,
        positions: positions.address(gpu)?,
        table: table.address(gpu)?,
        x: x.address(gpu)?,
        out: out.address_in_place(gpu)?,
        n_positions: blocks(OP, "batch * seqlen", n, 1)?,
        n_heads: n_heads as u32,
        head_dim: head_dim as u32,
        x_stride: x.stride_bytes(),
        out_stride: out.stride_bytes(),
        direction: direction.sign() as f32,
    };
    let grid = Grid::line(blocks(OP, "features", n * n_heads * (head_dim / 2), THREADS)?, THREADS as u32);
    // SAFETY: the checks have bound both matrices to the positions and heads; the caller answers for the positions. A thread
    // reads its pair before it writes it.
    unsafe { gpu.launch(&format!("rotary_embedding_{}", T::DTYPE.name()), grid, &params) }
}
