//! Forward pass: the softmax's maximum and sum are carried from one tile of keys to the next.

use rayon::prelude::*;

use super::args::AttentionInputs;
use super::head::{Head, TILE, along_features, exponentials, met, weigh};
use crate::error::Result;
use crate::ops::attention::params::{Dims, OP};
use crate::rows::{DisjointRows, RowsMut};
use crate::shape::expect_matrix;
use crate::simd::Element;

/// Attends; see the module for the equation and [`AttentionInputs`] for shapes.
///
/// * `out`: `(n_rows, width)`, overwritten.
/// * `lse`: `(batch, n_heads, seqlen)`, logarithms of the normalisers, for [`super::backward`].
///
/// # Errors
/// Sizes that disagree, heads that do not divide the width. Nothing is written then.
pub fn forward<T: Element>(inputs: &AttentionInputs<'_, T>, out: RowsMut<'_, T>, lse: Option<&mut [T]>) -> Result<()> {
    let dims = inputs.validate()?;
    expect_matrix(OP, "out", dims.rows(), &out)?;
    let lse = match lse {
        Some(lse) => {
            dims.expect_lse("lse", &lse)?;
            Some(RowsMut::new("lse", lse, dims.seqlen.max(1))?.disjoint())
        }
        None => None,
    };
    let out = out.disjoint();
    Head::all(inputs, dims).into_par_iter().try_for_each(|head| of_head(inputs, dims, &head, out, lse))
}

fn of_head<T: Element>(
    inputs: &AttentionInputs<'_, T>,
    dims: Dims,
    head: &Head,
    out: DisjointRows<'_, T>,
    lse: Option<DisjointRows<'_, T>>,
) -> Result<()> {
    let (d, n, scale) = (dims.head_dim, head.document.len(), T::from_f64(dims.scale));
    let [q, k, v] = [inputs.q, inputs.k, inputs.v].map(|rows| head.gather(inputs, dims, rows));
    let mut scores = [T::ZERO; TILE * TILE];
    let mut sums = vec![T::ZERO; TILE * d];
    for first in (0..n).step_by(TILE) {
        let m = TILE.min(n - first);
        let keys: Vec<_> = (first..first + m).map(|t| head.keys(inputs, dims, t)).collect();
        // Neither end falls from one query to the next.
        let (from, to) = (keys[0].start, keys[m - 1].end);
        let sums = &mut sums[..m * d];
        sums.fill(T::ZERO);
        let (mut most, mut total) = ([f64::NEG_INFINITY; TILE], [0.0f64; TILE]);
        for key in (from..to).step_by(TILE) {
            let n_keys = TILE.min(to - key);
            let scores = &mut scores[..m * n_keys];
            along_features(scores, &q[first * d..(first + m) * d], &k[key * d..(key + n_keys) * d], d)?;
            for (row, scores) in scores.chunks_exact_mut(n_keys).enumerate() {
                let met = met(&keys[row], key, n_keys);
                scores[..met.start].fill(T::ZERO);
                scores[met.end..].fill(T::ZERO);
                if met.is_empty() {
                    continue;
                }
                let here = &mut scores[met];
                let largest = here.iter().fold(here[0], |largest, &x| if x > largest { x } else { largest });
                let now = most[row].max(largest.to_f64() * dims.scale);
                let keep = (most[row] - now).exp();
                most[row] = now;
                if keep != 1.0 {
                    let keep = T::from_f64(keep);
                    sums[row * d..(row + 1) * d].iter_mut().for_each(|x| *x *= keep);
                }
                total[row] = total[row] * keep + exponentials(here, scale, T::from_f64(now)).to_f64();
            }
            weigh(sums, scores, n_keys, &v[key * d..(key + n_keys) * d], d)?;
        }
        for (row, sums) in sums.chunks_exact_mut(d).enumerate() {
            let inverse = T::from_f64(1.0 / total[row]);
            sums.iter_mut().for_each(|x| *x *= inverse);
        }
        head.scatter(inputs, dims, sums, first, out);
        if let Some(lse) = lse {
            // SAFETY: a head of a document has its positions of its row for itself.
            let to = unsafe { lse.block(head.sequence * dims.n_heads + head.head, head.document.start + first, m) };
            for (row, to) in to.iter_mut().enumerate() {
                *to = T::from_f64(most[row] + total[row].ln());
            }
        }
    }
    Ok(())
}
