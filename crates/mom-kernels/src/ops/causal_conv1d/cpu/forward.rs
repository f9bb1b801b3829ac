//! Forward pass: the window of the last inputs stays in registers while a task walks time.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::args::{ConvInputs, by_d_conv};
use crate::error::Result;
use crate::ops::causal_conv1d::params::{Activation, Dims, MAX_D_CONV, OP};
use crate::rows::{DisjointRows, RowsMut};
use crate::shape::expect_matrix;
use crate::simd::{self, Element, VECTORS, load_block, silu, splat_block, store_block};

/// Convolves; see the module for the equation and [`ConvInputs`] for shapes.
///
/// * `out`: `(n_rows, d_inner)`.
/// * `last_state`: `(batch, d_conv - 1, d_inner)`, the inputs that the next position's window holds, oldest first (zero
///   where they lie before a document's start).
///
/// # Errors
/// Sizes that disagree, d_inner 0, d_conv 0 or above [`MAX_D_CONV`]. Nothing is written then.
pub fn forward<T: Element>(
    inputs: &ConvInputs<'_, T>,
    out: RowsMut<'_, T>,
    last_state: Option<&mut [T]>,
) -> Result<()> {
    let dims = inputs.validate()?;
    expect_matrix(OP, "out", dims.channels(), &out)?;
    dims.expect_state("last_state", last_state.as_ref())?;
    let out = out.disjoint();
    let last_state = match last_state {
        Some(state) => Some(RowsMut::new("last_state", state, dims.d_inner)?.disjoint()),
        None => None,
    };
    let channels = simd::block_channels::<T>();
    let n_blocks = dims.d_inner.div_ceil(channels);
    (0..dims.batch * n_blocks).into_par_iter().for_each(|task| {
        let (sequence, start) = (task / n_blocks, task % n_blocks * channels);
        let width = channels.min(dims.d_inner - start);
        simd::dispatch(Task { inputs, dims, out, last_state, sequence, start, width });
    });
    Ok(())
}

struct Task<'a, T> {
    inputs: &'a ConvInputs<'a, T>,
    dims: Dims,
    out: DisjointRows<'a, T>,
    last_state: Option<DisjointRows<'a, T>>,
    sequence: usize,
    start: usize,
    width: usize,
}

impl<T: Element> WithSimd for Task<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        by_d_conv!(self.dims.d_conv, D_CONV => self.walk::<S, D_CONV>(s))
    }
}

impl<T: Element> Task<'_, T> {
    #[inline(always)]
    fn walk<S: Simd, const D_CONV: usize>(self, s: S) {
        let Self { inputs, dims, sequence, start, width, .. } = self;
        let (taps, bias) = inputs.taps(s, dims, start, width);
        let mut window = inputs.window(s, dims, sequence, start, width);
        for t in 0..dims.seqlen {
            let position = sequence * dims.seqlen + t;
            let row = inputs.layout.row(position);
            if inputs.layout.starts_document(position) {
                window = [splat_block::<T, S>(s, T::ZERO); MAX_D_CONV];
            }
            window[D_CONV - 1] = load_block(s, &inputs.x.row(row)[start..start + width]);
            let mut out = bias;
            for j in 0..VECTORS {
                for k in 0..D_CONV {
                    out[j] = T::mul_add(s, taps[k][j], window[k][j], out[j]);
                }
                if inputs.activation == Activation::Silu {
                    out[j] = silu::<T, S>(s, out[j]).0;
                }
            }
            // SAFETY: positions have rows of their own, and each task its own sequence and channels.
            store_block(s, unsafe { self.out.block(row, start, width) }, &out);
            for k in 0..D_CONV - 1 {
                window[k] = window[k + 1];
            }
        }
        if let Some(last_state) = self.last_state {
            for k in 0..D_CONV - 1 {
                // SAFETY: each task writes its own sequence and channels.
                let to = unsafe { last_state.block(sequence * (D_CONV - 1) + k, start, width) };
                store_block(s, to, &window[k]);
            }
        }
    }
}
