//! The forward pass onto a residual.

use super::forward::{Addend, Direction, m_grouped};
use super::params::{GroupedWeights, OP, groups};
use crate::cuda::error::Result;
use crate::cuda::memory::{DeviceElement, DeviceRows, DeviceRowsMut};
use crate::cuda::{DeviceOffsets, Gpu};

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
    x.expect(OP, "x", groups.n_rows(), weights.in_features())?;
    y.expect(OP, "y", groups.n_rows(), weights.out_features())?;
    if let Some(residual) = residual {
        residual.expect(OP, "residual", groups.n_rows(), weights.out_features())?;
    }
    let addend = residual.map_or(Addend::None, Addend::Rows);
    m_grouped(gpu, Direction::Forward, &groups, x, weights, y, addend)
}
