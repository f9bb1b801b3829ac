//! A task of the backward pass: a sequence and a block of channels, segment by segment from the end.

use pulp::{Simd, WithSimd};

use super::args::{ScanInputs, ScanOutputGrads};
use super::forward::{Constants, load_state, store_state};
use crate::ops::selective_scan::check::Dims;
use crate::ops::selective_scan::params::{MAX_D_STATE, STATE_STRIDE};
use crate::rows::DisjointRows;
use crate::simd::{self, Aligned, Block, Element, VECTORS, load_block, silu, splat_block, store_block};

/// What all tasks read and write.
pub(super) struct Shared<'a, T> {
    pub inputs: &'a ScanInputs<'a, T>,
    pub saved_states: &'a [T],
    pub output_grads: &'a ScanOutputGrads<'a, T>,
    pub dims: Dims,
    pub grad_u: DisjointRows<'a, T>,
    pub grad_dt: DisjointRows<'a, T>,
    pub grad_z: Option<DisjointRows<'a, T>>,
    pub out: Option<DisjointRows<'a, T>>,
    pub grad_initial_state: Option<DisjointRows<'a, T>>,
    pub partial_bc: DisjointRows<'a, T>,
    pub partial_weights: DisjointRows<'a, T>,
}

/// A sequence and a block of channels.
pub(super) struct Task<'a, T> {
    pub shared: &'a Shared<'a, T>,
    pub sequence: usize,
    pub block: usize,
    pub start: usize,
    pub width: usize,
}

/// What the walk over the states reads and adds to at each step. The fields of a step lie side by side: arrays by field
/// would all have the same place in a page, and each load would wait for a store that has nothing to do with it.
#[derive(Clone, Copy)]
struct Step<T: Element, S: Simd> {
    delta: Block<T, S>,
    delta_u: Block<T, S>,
    grad_y: Block<T, S>,
    y: Block<T, S>,
    /// exp(delta A) and the state before, of the state in hand.
    decay: Block<T, S>,
    previous: Block<T, S>,
    grad_exponent: Block<T, S>,
    grad_delta_u: Block<T, S>,
}

/// What a step needs once, after all states.
#[derive(Clone, Copy)]
struct Edge<T: Element, S: Simd> {
    u: Block<T, S>,
    delta_by_dt: Block<T, S>,
    /// silu(z), or 1.
    gate: Block<T, S>,
    /// The gradient of out times the derivative of the gate.
    grad_z_by_y: Block<T, S>,
}

impl<T: Element, S: Simd> Step<T, S> {
    fn zero(s: S) -> Self {
        let zero = splat_block::<T, S>(s, T::ZERO);
        Self {
            delta: zero,
            delta_u: zero,
            grad_y: zero,
            y: zero,
            decay: zero,
            previous: zero,
            grad_exponent: zero,
            grad_delta_u: zero,
        }
    }
}

impl<T: Element, S: Simd> Edge<T, S> {
    fn zero(s: S) -> Self {
        let zero = splat_block::<T, S>(s, T::ZERO);
        Self { u: zero, delta_by_dt: zero, gate: zero, grad_z_by_y: zero }
    }
}

impl<T: Element> Task<'_, T> {
    /// Reads a row, and makes of it what all states share.
    #[inline(always)]
    fn load<S: Simd>(
        &self,
        s: S,
        constants: &Constants<T, S>,
        row: usize,
        step: &mut Step<T, S>,
        edge: &mut Edge<T, S>,
    ) {
        let Shared { inputs, output_grads, .. } = self.shared;
        let channels = self.start..self.start + self.width;
        edge.u = load_block(s, &inputs.u.row(row)[channels.clone()]);
        step.grad_y = load_block(s, &output_grads.grad_out.row(row)[channels.clone()]);
        if let Some(z) = &inputs.z {
            let z = load_block(s, &z.row(row)[channels.clone()]);
            for j in 0..VECTORS {
                let (gate, gate_by_z) = silu::<T, S>(s, z[j]);
                edge.gate[j] = gate;
                edge.grad_z_by_y[j] = T::vmul(s, step.grad_y[j], gate_by_z);
                step.grad_y[j] = T::vmul(s, step.grad_y[j], gate);
            }
        } else {
            edge.gate = splat_block::<T, S>(s, T::ONE);
        }
        (step.delta, edge.delta_by_dt) = constants.delta(s, inputs, row, &inputs.dt.row(row)[channels]);
        for j in 0..VECTORS {
            step.delta_u[j] = T::vmul(s, step.delta[j], edge.u[j]);
            step.y[j] = T::vmul(s, constants.d_skip[j], edge.u[j]);
            step.grad_exponent[j] = T::splat(s, T::ZERO);
            step.grad_delta_u[j] = T::splat(s, T::ZERO);
        }
    }
}

