//! Forward pass: one task walks time for one sequence and one block of channels, its states in the first-level cache.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::args::{ScanInputs, ScanOutputs, saved_len};
use crate::error::Result;
use crate::ops::selective_scan::check::Dims;
use crate::ops::selective_scan::params::{DeltaActivation, STATE_STRIDE};
use crate::rows::{DisjointRows, RowsMut};
use crate::simd::{self, Block, Element, load_block, silu, softplus, splat_block, store_block};

/// Runs the scan; see the module for the equations and [`ScanInputs`] for shapes.
///
/// # Errors
/// Sizes that disagree, d_inner 0, d_state 0 or above [`MAX_D_STATE`](crate::selective_scan::MAX_D_STATE). Nothing is
/// written then.
pub fn forward<T: Element>(inputs: &ScanInputs<'_, T>, outputs: ScanOutputs<'_, T>) -> Result<()> {
    let dims = inputs.validate()?;
    outputs.validate(dims, saved_len(dims))?;
    let Dims { batch, seqlen, d_inner, d_state, .. } = dims;
    if batch * seqlen == 0 {
        // No step: the state passes through.
        if let Some(last_state) = outputs.last_state {
            match inputs.initial_state {
                Some(initial) => last_state.copy_from_slice(initial),
                None => last_state.fill(T::ZERO),
            }
        }
        return Ok(());
    }
    let out = outputs.out.disjoint();
    let last_state = match outputs.last_state {
        Some(state) => Some(RowsMut::new("last_state", state, d_inner * d_state)?.disjoint()),
        None => None,
    };
    let saved_states = match outputs.saved_states {
        Some(states) => Some(RowsMut::new("saved_states", states, d_inner)?.disjoint()),
        None => None,
    };
    let channels = simd::block_channels::<T>();
    let n_blocks = d_inner.div_ceil(channels);
    (0..batch * n_blocks).into_par_iter().for_each(|task| {
        let (sequence, start) = (task / n_blocks, task % n_blocks * channels);
        let width = channels.min(d_inner - start);
        simd::dispatch(Task { inputs, dims, out, last_state, saved_states, sequence, start, width });
    });
    Ok(())
}

struct Task<'a, T> {
    inputs: &'a ScanInputs<'a, T>,
    dims: Dims,
    out: DisjointRows<'a, T>,
    last_state: Option<DisjointRows<'a, T>>,
    saved_states: Option<DisjointRows<'a, T>>,
    sequence: usize,
    start: usize,
    width: usize,
}

impl<T: Element> WithSimd for Task<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Self { inputs, dims, sequence, start, width, .. } = self;
        let Dims { seqlen, d_state, .. } = dims;
        let channels = start..start + width;
        let constants = Constants::<T, S>::load(s, inputs, dims, start, width);
        let mut h = load_state(s, inputs.initial_state, dims, sequence, start, width);
        for t in 0..seqlen {
            let position = sequence * seqlen + t;
            let row = inputs.layout.row(position);
            if inputs.layout.starts_document(position) {
                h.fill(splat_block::<T, S>(s, T::ZERO));
            }
            if let Some(saved) = self.saved_states
                && t % STATE_STRIDE == 0
            {
                let first = (sequence * dims.n_segments() + t / STATE_STRIDE) * d_state;
                for n in 0..d_state {
                    // SAFETY: each task writes its own sequence and channels.
                    store_block(s, unsafe { saved.block(first + n, start, width) }, &h[n]);
                }
            }
            let u = load_block(s, &inputs.u.row(row)[channels.clone()]);
            let (delta, _) = constants.delta(s, inputs, row, &inputs.dt.row(row)[channels.clone()]);
            let mut delta_u = delta;
            let mut y = constants.d_skip;
            for j in 0..simd::VECTORS {
                delta_u[j] = T::vmul(s, delta[j], u[j]);
                y[j] = T::vmul(s, y[j], u[j]);
            }
            let (b, c) = (inputs.b.row(row), inputs.c.row(row));
            for (((h, a), &b), &c) in h.iter_mut().zip(&constants.a_log2e).zip(b).zip(c) {
                let (b, c) = (T::splat(s, b), T::splat(s, c));
                for j in 0..simd::VECTORS {
                    let decay = T::exp2(s, T::vmul(s, delta[j], a[j]));
                    h[j] = T::mul_add(s, decay, h[j], T::vmul(s, delta_u[j], b));
                    y[j] = T::mul_add(s, h[j], c, y[j]);
                }
            }
            if let Some(z) = &inputs.z {
                let z = load_block(s, &z.row(row)[channels.clone()]);
                for j in 0..simd::VECTORS {
                    y[j] = T::vmul(s, y[j], silu::<T, S>(s, z[j]).0);
                }
            }
            // SAFETY: positions have rows of their own, and each task its own sequence and channels.
            store_block(s, unsafe { self.out.block(row, start, width) }, &y);
        }
        if let Some(last_state) = self.last_state {
            // SAFETY: each task writes its own sequence and channels.
            let to = unsafe { last_state.block(sequence, start * d_state, width * d_state) };
            store_state(s, to, &h, d_state, width);
        }
    }
}

