//! Backward pass: time forwards once more; the gradients of the window's inputs wait in registers until complete.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::args::{ConvGrads, ConvInputs, by_d_conv};
use crate::error::Result;
use crate::ops::causal_conv1d::params::{Activation, Dims, MAX_D_CONV, OP};
use crate::rows::{DisjointRows, Rows, RowsMut};
use crate::shape::expect_matrix;
use crate::simd::{self, Block, Element, VECTORS, load_block, silu, splat_block, store_block};

/// All gradients of the convolution; every output of `grads` is overwritten.
///
/// * `grad_out`: `(n_rows, d_inner)`.
/// * `grad_last_state`: `(batch, d_conv - 1, d_inner)`; zero if absent.
///
/// # Errors
/// Sizes that disagree, or a gradient asked for whose input is absent. Nothing is written then.
pub fn backward<T: Element>(
    inputs: &ConvInputs<'_, T>,
    grad_out: Rows<'_, T>,
    grad_last_state: Option<&[T]>,
    grads: ConvGrads<'_, T>,
) -> Result<()> {
    let dims = inputs.validate()?;
    expect_matrix(OP, "grad_out", dims.channels(), &grad_out)?;
    dims.expect_state("grad_last_state", grad_last_state.as_ref())?;
    grads.validate(inputs, dims)?;
    let Dims { batch, d_inner, d_conv, .. } = dims;
    // (sequence, tap then bias, channel)
    let mut partial = vec![T::ZERO; batch * (d_conv + 1) * d_inner];
    let shared = Shared {
        inputs,
        dims,
        grad_out,
        grad_last_state,
        grad_x: grads.grad_x.disjoint(),
        out: grads.out.map(RowsMut::disjoint),
        grad_initial_state: match grads.grad_initial_state {
            Some(grad) => Some(RowsMut::new("grad_initial_state", grad, d_inner)?.disjoint()),
            None => None,
        },
        partial: RowsMut::new("partial", &mut partial, d_inner)?.disjoint(),
    };
    let channels = simd::block_channels::<T>();
    let n_blocks = d_inner.div_ceil(channels);
    (0..batch * n_blocks).into_par_iter().for_each(|task| {
        let (sequence, start) = (task / n_blocks, task % n_blocks * channels);
        let width = channels.min(d_inner - start);
        simd::dispatch(Task { shared: &shared, sequence, start, width });
    });
    grads.grad_weight.fill(T::ZERO);
    let mut empty = [];
    let grad_bias = grads.grad_bias.unwrap_or(&mut empty);
    grad_bias.fill(T::ZERO);
    for partial in partial.chunks_exact((d_conv + 1) * d_inner) {
        for (d, weight) in grads.grad_weight.chunks_exact_mut(d_conv).enumerate() {
            for (k, weight) in weight.iter_mut().enumerate() {
                *weight += partial[k * d_inner + d];
            }
        }
        for (bias, &partial) in grad_bias.iter_mut().zip(&partial[d_conv * d_inner..]) {
            *bias += partial;
        }
    }
    Ok(())
}

struct Shared<'a, T> {
    inputs: &'a ConvInputs<'a, T>,
    dims: Dims,
    grad_out: Rows<'a, T>,
    grad_last_state: Option<&'a [T]>,
    grad_x: DisjointRows<'a, T>,
    out: Option<DisjointRows<'a, T>>,
    grad_initial_state: Option<DisjointRows<'a, T>>,
    partial: DisjointRows<'a, T>,
}

struct Task<'a, T> {
    shared: &'a Shared<'a, T>,
    sequence: usize,
    start: usize,
    width: usize,
}

impl<T: Element> WithSimd for Task<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        by_d_conv!(self.shared.dims.d_conv, D_CONV => self.walk::<S, D_CONV>(s))
    }
}

