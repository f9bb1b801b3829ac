//! What a chunk of a sequence leaves for the other ones, so that each can be walked without waiting for those before it.
//!
//! The state is linear in the one that it starts from: a chunk ends in `decay h + end`, where `end` is its last state from zero
//! and `decay = exp(A sum delta)`, or zero where a document begins in it. Backwards the same holds for adjoints, with the same
//! decay: what comes to the first state is `decay lambda + end`.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::args::ScanInputs;
use super::forward::{Constants, store_state};
use crate::error::{Result, expect_presence, expect_size};
use crate::ops::selective_scan::check::Dims;
use crate::ops::selective_scan::params::OP;
use crate::rows::{DisjointRows, Rows, RowsMut};
use crate::shape::expect_matrix;
use crate::simd::{self, Block, Element, VECTORS, load_block, silu, splat_block};

/// The decay of a chunk, and its last state from zero.
///
/// * `inputs`: of the chunk, without an initial state.
/// * `decay`, `end`: `(batch, d_inner, d_state)`, overwritten.
///
/// # Errors
/// Sizes that disagree, an initial state. Nothing is written then.
pub fn ends<T: Element>(inputs: &ScanInputs<'_, T>, decay: &mut [T], end: &mut [T]) -> Result<()> {
    run(inputs, None, decay, end)
}

/// The decay of a chunk, and the gradient of its initial state where nothing comes back to its last one.
///
/// * `grad_out`: `(n_rows, d_inner)`, of the chunk's output.
/// * `decay`, `end`: as in [`ends`].
///
/// # Errors
/// As there.
pub fn adjoint_ends<T: Element>(
    inputs: &ScanInputs<'_, T>,
    grad_out: Rows<'_, T>,
    decay: &mut [T],
    end: &mut [T],
) -> Result<()> {
    run(inputs, Some(grad_out), decay, end)
}

/// Takes a state, or an adjoint, through a chunk: `state = decay state + end`.
///
/// # Errors
/// Lengths that differ.
pub fn carry<T: Element>(state: &mut [T], decay: &[T], end: &[T]) -> Result<()> {
    expect_size(OP, "decay", "elements", state.len(), decay.len())?;
    expect_size(OP, "end", "elements", state.len(), end.len())?;
    for ((state, &decay), &end) in state.iter_mut().zip(decay).zip(end) {
        *state = decay * *state + end;
    }
    Ok(())
}

fn run<T: Element>(
    inputs: &ScanInputs<'_, T>,
    grad_out: Option<Rows<'_, T>>,
    decay: &mut [T],
    end: &mut [T],
) -> Result<()> {
    let dims = inputs.validate()?;
    expect_presence(OP, "initial_state", false, inputs.initial_state.is_some())?;
    if let Some(grad_out) = &grad_out {
        expect_matrix(OP, "grad_out", (dims.n_rows(), dims.d_inner), grad_out)?;
    }
    expect_size(OP, "decay", "elements", dims.state_len(), decay.len())?;
    expect_size(OP, "end", "elements", dims.state_len(), end.len())?;
    let per_sequence = dims.d_inner * dims.d_state;
    let decay = RowsMut::new("decay", decay, per_sequence)?.disjoint();
    let end = RowsMut::new("end", end, per_sequence)?.disjoint();
    let channels = simd::block_channels::<T>();
    let n_blocks = dims.d_inner.div_ceil(channels);
    (0..dims.batch * n_blocks).into_par_iter().for_each(|task| {
        let (sequence, start) = (task / n_blocks, task % n_blocks * channels);
        let width = channels.min(dims.d_inner - start);
        simd::dispatch(Task { inputs, grad_out, dims, decay, end, sequence, start, width });
    });
    Ok(())
}

struct Task<'a, T> {
    inputs: &'a ScanInputs<'a, T>,
    /// Where the walk is that of adjoints.
    grad_out: Option<Rows<'a, T>>,
    dims: Dims,
    decay: DisjointRows<'a, T>,
    end: DisjointRows<'a, T>,
    sequence: usize,
    start: usize,
    width: usize,
}

impl<T: Element> WithSimd for Task<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Self { inputs, grad_out, dims, sequence, start, width, .. } = self;
        let Dims { seqlen, d_state, .. } = dims;
        let channels = start..start + width;
        let constants = Constants::<T, S>::load(s, inputs, dims, start, width);
        let zero = splat_block::<T, S>(s, T::ZERO);
        let mut state = vec![zero; d_state];
        let (mut reach, mut is_cut) = (zero, false);
        for i in 0..seqlen {
            let t = if grad_out.is_some() { seqlen - 1 - i } else { i };
            let position = sequence * seqlen + t;
            let row = inputs.layout.row(position);
            let starts = inputs.layout.starts_document(position);
            is_cut |= starts;
            let (delta, _) = constants.delta(s, inputs, row, &inputs.dt.row(row)[channels.clone()]);
            for j in 0..VECTORS {
                reach[j] = T::vadd(s, reach[j], delta[j]);
            }
            match grad_out {
                None => {
                    if starts {
                        state.fill(zero);
                    }
                    let mut delta_u = load_block(s, &inputs.u.row(row)[channels.clone()]);
                    for j in 0..VECTORS {
                        delta_u[j] = T::vmul(s, delta[j], delta_u[j]);
                    }
                    for ((h, a), &b) in state.iter_mut().zip(&constants.a_log2e).zip(inputs.b.row(row)) {
                        let b = T::splat(s, b);
                        for j in 0..VECTORS {
                            let decay = T::exp2(s, T::vmul(s, delta[j], a[j]));
                            h[j] = T::mul_add(s, decay, h[j], T::vmul(s, delta_u[j], b));
                        }
                    }
                }
                Some(grad_out) => {
                    let mut grad_y = load_block(s, &grad_out.row(row)[channels.clone()]);
                    if let Some(z) = &inputs.z {
                        let z = load_block(s, &z.row(row)[channels.clone()]);
                        for j in 0..VECTORS {
                            grad_y[j] = T::vmul(s, grad_y[j], silu::<T, S>(s, z[j]).0);
                        }
                    }
                    for ((lambda, a), &c) in state.iter_mut().zip(&constants.a_log2e).zip(inputs.c.row(row)) {
                        let c = T::splat(s, c);
                        for j in 0..VECTORS {
                            let decay = T::exp2(s, T::vmul(s, delta[j], a[j]));
                            lambda[j] = T::vmul(s, decay, T::mul_add(s, grad_y[j], c, lambda[j]));
                        }
                    }
                    if starts {
                        state.fill(zero);
                    }
                }
            }
        }
        let decays: Vec<Block<T, S>> = constants
            .a_log2e
            .iter()
            .map(|a| {
                let mut decay = zero;
                if !is_cut {
                    for j in 0..VECTORS {
                        decay[j] = T::exp2(s, T::vmul(s, reach[j], a[j]));
                    }
                }
                decay
            })
            .collect();
        for (to, blocks) in [(self.decay, &decays), (self.end, &state)] {
            // SAFETY: each task writes its own sequence and channels.
            let to = unsafe { to.block(sequence, start * d_state, width * d_state) };
            store_state(s, to, blocks, d_state, width);
        }
    }
}
