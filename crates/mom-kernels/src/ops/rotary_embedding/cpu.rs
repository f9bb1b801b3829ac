//! The rotation on the CPU.

use rayon::prelude::*;

use super::params::{Direction, OP, RotaryTable, validate};
use crate::error::{Error, Result};
use crate::ops::plan::SequenceLayout;
use crate::rows::{Rows, RowsMut};
use crate::simd::Element;

/// Turns the features of every head; see the module for the equation.
///
/// * `positions`: `(batch, seqlen)`, the position that gives the angle, below the table's.
/// * `x`, `out`: `(n_rows, n_heads * head_dim)`; `out` is overwritten.
///
/// # Errors
/// Sizes that disagree, a position that the table does not have. Nothing is written then.
pub fn rotate<T: Element>(
    layout: SequenceLayout<'_>,
    positions: &[u32],
    table: &RotaryTable,
    n_heads: usize,
    x: Rows<'_, T>,
    out: RowsMut<'_, T>,
    direction: Direction,
) -> Result<()> {
    let (head_dim, half) = (table.head_dim(), table.head_dim() / 2);
    validate(&layout, positions.len(), (n_heads, head_dim), &x, &out)?;
    if let Some(&got) = positions.iter().find(|&&position| position as usize >= table.n_positions()) {
        let max = table.n_positions().saturating_sub(1);
        return Err(Error::Limit { op: OP, arg: "positions", min: 0, max, got: got as usize });
    }
    let (out, sign) = (out.disjoint(), direction.sign());
    positions.par_iter().with_min_len(16).enumerate().for_each(|(at, &position)| {
        let row = layout.row(at);
        let turns = &table.turns()[position as usize * head_dim..][..head_dim];
        // SAFETY: rows are a permutation of positions, so that each task writes its own row.
        let out = unsafe { out.block(row, 0, n_heads * head_dim) };
        for (x, out) in x.row(row).chunks_exact(head_dim).zip(out.chunks_exact_mut(head_dim)) {
            let (to_low, to_high) = out.split_at_mut(half);
            for i in 0..half {
                let (cosine, sine) = (T::from_f64(turns[2 * i]), T::from_f64(sign * turns[2 * i + 1]));
                to_low[i] = x[i] * cosine - x[half + i] * sine;
                to_high[i] = x[half + i] * cosine + x[i] * sine;
            }
        }
    });
    Ok(())
}
