//! A head of a document: its rows side by side, and the tiles of its scores.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::args::AttentionInputs;
use crate::error::Result;
use crate::ops::attention::params::Dims;
use crate::ops::grouped_gemm::cpu::product::{Operand, Threads, product};
use crate::ops::grouped_gemm::params::Into;
use crate::rows::{DisjointRows, Rows, RowsMut};
use crate::simd::{self, Element};

/// Queries and keys of a tile.
pub(super) const TILE: usize = 64;

/// A head of a document.
#[derive(Debug, Clone)]
pub(super) struct Head {
    pub sequence: usize,
    pub head: usize,
    /// Positions of the sequence.
    pub document: Range<usize>,
}

impl Head {
    /// All of them, in an order that nothing depends on.
    pub fn all<T>(inputs: &AttentionInputs<'_, T>, dims: Dims) -> Vec<Self> {
        let documents = (0..dims.batch).flat_map(|s| inputs.mask.documents(s).map(move |document| (s, document)));
        let heads = |(sequence, document): (usize, Range<usize>)| {
            (0..dims.n_heads).map(move |head| Self { sequence, head, document: document.clone() })
        };
        documents.flat_map(heads).collect()
    }

    /// Flat position of a place in the document.
    pub fn position(&self, dims: Dims, t: usize) -> usize {
        self.sequence * dims.seqlen + self.document.start + t
    }

    /// Places in the document of the keys that a query there meets.
    pub fn keys<T>(&self, inputs: &AttentionInputs<'_, T>, dims: Dims, t: usize) -> Range<usize> {
        let keys = inputs.mask.keys(self.position(dims, t));
        keys.start - self.document.start..keys.end - self.document.start
    }

    /// Places in the document of the queries that meet a key there.
    pub fn queries<T>(&self, inputs: &AttentionInputs<'_, T>, dims: Dims, t: usize) -> Range<usize> {
        let queries = inputs.mask.queries(self.position(dims, t));
        queries.start - self.document.start..queries.end - self.document.start
    }

    /// The head's columns of the document's rows, side by side: `(document.len(), head_dim)`.
    pub fn gather<T: Element>(&self, inputs: &AttentionInputs<'_, T>, dims: Dims, from: Rows<'_, T>) -> Vec<T> {
        let columns = self.head * dims.head_dim..(self.head + 1) * dims.head_dim;
        let mut to = Vec::with_capacity(self.document.len() * dims.head_dim);
        for t in 0..self.document.len() {
            to.extend_from_slice(&from.row(inputs.layout.row(self.position(dims, t)))[columns.clone()]);
        }
        to
    }

    /// Brings what [`Self::gather`] would read to its rows.
    pub fn scatter<T: Element>(
        &self,
        inputs: &AttentionInputs<'_, T>,
        dims: Dims,
        from: &[T],
        first: usize,
        to: DisjointRows<'_, T>,
    ) {
        for (t, from) in from.chunks_exact(dims.head_dim).enumerate() {
            let row = inputs.layout.row(self.position(dims, first + t));
            // SAFETY: rows are a permutation of positions, and a task has a head of a document for itself.
            unsafe { to.block(row, self.head * dims.head_dim, dims.head_dim) }.copy_from_slice(from);
        }
    }
}

/// `to (+)= a b^T`, `(m, n) = (m, d) (n, d)`.
pub(super) fn along_features<T: Element>(to: &mut [T], a: &[T], b: &[T], d: usize) -> Result<()> {
    let to = RowsMut::new("scores", to, b.len() / d)?.disjoint();
    product(to, Operand::plain(a, d), Operand::transposed(b, d), Into::Overwrite, Threads::Half);
    Ok(())
}

/// `to += a b`, `(m, d) += (m, n) (n, d)`.
pub(super) fn weigh<T: Element>(to: &mut [T], a: &[T], n: usize, b: &[T], d: usize) -> Result<()> {
    let to = RowsMut::new("sums", to, d)?.disjoint();
    product(to, Operand::plain(a, n), Operand::plain(b, d), Into::Add, Threads::Half);
    Ok(())
}

/// `to += a^T b`, `(n, d) += (m, n)^T (m, d)`.
pub(super) fn weigh_transposed<T: Element>(to: &mut [T], a: &[T], n: usize, b: &[T], d: usize) -> Result<()> {
    let to = RowsMut::new("sums", to, d)?.disjoint();
    product(to, Operand::plain(a, n).swapped(), Operand::plain(b, d), Into::Add, Threads::Half);
    Ok(())
}

/// `x = exp(scale x - shift)`; gives the sum.
pub(super) struct Exponentials<'a, T> {
    pub x: &'a mut [T],
    pub scale: T,
    pub shift: T,
}

impl<T: Element> WithSimd for Exponentials<'_, T> {
    type Output = T;

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) -> T {
        let (scale, shift) = (T::splat(s, self.scale), T::splat(s, T::from_f64(-self.shift.to_f64())));
        let lanes = T::lanes::<S>();
        let (whole, rest) = self.x.split_at_mut(self.x.len() / lanes * lanes);
        let mut sum = T::splat(s, T::ZERO);
        for part in whole.chunks_exact_mut(lanes) {
            let e = T::exp(s, T::mul_add(s, T::load(s, part), scale, shift));
            T::store(s, part, e);
            sum = T::vadd(s, sum, e);
        }
        let mut total = T::vsum(s, sum);
        if !rest.is_empty() {
            // What a load fills up with is not part of the sum.
            let e = T::exp(s, T::mul_add(s, T::load(s, rest), scale, shift));
            T::store(s, rest, e);
            for &x in rest.iter() {
                total += x;
            }
        }
        total
    }
}

pub(super) fn exponentials<T: Element>(x: &mut [T], scale: T, shift: T) -> T {
    simd::dispatch(Exponentials { x, scale, shift })
}

/// The part of a row of a tile that its query meets: `keys` within the tile that begins at `first` and has `n` keys.
pub(super) fn met(keys: &Range<usize>, first: usize, n: usize) -> Range<usize> {
    let clamp = |key: usize| key.saturating_sub(first).min(n);
    clamp(keys.start)..clamp(keys.end)
}
