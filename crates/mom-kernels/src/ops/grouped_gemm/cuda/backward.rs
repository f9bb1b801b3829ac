//! Gradients of the input and of the weights.

use super::args::{GroupedGrads, GroupedWeights, groups};
use super::engine::{k_grouped, m_grouped, partial_len};
use super::product::{C, Direction, RowsProduct};
use crate::error::expect_size;
use crate::ops::column_sums::{self, column_sums};
use crate::ops::grouped_gemm::params::{Into, OP};
use crate::ops::plan::cuda::DeviceOffsets;
use crate::runtime::{CudaError, DeviceElement, DeviceMut, DeviceRows, DeviceRowsMut, Dtype, Gpu, Result};

/// `dx = dy W_m`, overwritten or added to what is there.
///
/// # Errors
/// Sizes that disagree, 2^31 rows or more, a refused launch.
pub fn backward_input<T: DeviceElement>(
    gpu: &Gpu,
    offsets: &DeviceOffsets<'_>,
    grad_y: &DeviceRows<'_, T>,
    weights: &GroupedWeights<'_, T>,
    grad_x: DeviceRowsMut<'_, T>,
    into: Into,
) -> Result<()> {
    let groups = groups(offsets, weights)?;
    weights.validate_backward_input(groups.n_rows(), grad_y, &grad_x)?;
    let c = match into {
        Into::Overwrite => C::None,
        Into::Add => C::Output,
    };
    m_grouped(gpu, &RowsProduct { direction: Direction::Input, groups: &groups, x: grad_y, weights, c }, grad_x)
}

/// f32 elements of the workspace of [`backward_weights`].
pub fn backward_weights_workspace_len<T: DeviceElement>(n_rows: usize, weights: &GroupedWeights<'_, T>) -> usize {
    let biases = if weights.has_biases() {
        column_sums::workspace_len(n_rows, weights.n_groups(), weights.out_features())
    } else {
        0
    };
    partial_len(n_rows, weights) + biases
}

/// `dW_m = dy^T x` and `db_m = sum dy` over the rows of m; of the activations' type or f32.
///
/// * `workspace`: [`backward_weights_workspace_len`] elements, whose contents mean nothing before and after.
///
/// # Errors
/// Sizes that disagree, gradients of another 16-bit type than the activations', bias gradients asked for where there are no
/// biases or the other way round, 2^31 rows or more, a refused launch.
pub fn backward_weights<T: DeviceElement, G: DeviceElement>(
    gpu: &Gpu,
    offsets: &DeviceOffsets<'_>,
    x: &DeviceRows<'_, T>,
    grad_y: &DeviceRows<'_, T>,
    weights: &GroupedWeights<'_, T>,
    mut grads: GroupedGrads<'_, G>,
    workspace: DeviceMut<'_, f32>,
) -> Result<()> {
    let groups = groups(offsets, weights)?;
    let n_rows = groups.n_rows();
    weights.validate_backward_weights(n_rows, x, grad_y, &grads)?;
    if G::DTYPE != T::DTYPE && G::DTYPE != Dtype::F32 {
        return Err(CudaError::Dtype { op: OP, arg: "grad_weights", expected: T::DTYPE.name(), got: G::DTYPE.name() });
    }
    if grads.grad_biases.is_some() {
        column_sums::expect_rows(n_rows)?;
    }
    let expected = backward_weights_workspace_len(n_rows, weights);
    expect_size(OP, "workspace", "elements", expected, workspace.len())?;

    let (partial, rest) = workspace.split_at("workspace", partial_len(n_rows, weights))?;
    k_grouped(gpu, &groups, (x, grad_y), weights, &mut grads.grad_weights, &partial)?;
    match grads.grad_biases {
        Some(sums) => column_sums(gpu, &groups, grad_y, sums, rest),
        None => Ok(()),
    }
}
