//! Products of matrices through the `gemm` crate, and how the rows of all groups are handed out to threads.

use rayon::prelude::*;

use super::args::GroupedWeights;
use crate::ops::grouped_gemm::params::Into;
use crate::ops::plan::ModalityOffsets;
use crate::rows::{DisjointRows, Rows};
use crate::simd::Element;

/// Rows that one task writes a bias to, or sums its gradient over: fixed, so that the sum's order is.
pub(super) const ROWS_PER_TASK: usize = 256;

/// Below so many multiply-adds a product runs on the calling thread: handing it out costs more.
const MIN_PARALLEL: usize = 48 * 48 * 256;

/// Calls `f` with each group and its rows, the rows of all groups cut in two halves that run at once.
///
/// So two threads meet once, not once a group, and each packs the weights of its own rows alone; the `gemm` crate packs
/// a transposed weight on one thread while the others wait. The cut is the same on any number of threads, for the order
/// in which the `gemm` crate adds depends on the sizes.
pub(super) fn by_rows<T: Element>(
    groups: &ModalityOffsets,
    weights: &GroupedWeights<'_, T>,
    f: impl Fn(usize, std::ops::Range<usize>) + Sync,
) {
    let n_rows = groups.n_rows();
    let multiply_adds = n_rows * weights.in_features() * weights.out_features();
    let n_tasks = if multiply_adds < MIN_PARALLEL { 1 } else { 2 };
    (0..n_tasks).into_par_iter().for_each(|task| {
        let (start, end) = (n_rows * task / n_tasks, n_rows * (task + 1) / n_tasks);
        for group in 0..weights.n_groups() {
            let rows = groups.rows(group);
            let rows = rows.start.max(start)..rows.end.min(end);
            if !rows.is_empty() {
                f(group, rows);
            }
        }
    });
}

/// A matrix for [`product`]: `rows x columns` with strides.
#[derive(Clone, Copy)]
pub(crate) struct Operand<'a, T> {
    data: &'a [T],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a, T> Operand<'a, T> {
    pub fn rows(x: Rows<'a, T>, rows: std::ops::Range<usize>) -> Self {
        Self {
            data: x.rows_from(rows.start),
            rows: rows.len(),
            columns: x.width(),
            row_stride: x.stride(),
            column_stride: 1,
        }
    }

    pub fn plain(data: &'a [T], columns: usize) -> Self {
        Self { data, rows: data.len() / columns, columns, row_stride: columns, column_stride: 1 }
    }

    pub fn transposed(data: &'a [T], columns: usize) -> Self {
        Self::plain(data, columns).swapped()
    }

    pub fn swapped(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    /// Elements from the first to the last one that is read.
    fn span(&self) -> usize {
        if self.rows == 0 || self.columns == 0 {
            0
        } else {
            (self.rows - 1) * self.row_stride + (self.columns - 1) * self.column_stride + 1
        }
    }
}

/// `to = a b` or `to += a b` through the gemm crate.
pub(crate) fn product<T: Element>(
    to: DisjointRows<'_, T>,
    a: Operand<'_, T>,
    b: Operand<'_, T>,
    into: Into,
    threads: Threads,
) {
    let (m, n, k) = (a.rows, b.columns, a.columns);
    if m == 0 || n == 0 {
        return;
    }
    assert!(to.n_rows() == m && to.width() == n && b.rows == k);
    assert!(a.span() <= a.data.len() && b.span() <= b.data.len());
    let threads = match threads {
        _ if m * n * k < MIN_PARALLEL => 1,
        Threads::Half => rayon::current_num_threads().div_ceil(2),
        Threads::All => rayon::current_num_threads(),
    };
    let parallelism = if threads == 1 { gemm::Parallelism::None } else { gemm::Parallelism::Rayon(threads) };
    // SAFETY: the target is exclusive, as the callers split it by rows; the assertions above bound every access.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            to.as_mut_ptr(),
            1,
            to.stride() as isize,
            into == Into::Add,
            a.data.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            T::ONE,
            T::ONE,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// Threads that a product may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Threads {
    /// Its half of them, at least the calling one.
    Half,
    /// All of rayon's.
    All,
}
