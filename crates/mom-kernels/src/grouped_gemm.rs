//! Products over the contiguous rows of each modality: a linear layer with its own weights for each.
//!
//! ```text
//! y_r = x_r W_m^T + b_m               m_grouped: one product per modality, rows of m        (forward)
//! dx_r = dy_r W_m                     m_grouped                                             (backward)
//! dW_m = sum_r dy_r^T x_r             k_grouped: the sum runs over the rows of m
//! db_m = sum_r dy_r
//! ```
//!
//! Weights are `(out_features, in_features)` as PyTorch's Linear has them. The products themselves are the `gemm`
//! crate's; a modality without rows costs nothing, and its gradients are zero. **Saved for backward:** x.

use rayon::prelude::*;

use crate::error::{MAX_SIZE, Result, expect_limit, expect_presence, expect_size};
use crate::plan::ModalityOffsets;
use crate::rows::{DisjointRows, Rows, RowsMut};
use crate::simd::Element;

const OP: &str = "grouped_gemm";

/// Rows that one task sums the bias gradient over: fixed, so that the sum's order is.
const ROWS_PER_TASK: usize = 256;

/// The weights of a grouped linear layer.
#[derive(Debug, Clone)]
pub struct GroupedWeights<'a, T> {
    in_features: usize,
    out_features: usize,
    weights: Vec<&'a [T]>,
    biases: Option<Vec<&'a [T]>>,
}

impl<'a, T> GroupedWeights<'a, T> {
    /// One weight `(out_features, in_features)` for each modality, or a single one for all rows; biases
    /// `(out_features)` in the same number.
    ///
    /// # Errors
    /// Sizes that disagree, no weight or more than 256, no features.
    pub fn new(
        in_features: usize,
        out_features: usize,
        weights: Vec<&'a [T]>,
        biases: Option<Vec<&'a [T]>>,
    ) -> Result<Self> {
        expect_limit(OP, "weights", 256, weights.len())?;
        expect_limit(OP, "in_features", MAX_SIZE, in_features)?;
        expect_limit(OP, "out_features", MAX_SIZE, out_features)?;
        for weight in &weights {
            expect_size(OP, "weight", "elements", in_features * out_features, weight.len())?;
        }
        if let Some(biases) = &biases {
            expect_size(OP, "biases", "groups", weights.len(), biases.len())?;
            for bias in biases {
                expect_size(OP, "bias", "elements", out_features, bias.len())?;
            }
        }
        Ok(Self { in_features, out_features, weights, biases })
    }

    /// Features of an input row.
    pub fn in_features(&self) -> usize {
        self.in_features
    }

    /// Features of an output row.
    pub fn out_features(&self) -> usize {
        self.out_features
    }

    /// Number of weights: the number of modalities, or 1 where all share one.
    pub fn n_groups(&self) -> usize {
        self.weights.len()
    }

    /// The biases, one for each weight.
    pub fn biases(&self) -> Option<&[&'a [T]]> {
        self.biases.as_deref()
    }

    /// The same weights without their biases.
    pub fn without_biases(&self) -> Self
    where
        T: Copy,
    {
        Self { biases: None, weights: self.weights.clone(), ..*self }
    }
}

/// Gradients of the weights, all overwritten: one for each weight and bias, in their order.
#[derive(Debug)]
pub struct GroupedGrads<'a, T> {
    /// `(out_features, in_features)` each.
    pub grad_weights: Vec<&'a mut [T]>,
    /// `(out_features)` each; exactly where there are biases.
    pub grad_biases: Option<Vec<&'a mut [T]>>,
}

/// `y = x W_m^T + b_m`.
///
/// * `offsets`: rows of each modality; with a single weight any number of modalities shares it.
/// * `x`: `(n_rows, in_features)`, `y`: `(n_rows, out_features)`, overwritten.
///
/// # Errors
/// Sizes that disagree.
pub fn forward<T: Element>(
    offsets: &ModalityOffsets,
    x: Rows<'_, T>,
    weights: &GroupedWeights<'_, T>,
    y: RowsMut<'_, T>,
) -> Result<()> {
    let groups = groups(offsets, weights)?;
    x.expect(OP, "x", groups.n_rows(), weights.in_features)?;
    let y = y.disjoint();
    y.expect(OP, "y", groups.n_rows(), weights.out_features)?;
    if let Some(biases) = &weights.biases {
        (0..groups.n_rows()).into_par_iter().with_min_len(ROWS_PER_TASK).for_each(|row| {
            // SAFETY: each task writes its own row.
            unsafe { y.block(row, 0, weights.out_features) }.copy_from_slice(biases[groups.modality_of_row(row)]);
        });
    }
    let into = if weights.biases.is_some() { Into::Add } else { Into::Overwrite };
    by_rows(&groups, weights, |group, rows| {
        let part = y.row_range(rows.start, rows.len());
        let weight = Operand::transposed(weights.weights[group], weights.in_features);
        product(part, Operand::rows(x, rows), weight, into, Threads::Half);
    });
    Ok(())
}

/// `dx = dy W_m`, overwritten or added to what is there.
///
/// # Errors
/// Sizes that disagree.
pub fn backward_input<T: Element>(
    offsets: &ModalityOffsets,
    grad_y: Rows<'_, T>,
    weights: &GroupedWeights<'_, T>,
    grad_x: RowsMut<'_, T>,
    into: Into,
) -> Result<()> {
    let groups = groups(offsets, weights)?;
    grad_y.expect(OP, "grad_y", groups.n_rows(), weights.out_features)?;
    let grad_x = grad_x.disjoint();
    grad_x.expect(OP, "grad_x", groups.n_rows(), weights.in_features)?;
    by_rows(&groups, weights, |group, rows| {
        let part = grad_x.row_range(rows.start, rows.len());
        let weight = Operand::plain(weights.weights[group], weights.in_features);
        product(part, Operand::rows(grad_y, rows), weight, into, Threads::Half);
    });
    Ok(())
}