impl<T: Element> Task<'_, T> {
    /// Asks for what the segment before this one reads, a part at each of the `d_state` states.
    #[inline(always)]
    fn prefetch(&self, segment: usize, n: usize) {
        let Shared { inputs, dims, output_grads, saved_states, .. } = self.shared;
        let Some(segment) = segment.checked_sub(1) else { return };
        let channels = self.start..self.start + self.width;
        for i in n * STATE_STRIDE / dims.d_state..(n + 1) * STATE_STRIDE / dims.d_state {
            let row = inputs.layout.row(self.sequence * dims.seqlen + segment * STATE_STRIDE + i);
            simd::prefetch(&inputs.u.row(row)[channels.clone()]);
            simd::prefetch(&inputs.dt.row(row)[channels.clone()]);
            simd::prefetch(&output_grads.grad_out.row(row)[channels.clone()]);
            if let Some(z) = &inputs.z {
                simd::prefetch(&z.row(row)[channels.clone()]);
            }
        }
        let saved = ((self.sequence * dims.n_segments() + segment) * dims.d_state + n) * dims.d_inner;
        simd::prefetch(&saved_states[saved + self.start..saved + self.start + self.width]);
    }
}

/// Steps by lanes: [`simd::sum_lanes`] takes whole vectors of them.
const _: () = assert!(STATE_STRIDE.is_multiple_of(simd::MAX_LANES));

