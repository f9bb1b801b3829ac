//! Convolutions over values whose channels lie side by side, on a GPU.
//!
//! A convolution is a product: of the windows that its values read, as rows, with the kernel. Windows are made a part at a time.

use candle_core::{DType, Tensor};
use mom_core::cuda::{GpuFloat, OnDevice, OnGpu, dispatch};
use mom_kernels::cuda::grouped_gemm::{
    GroupedGrads, GroupedWeights, backward_weights, backward_weights_workspace_len, forward_add,
};
use mom_kernels::cuda::unfold::{Convolution, unfold};
use mom_kernels::cuda::{DeviceOffsets, DeviceRows, DeviceRowsMut, library};

use crate::Result;

const CONV: &str = "convolution";

/// Elements whose rows products take 16 bytes at a time.
pub(crate) const VECTOR: usize = 8;

/// Bytes of windows that are held at once.
const WINDOWS: usize = 1 << 28;

/// A kernel as rows of products: `(n_out, window)`, where a window is one of a group's channels, with zeros behind it up to a multiple
/// of eight; and the bias in f32.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
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
        Self::of_rows(&weight.permute((0, 2, 3, 1))?, bias, groups)
    }

    /// `weight`: (n_out, height, width, n_in / groups); `bias`: (n_out).
    pub fn of_rows(weight: &Tensor, bias: Option<&Tensor>, groups: usize) -> Result<Self> {
        let (n_out, height, width, n_in) = weight.dims4()?;
        let window = height * width * n_in;
        let mut weight = weight.contiguous()?.reshape((n_out, window))?;
        if !window.is_multiple_of(VECTOR) {
            weight = weight.pad_with_zeros(1, 0, window.next_multiple_of(VECTOR) - window)?.contiguous()?;
        }
        let bias = bias.map(|bias| bias.to_dtype(DType::F32)?.flatten_all()).transpose()?;
        Ok(Self { weight, bias, groups, window })
    }
}

/// `residual + convolution(x) + bias`; `x`: `(batch, height, width, channels)`, contiguous; `of` is that of one group of channels. Returns
/// `(batch, height, width, n_out)`, as `of` makes them.
///
/// # Errors
/// Sizes that disagree, out of memory.
pub(crate) fn convolve(x: &Tensor, of: &Convolution, kernel: &Kernel, residual: Option<&Tensor>) -> Result<Tensor> {
    dispatch!(CONV, "x", x, T => typed::<T>(x, of, kernel, residual))
}

fn typed<T: GpuFloat>(x: &Tensor, of: &Convolution, kernel: &Kernel, residual: Option<&Tensor>) -> Result<Tensor> {
    let on = OnGpu::of(x.device())?;
    let gpu = &*on.gpu;
    let ((_, _, _, n_in), (n_out, row)) = (x.dims4()?, kernel.weight.dims2()?);
    let (n, groups) = (of.n_windows(), kernel.groups);
    let (of_group, from_group) = (n_out / groups, n_in / groups);
    expect(CONV, "x", "elements of a window", kernel.window, of.window())?;
    expect(CONV, "x", "channels", of.channels * groups, n_in)?;
    if let Some(residual) = residual {
        let [batch, height, width] = of.output();
        let (of_batch, of_height, of_width, of_channels) = residual.dims4()?;
        let got = [of_batch, of_height, of_width, of_channels];
        for (expected, got) in [batch, height, width, n_out].into_iter().zip(got) {
            expect(CONV, "residual", "elements along a side", expected, got)?;
        }
    }
    let pixels = OnDevice::<T>::of(&on, CONV, "x", x)?;
    let weight = OnDevice::<T>::of(&on, CONV, "weight", &kernel.weight)?;
    let bias = kernel.bias.as_ref().map(|bias| OnDevice::<f32>::of(&on, CONV, "bias", bias)).transpose()?;
    let added = residual.map(|map| OnDevice::<T>::of(&on, CONV, "residual", map)).transpose()?;
    // Products in f32 are the library's, whose bias is of the output's type.
    let is_f32 = x.dtype() == DType::F32;
    let bias_like_y = kernel.bias.as_ref().filter(|_| is_f32);
    let bias_like_y = bias_like_y.map(|bias| OnDevice::<T>::of(&on, CONV, "bias", bias)).transpose()?;
    // SAFETY: the products below overwrite all of it, part by part and group by group; before them nothing reads it.
    let mut y = unsafe { on.uninit::<T>(n * n_out) }?;
    let is_window = of.kernel == [1, 1] && of.stride == 1 && of.vertical == [0; 2] && of.horizontal == [0; 2];
    let is_window = is_window && row == of.window() && groups == 1;
    let part = if is_window { n } else { part_of::<T>(n, row) };
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
                unfold(gpu, &of_x, of, first, to)?;
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
    Ok(on.tensor(y, (batch, height, width, n_out)))
}

