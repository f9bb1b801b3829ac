//! The arguments as views of host memory, and how blocks of channels are read of them. The shapes stand in [`params`].

use crate::ops::causal_conv1d::params::{self, Dims, MAX_D_CONV};
use crate::ops::plan::SequenceLayout;
use crate::rows::{Rows, RowsMut};
use crate::simd::{Block, Element, load_block, splat_block};

/// Inputs of the convolution.
pub type ConvInputs<'a, T> = params::ConvInputs<Rows<'a, T>, &'a [T], SequenceLayout<'a>>;

/// What the backward pass writes, all overwritten.
pub type ConvGrads<'a, T> = params::ConvGrads<RowsMut<'a, T>, &'a mut [T]>;

/// Evaluates an expression with the d_conv of validated arguments as a constant:
/// `by_d_conv!(dims.d_conv, D_CONV => self.walk::<S, D_CONV>(s))`.
macro_rules! by_d_conv {
    ($d_conv:expr, $constant:ident => $call:expr) => {{
        // A larger limit asks for more arms: the last one would take it for 1.
        const { assert!($crate::ops::causal_conv1d::params::MAX_D_CONV == 4) };
        match $d_conv {
            2 => {
                const $constant: usize = 2;
                $call
            }
            3 => {
                const $constant: usize = 3;
                $call
            }
            4 => {
                const $constant: usize = 4;
                $call
            }
            _ => {
                const $constant: usize = 1;
                $call
            }
        }
    }};
}
pub(super) use by_d_conv;

impl<T: Element> ConvInputs<'_, T> {
    /// Taps and bias of a block of channels.
    #[inline(always)]
    pub(super) fn taps<S: pulp::Simd>(
        &self,
        s: S,
        dims: Dims,
        start: usize,
        width: usize,
    ) -> ([Block<T, S>; MAX_D_CONV], Block<T, S>) {
        let zero = splat_block::<T, S>(s, T::ZERO);
        let mut taps = [zero; MAX_D_CONV];
        let mut column = vec![T::ZERO; width];
        for k in 0..dims.d_conv {
            for (d, x) in column.iter_mut().enumerate() {
                *x = self.weight[(start + d) * dims.d_conv + k];
            }
            taps[k] = load_block(s, &column);
        }
        (taps, self.bias.map_or(zero, |bias| load_block(s, &bias[start..start + width])))
    }

    /// The inputs before the first position, oldest first; `window[d_conv - 1]` is left for the present.
    #[inline(always)]
    pub(super) fn window<S: pulp::Simd>(
        &self,
        s: S,
        dims: Dims,
        sequence: usize,
        start: usize,
        width: usize,
    ) -> [Block<T, S>; MAX_D_CONV] {
        let mut window = [splat_block::<T, S>(s, T::ZERO); MAX_D_CONV];
        if let Some(state) = self.initial_state {
            for k in 0..dims.d_conv - 1 {
                let row = (sequence * (dims.d_conv - 1) + k) * dims.d_inner + start;
                window[k] = load_block(s, &state[row..row + width]);
            }
        }
        window
    }
}
