//! What crosses the borders of a chunk: the conv's window, the scan's state, and their gradients.

use crate::error::{Error, Result, expect_size};
use crate::ops::causal_conv1d::{self, ConvGrads, ConvInputs};
use crate::ops::mixer::params::OP;
use crate::ops::plan::{Context, ModalityPlan, SequenceLayout};
use crate::ops::selective_scan::{self, ScanInputs};
use crate::rows::{Rows, RowsMut};
use crate::simd::Element;

/// A chunk among the others of its sequences.
#[derive(Clone, Copy)]
pub(super) struct Borders<'a> {
    context: &'a dyn Context,
    plan: &'a ModalityPlan,
    /// Positions of a window, d_conv - 1.
    window: usize,
}

impl<'a> Borders<'a> {
    /// # Errors
    /// A chunk that is shorter than a window.
    pub fn new(context: &'a dyn Context, plan: &'a ModalityPlan, d_conv: usize) -> Result<Self> {
        let (window, got) = (d_conv - 1, plan.seqlen());
        if got < window {
            return Err(Error::Limit { op: OP, arg: "seqlen of a chunk", min: window, max: usize::MAX, got });
        }
        Ok(Self { context, plan, window })
    }

    /// The inputs of the conv before this chunk, `(batch, d_conv - 1, d_inner)`; `x` are those of this one.
    pub fn window<T: Element>(&self, x: Rows<'_, T>) -> Result<Vec<T>> {
        if self.window == 0 {
            return Ok(Vec::new());
        }
        let (seqlen, layout) = (self.plan.seqlen(), self.plan.layout());
        let mut own = self.rows(x, seqlen - self.window);
        for (i, row) in own.chunks_exact_mut(x.width()).enumerate() {
            let (sequence, k) = (i / self.window, i % self.window);
            let behind = seqlen - self.window + k + 1..seqlen;
            if behind.into_iter().any(|t| layout.starts_document(sequence * seqlen + t)) {
                row.fill(T::ZERO);
            }
        }
        let of_all = self.gather(&[&own])?;
        Ok(self.of(&of_all, self.context.index().checked_sub(1), own.len()))
    }

    /// The gradient that comes to the last inputs of this chunk from the one behind it, `(batch, d_conv - 1, d_inner)`. `conv`
    /// starts from [`Self::window`]; `grad_u` is the gradient of its output.
    pub fn window_gradient<T: Element>(&self, conv: &ConvInputs<'_, T>, grad_u: Rows<'_, T>) -> Result<Vec<T>> {
        let (batch, d_inner) = (self.plan.batch(), conv.x.width());
        let len = batch * self.window * d_inner;
        if self.window == 0 {
            return Ok(Vec::new());
        }
        // That of this chunk's own window depends on its first positions alone.
        let (x, grad) = (self.rows(conv.x, 0), self.rows(grad_u, 0));
        let starts = self.plan.document_starts().map(|starts| {
            let of_sequence = |sequence| &starts[sequence * self.plan.seqlen()..][..self.window];
            (0..batch).flat_map(of_sequence).copied().collect::<Vec<_>>()
        });
        let layout = SequenceLayout::contiguous(batch, self.window, starts.as_deref())?;
        let first = ConvInputs { layout, x: Rows::new("x", &x, d_inner)?, ..*conv };
        let (mut own, mut unused) = (vec![T::ZERO; len], vec![T::ZERO; len]);
        let (mut taps, mut bias) = (vec![T::ZERO; conv.weight.len()], vec![T::ZERO; d_inner]);
        let grads = ConvGrads::new(RowsMut::new("grad_x", &mut unused, d_inner)?, &mut taps[..])
            .with_grad_bias(conv.bias.map(|_| &mut bias[..]))
            .with_grad_initial_state(&mut own[..]);
        causal_conv1d::backward(&first, Rows::new("grad_u", &grad, d_inner)?, None, grads)?;
        let of_all = self.gather(&[&own])?;
        let behind = self.context.index() + 1;
        Ok(self.of(&of_all, Some(behind).filter(|&behind| behind < self.context.n_chunks()), len))
    }

    /// The scan's state before this chunk, `(batch, d_inner, d_state)`.
    pub fn state<T: Element>(&self, inputs: &ScanInputs<'_, T>) -> Result<Vec<T>> {
        let len = self.plan.batch() * inputs.a.len();
        let (mut decay, mut end) = (vec![T::ZERO; len], vec![T::ZERO; len]);
        selective_scan::ends(inputs, &mut decay, &mut end)?;
        self.carried(&decay, &end, 0..self.context.index())
    }

    /// The gradient of the scan's state behind this chunk, `(batch, d_inner, d_state)`; `grad_y` is that of its output.
    pub fn state_gradient<T: Element>(&self, inputs: &ScanInputs<'_, T>, grad_y: Rows<'_, T>) -> Result<Vec<T>> {
        let len = self.plan.batch() * inputs.a.len();
        let (mut decay, mut end) = (vec![T::ZERO; len], vec![T::ZERO; len]);
        selective_scan::adjoint_ends(inputs, grad_y, &mut decay, &mut end)?;
        self.carried(&decay, &end, (self.context.index() + 1..self.context.n_chunks()).rev())
    }

    /// What goes through these chunks, in this order, from zero.
    fn carried<T: Element>(&self, decay: &[T], end: &[T], chunks: impl Iterator<Item = usize>) -> Result<Vec<T>> {
        let len = decay.len();
        let of_all = self.gather(&[decay, end])?;
        let mut state = vec![T::ZERO; len];
        for chunk in chunks {
            let (decay, end) = of_all[chunk * 2 * len..][..2 * len].split_at(len);
            selective_scan::carry(&mut state, decay, end)?;
        }
        Ok(state)
    }

    /// As many rows of each sequence as a window has, from position `first` on, by position.
    fn rows<T: Element>(&self, x: Rows<'_, T>, first: usize) -> Vec<T> {
        let (plan, layout) = (self.plan, self.plan.layout());
        let positions = (0..plan.batch()).flat_map(|sequence| {
            let start = sequence * plan.seqlen() + first;
            start..start + self.window
        });
        positions.flat_map(|position| x.row(layout.row(position))).copied().collect()
    }

    fn gather<T: Element>(&self, own: &[&[T]]) -> Result<Vec<T>> {
        let own: Vec<f64> = own.iter().flat_map(|part| part.iter().map(|value| value.to_f64())).collect();
        let of_all = self.context.gather(&own)?;
        expect_size(OP, "what chunks say", "values", own.len() * self.context.n_chunks(), of_all.len())?;
        Ok(of_all.into_iter().map(T::from_f64).collect())
    }

    /// What a chunk has said; zero where there is none.
    fn of<T: Element>(&self, of_all: &[T], chunk: Option<usize>, len: usize) -> Vec<T> {
        chunk.map_or_else(|| vec![T::ZERO; len], |chunk| of_all[chunk * len..][..len].to_vec())
    }
}
