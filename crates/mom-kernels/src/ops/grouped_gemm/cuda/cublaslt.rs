//! The same products by cuBLASLt, one for each modality that has rows.

use std::ops::Range;

use super::args::GroupedWeights;
use super::product::{C, Direction, RowsProduct};
use crate::ops::plan::cuda::DeviceOffsets;
use crate::runtime::cublaslt::{Library, RawAddend, RawFactor, RawOutput, RawProduct, RawWorkspace};
use crate::runtime::{DeviceElement, DeviceMut, DeviceRows, DeviceRowsMut, Gpu, Result};

/// Features in and out from which on a product of the library for each modality is faster than one launch of the own
/// kernel: in_proj and out_proj, not x_proj and dt_proj. docs/kernels.md has the figures.
const MIN_FEATURES: usize = 512;

/// The library, and the rows of each modality.
pub(super) type Products<'g> = (&'g Library, Vec<Range<usize>>);

/// The library and the rows of each modality, for products that go to it: it is loaded, the host knows the offsets, there
/// are no biases to add and both widths are large.
pub(super) fn takes<'g, T: DeviceElement>(
    gpu: &'g Gpu,
    groups: &DeviceOffsets<'_>,
    weights: &GroupedWeights<'_, T>,
) -> Option<Products<'g>> {
    let wide = weights.in_features().min(weights.out_features()) >= MIN_FEATURES && !weights.has_biases();
    let library = gpu.library().filter(|_| wide)?;
    Some((library, groups.on_host()?))
}

/// Rows `m` of `x` times the weight of `m`; the callers have checked the shapes.
pub(super) fn m_grouped<T: DeviceElement>(
    gpu: &Gpu,
    (library, groups): Products<'_>,
    product: &RowsProduct<'_, '_, T>,
    y: &DeviceRowsMut<'_, T>,
) -> Result<()> {
    let RowsProduct { direction, x, weights, c, .. } = product;
    let (from, to) = (x.address(gpu)?, y.address(gpu)?);
    let added = match c {
        C::Rows(of) => Some((of.address(gpu)?, of.stride())),
        C::None | C::Output => None,
    };
    let groups = groups.into_iter().zip(weights.addresses(gpu)?).filter(|(rows, _)| !rows.is_empty());
    let products = groups.map(|(rows, weight)| RawProduct {
        dtype: T::DTYPE,
        m: rows.len(),
        n: y.width(),
        k: x.width(),
        a: RawFactor { at: row::<T>(from, x.stride(), rows.start), stride: x.stride(), transposed: false },
        b: RawFactor { at: weight, stride: weights.in_features(), transposed: *direction == Direction::Forward },
        y: RawOutput { at: row::<T>(to, y.stride(), rows.start), stride: y.stride(), dtype: T::DTYPE },
        addend: added.map(|(at, stride)| RawAddend { at: row::<T>(at, stride, rows.start), stride }),
        bias: None,
        alpha: 1.0,
        beta: if matches!(c, C::None) { 0.0 } else { 1.0 },
        workspace: None,
    });
    // SAFETY: x, y and the addend have the rows of every modality, the weight `out_features` rows of `in_features`, as the callers and
    // `GroupedWeights::new` have checked; y is borrowed exclusively, and each product has rows of it to itself.
    unsafe { library.products(gpu, &products.collect::<Vec<_>>()) }
}

/// `dW_m = dy^T x`, zero for a modality without rows; the caller has checked the shapes and the gradients' type. `partial`
/// is the kernel's memory for partial sums, which the library uses for its own.
pub(super) fn k_grouped<T: DeviceElement, G: DeviceElement>(
    gpu: &Gpu,
    (library, groups): Products<'_>,
    x: &DeviceRows<'_, T>,
    grad_y: &DeviceRows<'_, T>,
    grad_weights: &mut [DeviceMut<'_, G>],
    partial: &DeviceMut<'_, f32>,
) -> Result<()> {
    let (from, of_y) = (x.address(gpu)?, grad_y.address(gpu)?);
    let workspace = RawWorkspace::larger(gpu, partial)?;
    let mut products = Vec::with_capacity(grad_weights.len());
    for (rows, grad) in groups.into_iter().zip(grad_weights) {
        if rows.is_empty() {
            gpu.zero(grad)?;
            continue;
        }
        products.push(RawProduct {
            dtype: T::DTYPE,
            m: grad_y.width(),
            n: x.width(),
            k: rows.len(),
            a: RawFactor { at: row::<T>(of_y, grad_y.stride(), rows.start), stride: grad_y.stride(), transposed: true },
            b: RawFactor { at: row::<T>(from, x.stride(), rows.start), stride: x.stride(), transposed: false },
            y: RawOutput { at: grad.address(gpu)?, stride: x.width(), dtype: G::DTYPE },
            addend: None,
            bias: None,
            alpha: 1.0,
            beta: 0.0,
            workspace,
        });
    }
    // One after the other: side by side they were slower.
    // SAFETY: x and grad_y have the rows of every modality, each gradient `out_features` rows of `in_features`, as the
    // caller has checked; the gradients and the partial sums, which the products use one after the other, are borrowed
    // exclusively.
    products.iter().try_for_each(|product| unsafe { library.product(gpu, product) })
}

/// The address of a row.
fn row<T>(address: u64, stride: usize, row: usize) -> u64 {
    address + (row * stride * size_of::<T>()) as u64
}