/// What does not change along time, for one block of channels.
pub(super) struct Constants<T: Element, S: Simd> {
    /// A log2(e), so that the decay is a power of two: `[d_state]`.
    pub a_log2e: Vec<Block<T, S>>,
    /// D, or zero.
    pub d_skip: Block<T, S>,
    /// Bias of each modality; empty without one.
    dt_bias: Vec<Block<T, S>>,
}

impl<T: Element, S: Simd> Constants<T, S> {
    #[inline(always)]
    pub fn load(s: S, inputs: &ScanInputs<'_, T>, dims: Dims, start: usize, width: usize) -> Self {
        let Dims { d_inner, d_state, n_biases, .. } = dims;
        let mut a_log2e = load_transposed(s, inputs.a, d_state, start, width);
        for a in &mut a_log2e {
            for j in 0..simd::VECTORS {
                a[j] = T::vmul(s, a[j], T::splat(s, T::LOG2_E));
            }
        }
        let d_skip = match inputs.d_skip {
            Some(d_skip) => load_block(s, &d_skip[start..start + width]),
            None => splat_block::<T, S>(s, T::ZERO),
        };
        let mut dt_bias = Vec::with_capacity(n_biases);
        if let Some(bias) = &inputs.dt_bias {
            for modality in bias.bias.chunks_exact(d_inner) {
                dt_bias.push(load_block(s, &modality[start..start + width]));
            }
        }
        Self { a_log2e, d_skip, dt_bias }
    }

    /// delta of one row, and its derivative by dt.
    #[inline(always)]
    pub fn delta(&self, s: S, inputs: &ScanInputs<'_, T>, row: usize, dt: &[T]) -> (Block<T, S>, Block<T, S>) {
        let mut delta = load_block(s, dt);
        if let Some(bias) = &inputs.dt_bias {
            let bias = &self.dt_bias[bias.offsets.modality_of_row(row)];
            for j in 0..simd::VECTORS {
                delta[j] = T::vadd(s, delta[j], bias[j]);
            }
        }
        let mut derivative = splat_block::<T, S>(s, T::ONE);
        if inputs.delta_activation == DeltaActivation::Softplus {
            for j in 0..simd::VECTORS {
                (delta[j], derivative[j]) = softplus::<T, S>(s, delta[j]);
            }
        }
        (delta, derivative)
    }
}

/// State `(batch, d_inner, d_state)` of one sequence and block, by state; zero if absent.
#[inline(always)]
pub(super) fn load_state<T: Element, S: Simd>(
    s: S,
    state: Option<&[T]>,
    dims: Dims,
    sequence: usize,
    start: usize,
    width: usize,
) -> Vec<Block<T, S>> {
    match state {
        Some(state) => {
            let per_sequence = dims.d_inner * dims.d_state;
            load_transposed(s, &state[sequence * per_sequence..][..per_sequence], dims.d_state, start, width)
        }
        None => vec![splat_block::<T, S>(s, T::ZERO); dims.d_state],
    }
}

/// Channels `start..start + width` of a `(d_inner, d_state)` matrix, by state.
#[inline(always)]
fn load_transposed<T: Element, S: Simd>(
    s: S,
    matrix: &[T],
    d_state: usize,
    start: usize,
    width: usize,
) -> Vec<Block<T, S>> {
    let mut column = vec![T::ZERO; width];
    let mut blocks = Vec::with_capacity(d_state);
    for n in 0..d_state {
        for (d, x) in column.iter_mut().enumerate() {
            *x = matrix[(start + d) * d_state + n];
        }
        blocks.push(load_block(s, &column));
    }
    blocks
}

/// Writes blocks by state as `(width, d_state)`.
#[inline(always)]
pub(super) fn store_state<T: Element, S: Simd>(
    s: S,
    to: &mut [T],
    state: &[Block<T, S>],
    d_state: usize,
    width: usize,
) {
    let mut column = vec![T::ZERO; width];
    for (n, block) in state.iter().enumerate() {
        store_block(s, &mut column, block);
        for (d, &x) in column.iter().enumerate() {
            to[d * d_state + n] = x;
        }
    }
}
