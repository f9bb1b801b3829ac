//! Who computes a product: the kernels for compute capability 9.0, cuBLASLt, or the portable kernels.

use super::args::{GroupedWeights, groups};
use super::product::RowsProduct;
use super::{cublaslt, portable, select, sm90};
use crate::ops::plan::cuda::DeviceOffsets;
use crate::runtime::{DeviceElement, DeviceMut, DeviceRows, DeviceRowsMut, Dtype, Gpu, Result};

/// Who computes the products of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// One launch of this crate's kernel, which finds the modalities' rows on the device.
    Kernel,
    /// cuBLASLt, one launch for each modality that has rows.
    Library,
}

/// The products of a grouped linear layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Product {
    /// [`forward`](super::forward).
    Forward,
    /// [`backward_input`](super::backward_input).
    BackwardInput,
    /// [`backward_weights`](super::backward_weights).
    BackwardWeights,
}

/// Who computes a product of these weights: the library where it is loaded, the host knows the offsets, there are no
/// biases and both widths are at least 512; else the kernel.
///
/// The kernel for compute capability 9.0 comes before the library for several modalities: for the gradients of their
/// weights, and for outputs of at least 132 tiles of 128 rows by 256 columns, one for each multiprocessor. (f32, rows that
/// are not aligned to 16 bytes and, of the latter, more than 16 modalities are not for it.)
///
/// # Errors
/// Numbers of modalities that disagree, 2^31 rows or more.
pub fn engine<T: DeviceElement>(
    gpu: &Gpu,
    offsets: &DeviceOffsets<'_>,
    weights: &GroupedWeights<'_, T>,
    product: Product,
) -> Result<Engine> {
    let groups = groups(offsets, weights)?;
    let (n_in, n_out) = (weights.in_features(), weights.out_features());
    let is_faster = |n_columns: usize| sm90::is_faster(groups.n_rows(), weights.n_groups(), n_columns);
    let faster = match product {
        Product::Forward => is_faster(n_out) && sm90::takes_weights(gpu, weights),
        Product::BackwardInput => is_faster(n_in) && sm90::takes_weights(gpu, weights),
        Product::BackwardWeights => weights.n_groups() > 1 && sm90::takes_elements::<T>(gpu),
    };
    let library = cublaslt::takes(gpu, &groups, weights).filter(|_| !faster);
    Ok(if library.is_some() { Engine::Library } else { Engine::Kernel })
}

/// Rows times the weight of their modality; the callers have checked the shapes.
pub(super) fn m_grouped<T: DeviceElement>(
    gpu: &Gpu,
    product: &RowsProduct<'_, '_, T>,
    y: DeviceRowsMut<'_, T>,
) -> Result<()> {
    let (groups, weights) = (product.groups, product.weights);
    if groups.n_rows() == 0 {
        return Ok(());
    }
    let takes = sm90::takes(gpu, product, &y);
    let faster = takes && sm90::is_faster(groups.n_rows(), weights.n_groups(), y.width());
    match cublaslt::takes(gpu, groups, weights).filter(|_| !faster) {
        Some(products) => cublaslt::m_grouped(gpu, products, product, &y),
        None if takes => sm90::m_grouped(gpu, product, &y),
        None => portable::m_grouped(gpu, product, y),
    }
}

/// f32 elements of partial sums, whoever makes them.
pub(super) fn partial_len<T: DeviceElement>(n_rows: usize, weights: &GroupedWeights<'_, T>) -> usize {
    /// What the library, where it cuts a sum as the kernel does, wants beside the partial sums.
    const COUNTERS: usize = 64;
    let (n_in, n_out, n_groups) = (weights.in_features(), weights.out_features(), weights.n_groups());
    let portable = select::most_partial_len(T::DTYPE, n_rows, n_groups, n_in, n_out);
    let sm90 = match T::DTYPE {
        Dtype::Bf16 | Dtype::F16 => sm90::split(n_rows, n_groups, n_in, n_out).partial_len(n_groups),
        Dtype::F32 => 0,
    };
    match portable.max(sm90) {
        0 => 0,
        len => len + COUNTERS,
    }
}

/// Sums over the rows of each modality, zero without any; the callers have checked the shapes.
pub(super) fn k_grouped<T: DeviceElement, G: DeviceElement>(
    gpu: &Gpu,
    groups: &DeviceOffsets<'_>,
    (x, grad_y): (&DeviceRows<'_, T>, &DeviceRows<'_, T>),
    weights: &GroupedWeights<'_, T>,
    grads: &mut [DeviceMut<'_, G>],
    partial: &DeviceMut<'_, f32>,
) -> Result<()> {
    if groups.n_rows() == 0 {
        return grads.iter_mut().try_for_each(|grad| gpu.zero(grad));
    }
    let takes = sm90::takes_sum(gpu, x, grad_y, partial);
    // Sums are cut so that they fill the card.
    let faster = takes && weights.n_groups() > 1;
    match cublaslt::takes(gpu, groups, weights).filter(|_| !faster) {
        Some(products) => cublaslt::k_grouped(gpu, products, x, grad_y, grads, partial),
        None if takes => sm90::k_grouped(gpu, groups, x, grad_y, grads, partial),
        None => portable::k_grouped(gpu, groups, x, grad_y, grads, partial),
    }
}