/// The gradient of a kernel of one group: `sum over windows of grad_y' window`, `(n_out, window)` in the type of `x`; `grad_y`:
/// `(batch, height, width, n_out)`, contiguous. `x` and `of` are those of [`convolve`]. Windows are made again. Sums of several parts are put
/// together in f32.
///
/// # Errors
/// Sizes that disagree, a kernel of several groups, out of memory.
pub(crate) fn weight_gradient(x: &Tensor, of: &Convolution, kernel: &Kernel, grad_y: &Tensor) -> Result<Tensor> {
    expect(CONV, "kernel", "groups", 1, kernel.groups)?;
    dispatch!(CONV, "x", x, T => {
        if part_of::<T>(of.n_windows(), kernel.weight.dim(1)?) >= of.n_windows() {
            typed_gradient::<T, T>(x, of, kernel, grad_y)
        } else {
            typed_gradient::<T, f32>(x, of, kernel, grad_y)
        }
    })
}

fn typed_gradient<T: GpuFloat, G: GpuFloat>(
    x: &Tensor,
    of: &Convolution,
    kernel: &Kernel,
    grad_y: &Tensor,
) -> Result<Tensor> {
    let on = OnGpu::of(x.device())?;
    let gpu = &*on.gpu;
    let ((_, _, _, n_in), (n_out, row), n) = (x.dims4()?, kernel.weight.dims2()?, of.n_windows());
    expect(CONV, "x", "elements of a window", kernel.window, of.window())?;
    expect(CONV, "x", "channels", of.channels, n_in)?;
    expect(CONV, "grad_y", "elements", n * n_out, grad_y.elem_count())?;
    let pixels = OnDevice::<T>::of(&on, CONV, "x", x)?;
    let weight = OnDevice::<T>::of(&on, CONV, "weight", &kernel.weight)?;
    let grad_y = OnDevice::<T>::of(&on, CONV, "grad_y", grad_y)?;
    let weights = GroupedWeights::new(row, n_out, vec![weight.view(gpu)?], None)?;
    let part = part_of::<T>(n, row);
    // SAFETY: each part of windows is written before the product reads it.
    let mut windows = unsafe { on.uninit::<T>(part * row) }?;
    let mut sum: Option<Tensor> = None;
    for first in (0..n).step_by(part.max(1)) {
        let some = part.min(n - first);
        let to = DeviceRowsMut::new("windows", gpu.write_view(windows.slice_mut(..some * row)), row)?;
        unfold(gpu, &pixels.rows(gpu, n_in)?, of, first, to)?;
        let rows = DeviceRows::new("windows", gpu.read_view(windows.slice(..some * row)), row)?;
        let grad = DeviceRows::new("grad_y", grad_y.narrow(gpu, first * n_out, some * n_out)?, n_out)?;
        // SAFETY: the product overwrites the gradient, and reads of its workspace only what it wrote.
        let mut of_part = unsafe { on.uninit::<G>(n_out * row) }?;
        // SAFETY: as above.
        let mut workspace = unsafe { on.uninit::<f32>(backward_weights_workspace_len(some, &weights)) }?;
        let grads = GroupedGrads::new(vec![gpu.write(&mut of_part)]);
        let offsets = DeviceOffsets::single(some);
        backward_weights(gpu, &offsets, &rows, &grad, &weights, grads, gpu.write(&mut workspace))?;
        let of_part = on.tensor(of_part, (n_out, row));
        sum = Some(match sum {
            Some(sum) => (sum + of_part)?,
            None => of_part,
        });
    }
    let sum = match sum {
        Some(sum) => sum,
        None => Tensor::zeros((n_out, row), x.dtype(), x.device())?,
    };
    let sum = if row == kernel.window { sum } else { sum.narrow(1, 0, kernel.window)?.contiguous()? };
    Ok(sum.to_dtype(x.dtype())?)
}

/// Windows of `row` elements that are held at once, of `n`.
fn part_of<T>(n: usize, row: usize) -> usize {
    (WINDOWS / (row * size_of::<T>()).max(1)).clamp(1, n.max(1))
}

/// Fails where two numbers that are one in a network are not.
pub(crate) fn expect(
    op: &'static str,
    arg: &'static str,
    unit: &'static str,
    expected: usize,
    got: usize,
) -> Result<()> {
    if expected == got {
        return Ok(());
    }
    Err(mom_kernels::Error::Shape { op, arg, unit, expected, got }.into())
}
