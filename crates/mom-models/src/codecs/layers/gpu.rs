//! Convolutions, linear layers, norms and attention of maps and rows whose channels lie side by side.
//!
//! A convolution is a product: of the windows that its values read, as rows, with the kernel. Windows are made a part at a time.

use candle_core::{DType, Tensor};
use mom_core::Plan;
use mom_core::cuda::{GpuFloat, OnDevice, OnGpu, dispatch};
use mom_kernels::ModalityPlan;
use mom_kernels::attention::AttentionMask;
use mom_kernels::cuda::attention::MAX_HEAD_DIM;
use mom_kernels::cuda::grouped_gemm::{GroupedWeights, forward_add};
use mom_kernels::cuda::unfold::{Convolution, unfold};
use mom_kernels::cuda::{DeviceOffsets, DeviceRows, DeviceRowsMut, group_norm as norm, library};

use super::map::Map;
use super::options::{Activation, Heads};
use crate::Result;

const CONV: &str = "convolution";
const NORM: &str = "group norm";
const LAYER_NORM: &str = "layer norm";

/// Heads of all sequences that the kernels take at once.
const MAX_HEADS: usize = 65_535;

/// Bytes of windows that are held at once.
const WINDOWS: usize = 1 << 28;

/// Elements whose rows products take 16 bytes at a time.
const VECTOR: usize = 8;

/// A kernel as rows of products: `(n_out, window)`, where a window is one of a group's channels, with zeros behind it up to a multiple
/// of eight; and the bias in f32.
#[derive(Debug, Clone)]
pub(in crate::codecs) struct Kernel {
    weight: Tensor,
    bias: Option<Tensor>,
    groups: usize,
    /// Elements of a window, without the zeros.
    window: usize,
}

impl Kernel {
    /// Of a linear layer on a GPU whose rows are whole vectors; `weight`: (n_out, n_in).
    pub fn linear(weight: &Tensor, bias: Option<&Tensor>) -> Result<Option<Self>> {
        let takes = weight.device().is_cuda() && weight.dim(1)?.is_multiple_of(VECTOR);
        takes.then(|| Self::new(&weight.unsqueeze(2)?.unsqueeze(3)?, bias, 1)).transpose()
    }

    /// `weight`: (n_out, n_in / groups, height, width); `bias`: (n_out).
    pub fn new(weight: &Tensor, bias: Option<&Tensor>, groups: usize) -> Result<Self> {
        let (n_out, n_in, height, width) = weight.dims4()?;
        let window = height * width * n_in;
        let weight = weight.permute((0, 2, 3, 1))?.contiguous()?.reshape((n_out, window))?;
        let weight = weight.pad_with_zeros(1, 0, window.next_multiple_of(VECTOR) - window)?.contiguous()?;
        let bias = bias.map(|bias| bias.to_dtype(DType::F32)?.flatten_all()).transpose()?;
        Ok(Self { weight, bias, groups, window })
    }
}

/// `residual + convolution(x) + bias`; `of` is that of one group of channels, over maps `x` of all of them.
pub(super) fn convolve(x: &Map, of: Convolution, kernel: &Kernel, residual: Option<&Map>) -> Result<Map> {
    dispatch!(CONV, "x", x.values(), T => typed::<T>(x, of, kernel, residual))
}

