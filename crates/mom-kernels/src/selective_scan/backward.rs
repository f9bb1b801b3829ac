//! Backward pass: segments of [`STATE_STRIDE`] steps from the end, each recomputed from its saved state and walked back.
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

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::forward::{Constants, load_state, store_state};
use super::params::{Dims, MAX_D_STATE, STATE_STRIDE, ScanGrads, ScanInputs, ScanOutputGrads};
use crate::error::Result;
use crate::rows::{DisjointRows, RowsMut};
use crate::simd::{self, Block, Element, VECTORS, load_block, silu, splat_block, store_block, sum_block};

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
    grads.validate(inputs, saved_states, output_grads, dims)?;
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

struct Shared<'a, T> {
    inputs: &'a ScanInputs<'a, T>,
    saved_states: &'a [T],
    output_grads: &'a ScanOutputGrads<'a, T>,
    dims: Dims,
    grad_u: DisjointRows<'a, T>,
    grad_dt: DisjointRows<'a, T>,
    grad_z: Option<DisjointRows<'a, T>>,
    out: Option<DisjointRows<'a, T>>,
    grad_initial_state: Option<DisjointRows<'a, T>>,
    partial_bc: DisjointRows<'a, T>,
    partial_weights: DisjointRows<'a, T>,
}

struct Task<'a, T> {
    shared: &'a Shared<'a, T>,
    sequence: usize,
    block: usize,
    start: usize,
    width: usize,
}

/// One value for each step of a segment.
type Steps<T, S> = [Block<T, S>; STATE_STRIDE];

