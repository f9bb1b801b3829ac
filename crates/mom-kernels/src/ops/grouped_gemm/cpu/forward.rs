//! Rows times the weight of their modality.

use rayon::prelude::*;

use super::args::GroupedWeights;
use super::product::{Operand, ROWS_PER_TASK, Threads, by_rows, product};
use crate::error::Result;
use crate::ops::grouped_gemm::params::Into;
use crate::ops::plan::ModalityOffsets;
use crate::rows::{Rows, RowsMut};
use crate::simd::Element;

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
    let groups = weights.groups(offsets, ModalityOffsets::single)?;
    weights.validate_forward(groups.n_rows(), &x, &y)?;
    let y = y.disjoint();
    let biases = weights.biases();
    if let Some(biases) = biases {
        (0..groups.n_rows()).into_par_iter().with_min_len(ROWS_PER_TASK).for_each(|row| {
            // SAFETY: each task writes its own row.
            unsafe { y.block(row, 0, weights.out_features()) }.copy_from_slice(biases[groups.modality_of_row(row)]);
        });
    }
    let into = if biases.is_some() { Into::Add } else { Into::Overwrite };
    by_rows(&groups, weights, |group, rows| {
        let part = y.row_range(rows.start, rows.len());
        let weight = Operand::transposed(weights.weights()[group], weights.in_features());
        product(part, Operand::rows(x, rows), weight, into, Threads::Half);
    });
    Ok(())
}
