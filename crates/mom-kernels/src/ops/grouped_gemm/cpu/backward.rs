//! Gradients of the input and of the weights.

use rayon::prelude::*;

use super::args::{GroupedGrads, GroupedWeights};
use super::product::{Operand, ROWS_PER_TASK, Threads, by_rows, product};
use crate::error::Result;
use crate::ops::grouped_gemm::params::Into;
use crate::ops::plan::ModalityOffsets;
use crate::rows::{Rows, RowsMut};
use crate::simd::Element;

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
    let groups = weights.groups(offsets, ModalityOffsets::single)?;
    weights.validate_backward_input(groups.n_rows(), &grad_y, &grad_x)?;
    let grad_x = grad_x.disjoint();
    by_rows(&groups, weights, |group, rows| {
        let part = grad_x.row_range(rows.start, rows.len());
        let weight = Operand::plain(weights.weights()[group], weights.in_features());
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
    let groups = weights.groups(offsets, ModalityOffsets::single)?;
    weights.validate_backward_weights(groups.n_rows(), &x, &grad_y, &grads)?;
    let n_in = weights.in_features();
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