impl<T: Element> WithSimd for Task<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Self { shared, sequence, block, start, width } = self;
        let Shared { inputs, dims, .. } = *shared;
        let Dims { batch, seqlen, d_inner, d_state, n_biases } = dims;
        let layout = inputs.layout;
        let channels = start..start + width;
        let zero = splat_block::<T, S>(s, T::ZERO);
        let ln_2 = T::splat(s, T::ONE / T::LOG2_E);
        let constants = Constants::<T, S>::load(s, inputs, dims, start, width);

        let mut lambda = load_state(s, shared.output_grads.grad_last_state, dims, sequence, start, width);
        let mut grad_a = vec![zero; d_state];
        let mut grad_d = zero;
        let mut grad_bias = vec![zero; n_biases];

        let mut rows = [0; STATE_STRIDE];
        let mut starts = [false; STATE_STRIDE];
        let steps: Steps<T, S> = [zero; STATE_STRIDE];
        let (mut u, mut delta, mut delta_by_dt, mut delta_u) = (steps, steps, steps, steps);
        let (mut y, mut grad_y, mut previous, mut decay) = (steps, steps, steps, steps);
        let (mut grad_exponent, mut grad_delta_u) = (steps, steps);
        let mut sums = [[T::ZERO; 2 * MAX_D_STATE]; STATE_STRIDE];

        for segment in (0..dims.n_segments()).rev() {
            let first = segment * STATE_STRIDE;
            let n_steps = STATE_STRIDE.min(seqlen - first);
            for i in 0..n_steps {
                let position = sequence * seqlen + first + i;
                let row = layout.row(position);
                rows[i] = row;
                starts[i] = layout.starts_document(position);
                u[i] = load_block(s, &inputs.u.row(row)[channels.clone()]);
                (delta[i], delta_by_dt[i]) = constants.delta(s, inputs, row, &inputs.dt.row(row)[channels.clone()]);
                grad_y[i] = load_block(s, &shared.output_grads.grad_out.row(row)[channels.clone()]);
                if let Some(z) = &inputs.z {
                    let z = load_block(s, &z.row(row)[channels.clone()]);
                    for j in 0..VECTORS {
                        grad_y[i][j] = T::vmul(s, grad_y[i][j], silu::<T, S>(s, z[j]).0);
                    }
                }
                for j in 0..VECTORS {
                    delta_u[i][j] = T::vmul(s, delta[i][j], u[i][j]);
                    y[i][j] = T::vmul(s, constants.d_skip[j], u[i][j]);
                }
                grad_exponent[i] = zero;
                grad_delta_u[i] = zero;
            }
            for n in 0..d_state {
                let a = constants.a_log2e[n];
                let saved = ((sequence * dims.n_segments() + segment) * d_state + n) * d_inner;
                let mut h = load_block(s, &shared.saved_states[saved + start..saved + start + width]);
                for i in 0..n_steps {
                    if starts[i] {
                        h = zero;
                    }
                    previous[i] = h;
                    let (b, c) = (inputs.b.row(rows[i])[n], inputs.c.row(rows[i])[n]);
                    let (b, c) = (T::splat(s, b), T::splat(s, c));
                    let mut by_c = zero;
                    for j in 0..VECTORS {
                        decay[i][j] = T::exp2(s, T::vmul(s, delta[i][j], a[j]));
                        h[j] = T::mul_add(s, decay[i][j], h[j], T::vmul(s, delta_u[i][j], b));
                        y[i][j] = T::mul_add(s, h[j], c, y[i][j]);
                        by_c[j] = T::vmul(s, grad_y[i][j], h[j]);
                    }
                    sums[i][d_state + n] = sum_block(s, &by_c);
                }
                let mut lambda_n = lambda[n];
                let mut grad_a_n = grad_a[n];
                for i in (0..n_steps).rev() {
                    let (b, c) = (inputs.b.row(rows[i])[n], inputs.c.row(rows[i])[n]);
                    let (b, c) = (T::splat(s, b), T::splat(s, c));
                    let mut by_b = zero;
                    for j in 0..VECTORS {
                        let l = T::mul_add(s, grad_y[i][j], c, lambda_n[j]);
                        by_b[j] = T::vmul(s, l, delta_u[i][j]);
                        grad_delta_u[i][j] = T::mul_add(s, l, b, grad_delta_u[i][j]);
                        let back = T::vmul(s, l, decay[i][j]);
                        let e = T::vmul(s, back, previous[i][j]);
                        grad_exponent[i][j] = T::mul_add(s, e, a[j], grad_exponent[i][j]);
                        grad_a_n[j] = T::mul_add(s, e, delta[i][j], grad_a_n[j]);
                        lambda_n[j] = back;
                    }
                    sums[i][n] = sum_block(s, &by_b);
                    if starts[i] {
                        lambda_n = zero;
                    }
                }
                lambda[n] = lambda_n;
                grad_a[n] = grad_a_n;
            }
            for i in 0..n_steps {
                let row = rows[i];
                let (mut grad_u, mut grad_dt) = (zero, zero);
                for j in 0..VECTORS {
                    let grad_delta = T::mul_add(s, grad_delta_u[i][j], u[i][j], T::vmul(s, grad_exponent[i][j], ln_2));
                    grad_dt[j] = T::vmul(s, grad_delta, delta_by_dt[i][j]);
                    let skip = T::vmul(s, grad_y[i][j], constants.d_skip[j]);
                    grad_u[j] = T::mul_add(s, grad_delta_u[i][j], delta[i][j], skip);
                    grad_d[j] = T::mul_add(s, grad_y[i][j], u[i][j], grad_d[j]);
                }
                if let Some(bias) = &inputs.dt_bias {
                    let grad = &mut grad_bias[bias.offsets.modality_of_row(row)];
                    for j in 0..VECTORS {
                        grad[j] = T::vadd(s, grad[j], grad_dt[j]);
                    }
                }
                // SAFETY: positions have rows of their own, and each task its own sequence and channels (here and below).
                store_block(s, unsafe { shared.grad_u.block(row, start, width) }, &grad_u);
                // SAFETY: as above.
                store_block(s, unsafe { shared.grad_dt.block(row, start, width) }, &grad_dt);
                let mut out = y[i];
                if let (Some(z), Some(grad_z)) = (&inputs.z, &shared.grad_z) {
                    let z = load_block(s, &z.row(row)[channels.clone()]);
                    let mut grad = load_block(s, &shared.output_grads.grad_out.row(row)[channels.clone()]);
                    for j in 0..VECTORS {
                        let (gate, gate_by_z) = silu::<T, S>(s, z[j]);
                        grad[j] = T::vmul(s, grad[j], T::vmul(s, y[i][j], gate_by_z));
                        out[j] = T::vmul(s, out[j], gate);
                    }
                    // SAFETY: as above.
                    store_block(s, unsafe { grad_z.block(row, start, width) }, &grad);
                }
                if let Some(to) = &shared.out {
                    // SAFETY: as above.
                    store_block(s, unsafe { to.block(row, start, width) }, &out);
                }
                // SAFETY: each block of channels has partial rows of its own.
                let partial = unsafe { shared.partial_bc.block(block * batch * seqlen + row, 0, 2 * d_state) };
                partial.copy_from_slice(&sums[i][..2 * d_state]);
            }
        }
        if let Some(grad) = &shared.grad_initial_state {
            // SAFETY: each task writes its own sequence and channels (here and below).
            store_state(s, unsafe { grad.block(sequence, start * d_state, width * d_state) }, &lambda, d_state, width);
        }
        let weights = |first, len| {
            // SAFETY: as above.
            unsafe { shared.partial_weights.block(sequence, first, len) }
        };
        store_state(s, weights(start * d_state, width * d_state), &grad_a, d_state, width);
        store_block(s, weights(d_inner * d_state + start, width), &grad_d);
        for (modality, grad) in grad_bias.iter().enumerate() {
            store_block(s, weights(d_inner * (d_state + 1 + modality) + start, width), grad);
        }
    }
}
