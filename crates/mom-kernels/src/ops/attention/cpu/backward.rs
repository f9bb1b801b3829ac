//! Backward pass: scores are formed again from what the forward pass saved.
//!
//! ```text
//! P = exp(scale q k - lse),   dS = P (grad_out v - sum(out grad_out))
//! grad_v = P' grad_out,       grad_q = scale dS k,       grad_k = scale dS' q
//! ```

use rayon::prelude::*;

use super::args::{AttentionGrads, AttentionInputs};
use super::head::{Head, TILE, along_features, exponentials, met, weigh, weigh_transposed};
use crate::error::Result;
use crate::ops::attention::params::{Dims, OP};
use crate::rows::{DisjointRows, Rows};
use crate::shape::expect_matrix;
use crate::simd::Element;

/// Gradients of [`super::forward`].
///
/// * `out`, `lse`: what the forward pass gave.
/// * `grad_out`: `(n_rows, width)`.
///
/// # Errors
/// Sizes that disagree. Nothing is written then.
pub fn backward<T: Element>(
    inputs: &AttentionInputs<'_, T>,
    out: Rows<'_, T>,
    lse: &[T],
    grad_out: Rows<'_, T>,
    grads: AttentionGrads<'_, T>,
) -> Result<()> {
    let dims = inputs.validate()?;
    expect_matrix(OP, "out", dims.rows(), &out)?;
    expect_matrix(OP, "grad_out", dims.rows(), &grad_out)?;
    dims.expect_lse("lse", &lse)?;
    grads.validate(dims)?;
    let AttentionGrads { grad_q, grad_k, grad_v } = grads;
    let to = [grad_q.disjoint(), grad_k.disjoint(), grad_v.disjoint()];
    let saved = Saved { out, lse, grad_out };
    Head::all(inputs, dims).into_par_iter().try_for_each(|head| of_head(inputs, dims, &head, &saved, to))
}

/// What is read beside the inputs.
struct Saved<'a, T> {
    out: Rows<'a, T>,
    lse: &'a [T],
    grad_out: Rows<'a, T>,
}

fn of_head<T: Element>(
    inputs: &AttentionInputs<'_, T>,
    dims: Dims,
    head: &Head,
    saved: &Saved<'_, T>,
    to: [DisjointRows<'_, T>; 3],
) -> Result<()> {
    let (d, n, scale) = (dims.head_dim, head.document.len(), T::from_f64(dims.scale));
    let [q, k, v] = [inputs.q, inputs.k, inputs.v].map(|rows| head.gather(inputs, dims, rows));
    let grad_out = head.gather(inputs, dims, saved.grad_out);
    let out = head.gather(inputs, dims, saved.out);
    let delta: Vec<T> = out.chunks_exact(d).zip(grad_out.chunks_exact(d)).map(|(out, grad)| dot(out, grad)).collect();
    let lse = (head.sequence * dims.n_heads + head.head) * dims.seqlen + head.document.start;
    let lse = &saved.lse[lse..lse + n];
    let [mut grad_q, mut grad_k, mut grad_v] = [(); 3].map(|()| vec![T::ZERO; n * d]);
    let (mut weights, mut grads) = ([T::ZERO; TILE * TILE], [T::ZERO; TILE * TILE]);
    for key in (0..n).step_by(TILE) {
        let n_keys = TILE.min(n - key);
        let of_keys = key * d..(key + n_keys) * d;
        let from = head.queries(inputs, dims, key).start;
        let end = head.queries(inputs, dims, key + n_keys - 1).end;
        for first in (from..end).step_by(TILE) {
            let m = TILE.min(end - first);
            let of_queries = first * d..(first + m) * d;
            let (weights, grads) = (&mut weights[..m * n_keys], &mut grads[..m * n_keys]);
            along_features(weights, &q[of_queries.clone()], &k[of_keys.clone()], d)?;
            along_features(grads, &grad_out[of_queries.clone()], &v[of_keys.clone()], d)?;
            for row in 0..m {
                let (t, here) = (first + row, row * n_keys..(row + 1) * n_keys);
                let (weights, grads) = (&mut weights[here.clone()], &mut grads[here]);
                let met = met(&head.keys(inputs, dims, t), key, n_keys);
                exponentials(&mut weights[met.clone()], scale, lse[t]);
                weights[..met.start].fill(T::ZERO);
                weights[met.end..].fill(T::ZERO);
                for (grad, &weight) in grads.iter_mut().zip(&*weights) {
                    *grad = weight * (*grad - delta[t]) * scale;
                }
            }
            weigh_transposed(&mut grad_v[of_keys.clone()], weights, n_keys, &grad_out[of_queries.clone()], d)?;
            weigh_transposed(&mut grad_k[of_keys.clone()], grads, n_keys, &q[of_queries.clone()], d)?;
            weigh(&mut grad_q[of_queries], grads, n_keys, &k[of_keys.clone()], d)?;
        }
    }
    for (grad, to) in [grad_q, grad_k, grad_v].iter().zip(to) {
        head.scatter(inputs, dims, grad, 0, to);
    }
    Ok(())
}

fn dot<T: Element>(a: &[T], b: &[T]) -> T {
    let mut sum = T::ZERO;
    for (&a, &b) in a.iter().zip(b) {
        sum += a * b;
    }
    sum
}