impl<T: Element> Task<'_, T> {
    #[inline(always)]
    fn walk<S: Simd, const D_CONV: usize>(self, s: S) {
        let Self { shared, sequence, start, width } = self;
        let Shared { inputs, dims, grad_out, .. } = *shared;
        let layout = inputs.layout;
        let channels = start..start + width;
        let zero = splat_block::<T, S>(s, T::ZERO);
        let (taps, bias) = inputs.taps(s, dims, start, width);
        let mut window = inputs.window(s, dims, sequence, start, width);
        // Gradient of window[k], still without the positions to come; `targets` is where it goes when it is complete.
        let mut pending: [Block<T, S>; MAX_D_CONV] = [zero; MAX_D_CONV];
        let mut targets = [Target::Nowhere; MAX_D_CONV];
        for (k, target) in targets.iter_mut().enumerate().take(D_CONV - 1) {
            *target = Target::InitialState(k);
        }
        let mut grad_taps = [zero; MAX_D_CONV];
        let mut grad_bias = zero;
        for t in 0..dims.seqlen {
            let position = sequence * dims.seqlen + t;
            let row = layout.row(position);
            if layout.starts_document(position) {
                for k in 0..D_CONV - 1 {
                    self.write(s, targets[k], &pending[k]);
                }
                window = [zero; MAX_D_CONV];
                pending = [zero; MAX_D_CONV];
                targets = [Target::Nowhere; MAX_D_CONV];
            }
            window[D_CONV - 1] = load_block(s, &inputs.x.row(row)[channels.clone()]);
            pending[D_CONV - 1] = zero;
            targets[D_CONV - 1] = Target::Row(row);
            let mut grad = load_block(s, &grad_out.row(row)[channels.clone()]);
            let mut out = zero;
            for j in 0..VECTORS {
                if inputs.activation == Activation::Silu || shared.out.is_some() {
                    let mut pre = bias[j];
                    for k in 0..D_CONV {
                        pre = T::mul_add(s, taps[k][j], window[k][j], pre);
                    }
                    out[j] = pre;
                    if inputs.activation == Activation::Silu {
                        let (silu, silu_by_pre) = silu::<T, S>(s, pre);
                        out[j] = silu;
                        grad[j] = T::vmul(s, grad[j], silu_by_pre);
                    }
                }
                for k in 0..D_CONV {
                    pending[k][j] = T::mul_add(s, taps[k][j], grad[j], pending[k][j]);
                    grad_taps[k][j] = T::mul_add(s, window[k][j], grad[j], grad_taps[k][j]);
                }
                grad_bias[j] = T::vadd(s, grad_bias[j], grad[j]);
            }
            if let Some(to) = &shared.out {
                // SAFETY: positions have rows of their own, and each task its own sequence and channels.
                store_block(s, unsafe { to.block(row, start, width) }, &out);
            }
            self.write(s, targets[0], &pending[0]);
            for k in 0..D_CONV - 1 {
                window[k] = window[k + 1];
                pending[k] = pending[k + 1];
                targets[k] = targets[k + 1];
            }
        }
        for k in 0..D_CONV - 1 {
            if let Some(grad) = shared.grad_last_state {
                let first = (sequence * (D_CONV - 1) + k) * dims.d_inner;
                let grad = load_block(s, &grad[first..][channels.clone()]);
                for j in 0..VECTORS {
                    pending[k][j] = T::vadd(s, pending[k][j], grad[j]);
                }
            }
            self.write(s, targets[k], &pending[k]);
        }
        for k in 0..=D_CONV {
            let grad = if k < D_CONV { &grad_taps[k] } else { &grad_bias };
            // SAFETY: each task writes its own sequence and channels.
            store_block(s, unsafe { shared.partial.block(sequence * (D_CONV + 1) + k, start, width) }, grad);
        }
    }

    #[inline(always)]
    fn write<S: Simd>(&self, s: S, target: Target, grad: &Block<T, S>) {
        let shared = self.shared;
        match (target, &shared.grad_initial_state) {
            (Target::Row(row), _) => {
                // SAFETY: positions have rows of their own, and each task its own sequence and channels.
                store_block(s, unsafe { shared.grad_x.block(row, self.start, self.width) }, grad);
            }
            (Target::InitialState(k), Some(state)) => {
                let row = self.sequence * (shared.dims.d_conv - 1) + k;
                // SAFETY: each task writes its own sequence and channels.
                store_block(s, unsafe { state.block(row, self.start, self.width) }, grad);
            }
            (Target::InitialState(_), None) | (Target::Nowhere, _) => {}
        }
    }
}

/// Where the gradient of a window's input belongs.
#[derive(Debug, Clone, Copy)]
enum Target {
    Row(usize),
    InitialState(usize),
    Nowhere,
}
