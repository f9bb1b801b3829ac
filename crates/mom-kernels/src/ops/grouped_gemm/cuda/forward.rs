//! Rows times the weight of their modality, perhaps onto a residual.

use super::args::{GroupedWeights, groups};
use super::engine::m_grouped;
use super::product::{C, Direction, RowsProduct};
use crate::ops::grouped_gemm::params::OP;
use crate::ops::plan::cuda::DeviceOffsets;
use crate::runtime::{DeviceElement, DeviceRows, DeviceRowsMut, Gpu, Result};

/// `y = x W_m^T + b_m`.
///
/// * `offsets`: rows of each modality; with a single weight any number of modalities shares it.
/// * `x`: `(n_rows, in_features)`, `y`: `(n_rows, out_features)`, overwritten.
///
/// # Errors
/// Sizes that disagree, 2^31 rows or more, a refused launch.
pub fn forward<T: DeviceElement>(
    gpu: &Gpu,
    offsets: &DeviceOffsets<'_>,
    x: &DeviceRows<'_, T>,
    weights: &GroupedWeights<'_, T>,
    y: DeviceRowsMut<'_, T>,
) -> Result<()> {
    forward_add(gpu, offsets, x, weights, None, y)
}

/// `y = residual + x W_m^T + b_m`, in one pass over the residual; without one as [`super::forward`].
///
/// * `residual`: `(n_rows, out_features)`.
///
/// # Errors
/// As [`super::forward`].
pub fn forward_add<T: DeviceElement>(
    gpu: &Gpu,
    offsets: &DeviceOffsets<'_>,
    x: &DeviceRows<'_, T>,
    weights: &GroupedWeights<'_, T>,
    residual: Option<&DeviceRows<'_, T>>,
    y: DeviceRowsMut<'_, T>,
) -> Result<()> {
    let groups = groups(offsets, weights)?;
    weights.validate_forward(groups.n_rows(), x, &y)?;
    if let Some(residual) = residual {
        residual.expect(OP, "residual", groups.n_rows(), weights.out_features())?;
    }
    let c = residual.map_or(C::None, C::Rows);
    m_grouped(gpu, &RowsProduct { direction: Direction::Forward, groups: &groups, x, weights, c }, y)
}
