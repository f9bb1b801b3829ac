//! The same products by the library, one for each modality that has rows.

use std::ops::Range;

use super::forward::{Addend, Direction};
use super::params::{GroupedWeights, groups};
use super::sm90;
use crate::cuda::error::Result;
use crate::cuda::library::{Library, RawAddend, RawFactor, RawOutput, RawProduct, RawWorkspace};
use crate::cuda::memory::{DeviceElement, DeviceMut, DeviceRows, DeviceRowsMut};
use crate::cuda::{DeviceOffsets, Gpu};

/// Features in and out from which on a product of the library for each modality is faster than one launch of the own
/// kernel: in_proj and out_proj, not x_proj and dt_proj. docs/kernels.md has the figures.
const MIN_FEATURES: usize = 512;

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
        Product::Forward => is_faster(n_out) && sm90::takes_weights(gpu, weights)?,
        Product::BackwardInput => is_faster(n_in) && sm90::takes_weights(gpu, weights)?,
        Product::BackwardWeights => weights.n_groups() > 1 && sm90::takes_elements::<T>(gpu)?,
    };
    let library = library(gpu, &groups, weights).filter(|_| !faster);
    Ok(if library.is_some() { Engine::Library } else { Engine::Kernel })
}

/// The library and the rows of each modality, for products that go to it: it is loaded, the host knows the offsets, there
/// are no biases to add and both widths are large.
pub(super) fn library<'g, T: DeviceElement>(
    gpu: &'g Gpu,
    groups: &DeviceOffsets<'_>,
    weights: &GroupedWeights<'_, T>,
) -> Option<(&'g Library, Vec<Range<usize>>)> {
    let wide = weights.in_features().min(weights.out_features()) >= MIN_FEATURES && !weights.has_biases();
    let library = gpu.library().filter(|_| wide)?;
    Some((library, groups.on_host()?))
}

/// Rows `m` of `x` times the weight of `m`; the callers have checked the shapes.
pub(super) fn m_grouped<T: DeviceElement>(
    gpu: &Gpu,
    (library, groups): (&Library, Vec<Range<usize>>),
    direction: Direction,
    x: &DeviceRows<'_, T>,
    weights: &GroupedWeights<'_, T>,
    y: &DeviceRowsMut<'_, T>,
    addend: &Addend<'_, '_, T>,
) -> Result<()> {
    let groups = groups.into_iter().zip(weights.addresses(gpu)).filter(|(rows, _)| !rows.is_empty());
    let products = groups.map(|(rows, weight)| RawProduct {
        dtype: T::DTYPE,
        m: rows.len(),
        n: y.width(),
        k: x.width(),
        a: RawFactor { at: row::<T>(x.address(gpu), x.stride(), rows.start), stride: x.stride(), transposed: false },
        b: RawFactor { at: weight, stride: weights.in_features(), transposed: direction == Direction::Forward },
        y: RawOutput { at: row::<T>(y.address(gpu), y.stride(), rows.start), stride: y.stride(), dtype: T::DTYPE },
        addend: match addend {
            Addend::Rows(of) => {
                Some(RawAddend { at: row::<T>(of.address(gpu), of.stride(), rows.start), stride: of.stride() })
            }
            Addend::None | Addend::Output => None,
        },
        alpha: 1.0,
        beta: if matches!(addend, Addend::None) { 0.0 } else { 1.0 },
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
    (library, groups): (&Library, Vec<Range<usize>>),
    x: &DeviceRows<'_, T>,
    grad_y: &DeviceRows<'_, T>,
    grad_weights: Vec<DeviceMut<'_, G>>,
    partial: &DeviceMut<'_, f32>,
) -> Result<()> {
    let factor = |of: &DeviceRows<'_, T>, start: usize, transposed: bool| RawFactor {
        at: row::<T>(of.address(gpu), of.stride(), start),
        stride: of.stride(),
        transposed,
    };
    let mut products = Vec::with_capacity(grad_weights.len());
    let mut grad_weights = grad_weights;
    for (rows, grad) in groups.into_iter().zip(&mut grad_weights) {
        if rows.is_empty() {
            gpu.zero(grad)?;
            continue;
        }
        products.push(RawProduct {
            dtype: T::DTYPE,
            m: grad_y.width(),
            n: x.width(),
            k: rows.len(),
            a: factor(grad_y, rows.start, true),
            b: factor(x, rows.start, false),
            y: RawOutput { at: grad.address(gpu), stride: x.width(), dtype: G::DTYPE },
            addend: None,
            alpha: 1.0,
            beta: 0.0,
            workspace: RawWorkspace::larger(gpu, partial),
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
