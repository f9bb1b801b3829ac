//! Backward pass: segments of [`STATE_STRIDE`](crate::selective_scan::STATE_STRIDE) steps from the end, each recomputed from
//! its saved state and walked back.
//!
//! With g the gradient of y_t and lambda_t that of h_t (both within a document):
//!
//! ```text
//! lambda_t = C_t g_t + exp(delta_{t+1} A) lambda_{t+1}
//! dC_t = sum_d g_t h_t                    dB_t = sum_d lambda_t delta_t u_t
//! e_t  = lambda_t exp(delta_t A) h_{t-1}  dA = sum_t e_t delta_t
//! d(delta_t) = sum_n (e_t A + lambda_t B_t u_t)
//! du_t = delta_t sum_n lambda_t B_t + D g_t
//! ```
//!
//! One task owns a sequence and a block of channels. What it shares with others (dB, dC over channels; dA, dD, d(bias)
//! over sequences) leaves as a partial sum of its own; the partials are added in order at the end.

use rayon::prelude::*;

use super::args::{ScanGrads, ScanInputs, ScanOutputGrads, saved_len};
use super::segment::{Shared, Task};
use crate::error::Result;
use crate::ops::selective_scan::check::{Dims, validate_backward};
use crate::rows::RowsMut;
use crate::simd::{self, Element};

/// All gradients of the scan; every output of `grads` is overwritten.
///
/// # Errors
/// Sizes that disagree, or a gradient asked for whose input is absent. Nothing is written then.
pub fn backward<T: Element>(
    inputs: &ScanInputs<'_, T>,
    saved_states: &[T],
    output_grads: &ScanOutputGrads<'_, T>,
    grads: ScanGrads<'_, T>,
) -> Result<()> {
    let dims = inputs.validate()?;
    validate_backward(inputs, &saved_states, output_grads, &grads, dims, saved_len(dims))?;
    let Dims { batch, seqlen, d_inner, d_state, n_biases } = dims;
    let n_rows = batch * seqlen;
    if n_rows == 0 {
        grads.grad_a.fill(T::ZERO);
        for grad in [grads.grad_dt_bias, grads.grad_d_skip].into_iter().flatten() {
            grad.fill(T::ZERO);
        }
        if let Some(grad) = grads.grad_initial_state {
            match output_grads.grad_last_state {
                Some(last) => grad.copy_from_slice(last),
                None => grad.fill(T::ZERO),
            }
        }
        return Ok(());
    }
    let channels = simd::block_channels::<T>();
    let n_blocks = d_inner.div_ceil(channels);
    // (block, row, B then C) and (sequence, A by channel and state | D | biases).
    let mut partial_bc = vec![T::ZERO; n_blocks * n_rows * 2 * d_state];
    let per_sequence = d_inner * (d_state + 1 + n_biases);
    let mut partial_weights = vec![T::ZERO; batch * per_sequence];
    let shared = Shared {
        inputs,
        saved_states,
        output_grads,
        dims,
        grad_u: grads.grad_u.disjoint(),
        grad_dt: grads.grad_dt.disjoint(),
        grad_z: grads.grad_z.map(RowsMut::disjoint),
        out: grads.out.map(RowsMut::disjoint),
        grad_initial_state: match grads.grad_initial_state {
            Some(grad) => Some(RowsMut::new("grad_initial_state", grad, d_inner * d_state)?.disjoint()),
            None => None,
        },
        partial_bc: RowsMut::new("partial_bc", &mut partial_bc, 2 * d_state)?.disjoint(),
        partial_weights: RowsMut::new("partial_weights", &mut partial_weights, per_sequence)?.disjoint(),
    };
    (0..batch * n_blocks).into_par_iter().for_each(|task| {
        let (sequence, block) = (task / n_blocks, task % n_blocks);
        let start = block * channels;
        let width = channels.min(d_inner - start);
        simd::dispatch(Task { shared: &shared, sequence, block, start, width });
    });

    let (grad_b, grad_c) = (grads.grad_b.disjoint(), grads.grad_c.disjoint());
    (0..n_rows).into_par_iter().with_min_len(256).for_each(|row| {
        // SAFETY: each task writes its own row.
        let (b, c) = unsafe { (grad_b.block(row, 0, d_state), grad_c.block(row, 0, d_state)) };
        b.fill(T::ZERO);
        c.fill(T::ZERO);
        for block in 0..n_blocks {
            let partial = &partial_bc[(block * n_rows + row) * 2 * d_state..][..2 * d_state];
            let (partial_b, partial_c) = partial.split_at(d_state);
            add_to(b, partial_b);
            add_to(c, partial_c);
        }
    });
    let (n_a, mut empty) = (d_inner * d_state, []);
    let grad_d_skip = grads.grad_d_skip.unwrap_or(&mut empty);
    let mut empty = [];
    let grad_dt_bias = grads.grad_dt_bias.unwrap_or(&mut empty);
    grads.grad_a.fill(T::ZERO);
    grad_d_skip.fill(T::ZERO);
    grad_dt_bias.fill(T::ZERO);
    for partial in partial_weights.chunks_exact(per_sequence) {
        add_to(grads.grad_a, &partial[..n_a]);
        add_to(grad_d_skip, &partial[n_a..]);
        add_to(grad_dt_bias, &partial[n_a + d_inner..]);
    }
    Ok(())
}

fn add_to<T: Element>(to: &mut [T], from: &[T]) {
    for (to, &from) in to.iter_mut().zip(from) {
        *to += from;
    }
}