fn typed<T: GpuFloat>(x: &Map, of: Convolution, kernel: &Kernel, residual: Option<&Map>) -> Result<Map> {
    let on = OnGpu::of(x.values().device())?;
    let gpu = &*on.gpu;
    let ([_, n_in, ..], (n_out, row)) = (x.dims()?, kernel.weight.dims2()?);
    let (n, groups) = (of.n_windows(), kernel.groups);
    let (of_group, from_group) = (n_out / groups, n_in / groups);
    expect(CONV, "x", "elements of a window", kernel.window, of.window())?;
    expect(CONV, "x", "channels", of.channels * groups, n_in)?;
    if let Some(residual) = residual {
        let [batch, height, width] = of.output();
        for (expected, got) in [batch, n_out, height, width].into_iter().zip(residual.dims()?) {
            expect(CONV, "residual", "elements along a side", expected, got)?;
        }
    }
    let pixels = OnDevice::<T>::of(&on, CONV, "x", x.values())?;
    let weight = OnDevice::<T>::of(&on, CONV, "weight", &kernel.weight)?;
    let bias = kernel.bias.as_ref().map(|bias| OnDevice::<f32>::of(&on, CONV, "bias", bias)).transpose()?;
    let added = residual.map(|map| OnDevice::<T>::of(&on, CONV, "residual", map.values())).transpose()?;
    // Products in f32 are the library's, whose bias is of the output's type.
    let is_f32 = x.values().dtype() == DType::F32;
    let bias_like_y = kernel.bias.as_ref().filter(|_| is_f32);
    let bias_like_y = bias_like_y.map(|bias| OnDevice::<T>::of(&on, CONV, "bias", bias)).transpose()?;
    // SAFETY: the products below overwrite all of it, part by part and group by group; before them nothing reads it.
    let mut y = unsafe { on.uninit::<T>(n * n_out) }?;
    let is_window = of.kernel == [1, 1] && of.stride == 1 && of.vertical == [0; 2] && of.horizontal == [0; 2];
    let is_window = is_window && row == of.window() && groups == 1;
    let part = if is_window { n } else { (WINDOWS / (row * size_of::<T>()).max(1)).clamp(1, n.max(1)) };
    // SAFETY: each part of windows is written before the product reads it.
    let mut windows = unsafe { on.uninit::<T>(if is_window { 0 } else { part * row }) }?;
    for first in (0..n).step_by(part.max(1)) {
        let some = part.min(n - first);
        for group in 0..groups {
            let rows = if is_window {
                pixels.rows(gpu, row)?
            } else {
                let of_x = pixels.rows(gpu, n_in)?.columns(group * from_group, from_group)?;
                let to = DeviceRowsMut::new("windows", gpu.write_view(windows.slice_mut(..some * row)), row)?;
                unfold(gpu, &of_x, &of, first, to)?;
                DeviceRows::new("windows", gpu.read_view(windows.slice(..some * row)), row)?
            };
            let of_y = y.slice_mut(first * n_out..(first + some) * n_out);
            let to = DeviceRowsMut::new("y", gpu.write_view(of_y), n_out)?;
            let to = to.columns(group * of_group, of_group)?;
            let weight = weight.narrow(gpu, group * of_group * row, of_group * row)?;
            let added = match &added {
                Some(of_added) => {
                    let rows = DeviceRows::new("residual", of_added.narrow(gpu, first * n_out, some * n_out)?, n_out)?;
                    Some(rows.columns(group * of_group, of_group)?)
                }
                None => None,
            };
            let of_bias = (group * of_group, of_group);
            if is_f32 {
                let bias = bias_like_y.as_ref().map(|bias| bias.narrow(gpu, of_bias.0, of_bias.1)).transpose()?;
                let weight = DeviceRows::new("weight", weight, row)?;
                library::linear(gpu, &rows, &weight, bias.as_ref(), added.as_ref(), to)?;
            } else {
                let bias = bias.as_ref().map(|bias| bias.narrow(gpu, of_bias.0, of_bias.1)).transpose()?;
                let weights = GroupedWeights::new(row, of_group, vec![weight], bias)?;
                forward_add(gpu, &DeviceOffsets::single(some), &rows, &weights, added.as_ref(), to)?;
            }
        }
    }
    let [batch, height, width] = of.output();
    Ok(x.with_values(on.tensor(y, (batch, height, width, n_out))))
}

/// The products of rows `(n, n_in)`, and the bias: `(n, n_out)`.
pub(super) fn linear(rows: &Tensor, kernel: &Kernel) -> Result<Tensor> {
    let (n, n_in) = rows.dims2()?;
    let of = Convolution::new([1, 1, n], n_in, [1, 1]);
    Ok(convolve(&Map::of_rows(&rows.unsqueeze(0)?)?, of, kernel, None)?.rows()?.squeeze(0)?)
}

/// Fails where two numbers that are one in a network are not.
fn expect(op: &'static str, arg: &'static str, unit: &'static str, expected: usize, got: usize) -> Result<()> {
    if expected == got {
        return Ok(());
    }
    Err(mom_kernels::Error::Shape { op, arg, unit, expected, got }.into())
}

/// Group norm of each picture, and the activation behind it; none where the kernels do not take so many channels.
pub(super) fn group_norm(
    x: &Map,
    (weight, bias): (&Tensor, &Tensor),
    n_groups: usize,
    eps: f64,
    activation: Activation,
) -> Result<Option<Map>> {
    dispatch!(NORM, "x", x.values(), T => normed::<T>(x, (weight, bias), n_groups, eps, activation))
}

fn normed<T: GpuFloat>(
    x: &Map,
    (weight, bias): (&Tensor, &Tensor),
    n_groups: usize,
    eps: f64,
    activation: Activation,
) -> Result<Option<Map>> {
    let [batch, n_channels, height, width] = x.dims()?;
    if !norm::takes::<T>(n_channels) {
        return Ok(None);
    }
    let on = OnGpu::of(x.values().device())?;
    let gpu = &*on.gpu;
    let of_x = OnDevice::<T>::of(&on, NORM, "x", x.values())?;
    let weight = OnDevice::<f32>::of(&on, NORM, "weight", weight)?;
    let bias = OnDevice::<f32>::of(&on, NORM, "bias", bias)?;
    // SAFETY: the kernels below overwrite both; before them nothing reads either.
    let mut y = unsafe { on.uninit::<T>(of_x.len()) }?;
    let len = norm::workspace_len::<T>(batch, height * width, n_channels, n_groups);
    // SAFETY: as above.
    let mut workspace = unsafe { on.uninit::<f32>(len) }?;
    let activation = match activation {
        Activation::None => norm::Activation::None,
        Activation::Silu => norm::Activation::Silu,
        Activation::Gelu => norm::Activation::Gelu,
    };
    let of = norm::GroupNorm::new(batch, n_groups, weight.view(gpu)?, bias.view(gpu)?)
        .with_eps(eps as f32)
        .with_activation(activation);
    let to = gpu.rows_mut(&mut y, n_channels)?;
    norm::group_norm(gpu, &of_x.rows(gpu, n_channels)?, &of, to, gpu.write(&mut workspace))?;
    Ok(Some(x.with_values(on.tensor(y, x.values().shape()))))
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
