//! Convolutions, linear layers, norms and attention of maps and rows whose channels lie side by side.

use candle_core::Tensor;
use mom_core::Plan;
use mom_core::cuda::{GpuFloat, OnDevice, OnGpu, dispatch};
use mom_kernels::ModalityPlan;
use mom_kernels::attention::AttentionMask;
use mom_kernels::cuda::attention::MAX_HEAD_DIM;
use mom_kernels::cuda::group_norm as norm;
use mom_kernels::cuda::unfold::Convolution;

use super::map::Map;
use super::options::{Activation, Heads};
use crate::Result;
pub(in crate::codecs) use crate::layers::convolution::Kernel;
use crate::layers::convolution::{self, VECTOR, expect};
use crate::layers::group_norm::{self, Norm};

const LAYER_NORM: &str = "layer norm";

/// Heads of all sequences that the kernels take at once.
const MAX_HEADS: usize = 65_535;

/// `residual + convolution(x) + bias`; `of` is that of one group of channels, over maps `x` of all of them.
pub(super) fn convolve(x: &Map, of: Convolution, kernel: &Kernel, residual: Option<&Map>) -> Result<Map> {
    Ok(x.with_values(convolution::convolve(x.values(), &of, kernel, residual.map(Map::values))?))
}

/// The products of rows `(n, n_in)`, and the bias: `(n, n_out)`.
pub(super) fn linear(rows: &Tensor, kernel: &Kernel) -> Result<Tensor> {
    let (n, n_in) = rows.dims2()?;
    let of = Convolution::new([1, 1, n], n_in, [1, 1]);
    Ok(convolve(&Map::of_rows(&rows.unsqueeze(0)?)?, of, kernel, None)?.rows()?.squeeze(0)?)
}

/// Group norm of each picture, and the activation behind it; none where the kernels do not take so many channels.
pub(super) fn group_norm(
    x: &Map,
    (weight, bias): (&Tensor, &Tensor),
    n_groups: usize,
    eps: f64,
    activation: Activation,
) -> Result<Option<Map>> {
    let activation = match activation {
        Activation::None => norm::Activation::None,
        Activation::Silu => norm::Activation::Silu,
        Activation::Gelu => norm::Activation::Gelu,
    };
    let of = Norm { weight, bias, n_groups, eps, activation };
    if !of.takes(x.values()) {
        return Ok(None);
    }
    Ok(Some(x.with_values(group_norm::group_norm(x.values(), &of)?)))
}

/// Layer norm of rows `(.., size)`; none where the kernels do not take so long ones.
pub(super) fn layer_norm(x: &Tensor, (weight, bias): (&Tensor, &Tensor), eps: f64) -> Result<Option<Tensor>> {
    dispatch!(LAYER_NORM, "x", x, T => layer_normed::<T>(x, (weight, bias), eps))
}

fn layer_normed<T: GpuFloat>(x: &Tensor, (weight, bias): (&Tensor, &Tensor), eps: f64) -> Result<Option<Tensor>> {
    let width = weight.elem_count();
    if !norm::takes_rows::<T>(width) {
        return Ok(None);
    }
    let on = OnGpu::of(x.device())?;
    let gpu = &*on.gpu;
    let contiguous = x.contiguous()?;
    let last = x.dims().last().copied().unwrap_or(0);
    expect(LAYER_NORM, "x", "elements of a row", width, last)?;
    let of_x = OnDevice::<T>::of(&on, LAYER_NORM, "x", &contiguous)?;
    let weight = OnDevice::<f32>::of(&on, LAYER_NORM, "weight", weight)?;
    let bias = OnDevice::<f32>::of(&on, LAYER_NORM, "bias", bias)?;
    // SAFETY: the kernel below overwrites all of it; before it nothing reads it.
    let mut y = unsafe { on.uninit::<T>(of_x.len()) }?;
    let (rows, to) = (of_x.rows(gpu, width)?, gpu.rows_mut(&mut y, width)?);
    norm::layer_norm(gpu, &rows, &weight.view(gpu)?, &bias.view(gpu)?, eps as f32, to)?;
    Ok(Some(on.tensor(y, x.shape())))
}

/// `softmax(q k' / sqrt(head_dim)) v` of rows `(batch, n, n_heads * head_dim)`; none where the kernels do not take the
/// heads: of more than 64 features, of no whole vectors, or more than 65,535 of all sequences.
pub(super) fn attend([q, k, v]: [&Tensor; 3], n_heads: usize, heads: Heads) -> Result<Option<Tensor>> {
    let (batch, n, width) = q.dims3()?;
    let head_dim = width / n_heads;
    if head_dim > MAX_HEAD_DIM || !head_dim.is_multiple_of(VECTOR) || batch * n_heads > MAX_HEADS {
        return Ok(None);
    }
    let host = ModalityPlan::dense(batch, n, None)?;
    let mask = match heads {
        Heads::Full => {
            let all: Vec<_> = (0..batch).map(|i| i * n..(i + 1) * n).collect();
            AttentionMask::new(host.layout(), &all)?
        }
        Heads::Causal { window } => AttentionMask::new(host.layout(), &[])?.with_window(window)?,
    };
    let plan = Plan::with_mask(host, mask)?;
    let [q, k, v] = [q, k, v].map(|rows| rows.reshape((batch * n, width)));
    Ok(Some(mom_core::ops::attention(&q?, &k?, &v?, n_heads, &plan)?.reshape((batch, n, width))?))
}