/// `dW_m = dy^T x` and `db_m = sum dy` over the rows of m.
///
/// # Errors
/// Sizes that disagree, bias gradients asked for where there are no biases or the other way round.
pub fn backward_weights<T: Element>(
    offsets: &ModalityOffsets,
    x: Rows<'_, T>,
    grad_y: Rows<'_, T>,
    weights: &GroupedWeights<'_, T>,
    grads: GroupedGrads<'_, T>,
) -> Result<()> {
    let groups = groups(offsets, weights)?;
    let (n_in, n_out) = (weights.in_features, weights.out_features);
    x.expect(OP, "x", groups.n_rows(), n_in)?;
    grad_y.expect(OP, "grad_y", groups.n_rows(), n_out)?;
    expect_size(OP, "grad_weights", "groups", weights.n_groups(), grads.grad_weights.len())?;
    expect_presence(OP, "grad_biases", weights.biases.is_some(), grads.grad_biases.is_some())?;
    for grad in &grads.grad_weights {
        expect_size(OP, "grad_weight", "elements", n_in * n_out, grad.len())?;
    }
    for grad in grads.grad_biases.iter().flatten() {
        expect_size(OP, "grad_bias", "elements", n_out, grad.len())?;
    }
    if let Some(biases) = &grads.grad_biases {
        expect_size(OP, "grad_biases", "groups", weights.n_groups(), biases.len())?;
    }
    for (group, grad) in grads.grad_weights.into_iter().enumerate() {
        let rows = groups.rows(group);
        if rows.is_empty() {
            grad.fill(T::ZERO);
            continue;
        }
        let to = RowsMut::new("grad_weight", grad, n_in)?.disjoint();
        let rhs = Operand::rows(x, rows.clone());
        product(to, Operand::rows(grad_y, rows).swapped(), rhs, Into::Overwrite, Threads::All);
    }
    for (group, grad) in grads.grad_biases.into_iter().flatten().enumerate() {
        sum_rows(grad_y, groups.rows(group), grad);
    }
    Ok(())
}

/// Whether a product overwrites its target or adds to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Into {
    /// target = product
    Overwrite,
    /// target += product
    Add,
}

/// Sums a range of rows in fixed order.
fn sum_rows<T: Element>(x: Rows<'_, T>, rows: std::ops::Range<usize>, to: &mut [T]) {
    let width = to.len();
    let n_tasks = rows.len().div_ceil(ROWS_PER_TASK);
    let mut partial = vec![T::ZERO; n_tasks * width];
    partial.par_chunks_exact_mut(width).enumerate().for_each(|(task, partial)| {
        let start = rows.start + task * ROWS_PER_TASK;
        for row in start..(start + ROWS_PER_TASK).min(rows.end) {
            for (sum, &x) in partial.iter_mut().zip(x.row(row)) {
                *sum += x;
            }
        }
    });
    to.fill(T::ZERO);
    for partial in partial.chunks_exact(width) {
        for (to, &from) in to.iter_mut().zip(partial) {
            *to += from;
        }
    }
}

/// Calls `f` with each group and its rows, the rows of all groups cut in two halves that run at once.
///
/// So two threads meet once, not once a group, and each packs the weights of its own rows alone; the `gemm` crate packs
/// a transposed weight on one thread while the others wait. The cut is the same on any number of threads, for the order
/// in which the `gemm` crate adds depends on the sizes.
fn by_rows<T: Element>(
    groups: &ModalityOffsets,
    weights: &GroupedWeights<'_, T>,
    f: impl Fn(usize, std::ops::Range<usize>) + Sync,
) {
    let n_rows = groups.n_rows();
    let multiply_adds = n_rows * weights.in_features * weights.out_features;
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

/// The offsets that fit the weights: the modalities', or one group over all rows.
fn groups<T>(offsets: &ModalityOffsets, weights: &GroupedWeights<'_, T>) -> Result<ModalityOffsets> {
    if weights.n_groups() == 1 {
        return Ok(ModalityOffsets::single(offsets.n_rows()));
    }
    expect_size(OP, "weights", "groups", offsets.n_modalities(), weights.n_groups())?;
    Ok(offsets.clone())
}

/// A matrix for [`product`]: `rows x columns` with strides.
#[derive(Clone, Copy)]
struct Operand<'a, T> {
    data: &'a [T],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a, T> Operand<'a, T> {
    fn rows(x: Rows<'a, T>, rows: std::ops::Range<usize>) -> Self {
        Self {
            data: x.rows_from(rows.start),
            rows: rows.len(),
            columns: x.width(),
            row_stride: x.stride(),
            column_stride: 1,
        }
    }

    fn plain(data: &'a [T], columns: usize) -> Self {
        Self { data, rows: data.len() / columns, columns, row_stride: columns, column_stride: 1 }
    }

    fn transposed(data: &'a [T], columns: usize) -> Self {
        Self::plain(data, columns).swapped()
    }

    fn swapped(self) -> Self {
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
fn product<T: Element>(to: DisjointRows<'_, T>, a: Operand<'_, T>, b: Operand<'_, T>, into: Into, threads: Threads) {
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
enum Threads {
    /// Its half of them, at least the calling one.
    Half,
    /// All of rayon's.
    All,
}

/// Below so many multiply-adds a product runs on the calling thread: handing it out costs more.
const MIN_PARALLEL: usize = 48 * 48 * 256;