impl<T: Element> WithSimd for Task<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Self { shared, sequence, block, start, width } = self;
        let Shared { inputs, dims, .. } = *shared;
        let Dims { batch, seqlen, d_inner, d_state, n_biases } = dims;
        let layout = inputs.layout;
        let zero = splat_block::<T, S>(s, T::ZERO);
        let ln_2 = T::splat(s, T::ONE / T::LOG2_E);
        let constants = Constants::<T, S>::load(s, inputs, dims, start, width);
        let lanes = T::lanes::<S>();
        let bits = simd::lane_bits::<T, S>(s);

        let mut lambda = load_state(s, shared.output_grads.grad_last_state, dims, sequence, start, width);
        let mut grad_a = vec![zero; d_state];
        let mut grad_d = zero;
        let mut grad_bias = vec![zero; n_biases];

        let mut rows = [0; STATE_STRIDE];
        let mut starts = [false; STATE_STRIDE];
        let mut steps = [Step::zero(s); STATE_STRIDE];
        let mut edges = [Edge::zero(s); STATE_STRIDE];
        // Of B, then of C: the values and the sums over channels of their gradients, by state and step.
        let mut bc = [[T::ZERO; STATE_STRIDE]; 2 * MAX_D_STATE];
        let mut sums = [[T::ZERO; STATE_STRIDE]; 2 * MAX_D_STATE];
        let (mut by_b, mut by_c) = (Aligned([zero[0]; STATE_STRIDE]), Aligned([zero[0]; STATE_STRIDE]));

        for segment in (0..dims.n_segments()).rev() {
            let first = segment * STATE_STRIDE;
            let n_steps = STATE_STRIDE.min(seqlen - first);
            for i in 0..n_steps {
                let position = sequence * seqlen + first + i;
                rows[i] = layout.row(position);
                starts[i] = layout.starts_document(position);
                self.load(s, &constants, rows[i], &mut steps[i], &mut edges[i]);
                for (n, (&b, &c)) in inputs.b.row(rows[i]).iter().zip(inputs.c.row(rows[i])).enumerate() {
                    bc[n][i] = b;
                    bc[d_state + n][i] = c;
                }
            }
            for n in 0..d_state {
                self.prefetch(segment, n);
                let a = constants.a_log2e[n];
                let saved = ((sequence * dims.n_segments() + segment) * d_state + n) * d_inner;
                let mut h = load_block(s, &shared.saved_states[saved + start..saved + start + width]);
                let (b, c) = (&bc[n], &bc[d_state + n]);
                for i in 0..n_steps {
                    let step = &mut steps[i];
                    if starts[i] {
                        h = zero;
                    }
                    step.previous = h;
                    let (b, c) = (T::splat(s, b[i]), T::splat(s, c[i]));
                    let mut products = zero;
                    for j in 0..VECTORS {
                        step.decay[j] = T::exp2(s, T::vmul(s, step.delta[j], a[j]));
                        h[j] = T::mul_add(s, step.decay[j], h[j], T::vmul(s, step.delta_u[j], b));
                        step.y[j] = T::mul_add(s, h[j], c, step.y[j]);
                        products[j] = T::vmul(s, step.grad_y[j], h[j]);
                    }
                    by_c[i] = simd::add_vectors::<T, S>(s, &products);
                }
                let mut lambda_n = lambda[n];
                let mut grad_a_n = grad_a[n];
                for i in (0..n_steps).rev() {
                    let step = &mut steps[i];
                    let (b, c) = (T::splat(s, b[i]), T::splat(s, c[i]));
                    let mut products = zero;
                    for j in 0..VECTORS {
                        let l = T::mul_add(s, step.grad_y[j], c, lambda_n[j]);
                        products[j] = T::vmul(s, l, step.delta_u[j]);
                        step.grad_delta_u[j] = T::mul_add(s, l, b, step.grad_delta_u[j]);
                        let back = T::vmul(s, l, step.decay[j]);
                        let e = T::vmul(s, back, step.previous[j]);
                        step.grad_exponent[j] = T::mul_add(s, e, a[j], step.grad_exponent[j]);
                        grad_a_n[j] = T::mul_add(s, e, step.delta[j], grad_a_n[j]);
                        lambda_n[j] = back;
                    }
                    by_b[i] = simd::add_vectors::<T, S>(s, &products);
                    if starts[i] {
                        lambda_n = zero;
                    }
                }
                lambda[n] = lambda_n;
                grad_a[n] = grad_a_n;
                for (vectors, state) in [(&mut by_b, n), (&mut by_c, d_state + n)] {
                    for (vectors, sums) in vectors.chunks_exact_mut(lanes).zip(sums[state].chunks_exact_mut(lanes)) {
                        T::store(s, sums, simd::sum_lanes::<T, S>(s, &bits, vectors));
                    }
                }
            }
            for i in 0..n_steps {
                let (row, step, edge) = (rows[i], &steps[i], &edges[i]);
                let (mut grad_u, mut grad_dt, mut grad_z, mut out) = (zero, zero, zero, zero);
                for j in 0..VECTORS {
                    let exponent = T::vmul(s, step.grad_exponent[j], ln_2);
                    let grad_delta = T::mul_add(s, step.grad_delta_u[j], edge.u[j], exponent);
                    grad_dt[j] = T::vmul(s, grad_delta, edge.delta_by_dt[j]);
                    let skip = T::vmul(s, step.grad_y[j], constants.d_skip[j]);
                    grad_u[j] = T::mul_add(s, step.grad_delta_u[j], step.delta[j], skip);
                    grad_d[j] = T::mul_add(s, step.grad_y[j], edge.u[j], grad_d[j]);
                    grad_z[j] = T::vmul(s, step.y[j], edge.grad_z_by_y[j]);
                    out[j] = T::vmul(s, step.y[j], edge.gate[j]);
                }
                if let Some(bias) = &inputs.dt_bias {
                    let grad = &mut grad_bias[bias.offsets.modality_of_row(row)];
                    for j in 0..VECTORS {
                        grad[j] = T::vadd(s, grad[j], grad_dt[j]);
                    }
                }
                let outputs = [
                    (Some(&shared.grad_u), grad_u),
                    (Some(&shared.grad_dt), grad_dt),
                    (shared.grad_z.as_ref(), grad_z),
                    (shared.out.as_ref(), out),
                ];
                for (to, value) in outputs {
                    if let Some(to) = to {
                        // SAFETY: positions have rows of their own, and each task its own sequence and channels.
                        store_block(s, unsafe { to.block(row, start, width) }, &value);
                    }
                }
                // SAFETY: each block of channels has partial rows of its own.
                let partial = unsafe { shared.partial_bc.block(block * batch * seqlen + row, 0, 2 * d_state) };
                for (to, sums) in partial.iter_mut().zip(&sums) {
                    *to = sums[i];
                }
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
