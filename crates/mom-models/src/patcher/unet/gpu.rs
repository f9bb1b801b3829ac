//! The U-Net's convolution on a GPU, as windows and products, and the norm as the kernels take it.

use candle_core::Tensor;
use mom_core::cuda::{GpuFloat, OnDevice, OnGpu, dispatch};
use mom_kernels::cuda::group_norm::Activation;
use mom_kernels::cuda::unfold::Convolution;
use mom_kernels::cuda::{DeviceOffsets, EqualGroups, column_sums};

use super::taps::{N_TAPS, Resizing, Taps};
use super::way::wide;
use crate::Result;
use crate::layers::convolution::{self, Kernel};
use crate::layers::group_norm::Norm;

const CONV: &str = "convolve";

/// `(batch, positions, channels)` as `(batch, side, side, channels)`.
fn squares(x: &Tensor) -> Result<Tensor> {
    let (batch, n, channels) = x.dims3()?;
    let side = n.isqrt();
    Ok(x.reshape((batch, side, side, channels))?)
}

/// Every position four times.
fn doubled(x: &Tensor) -> Result<Tensor> {
    let (batch, side, _, channels) = x.dims4()?;
    let x = x.reshape((batch * side, 1, side, 1, channels))?;
    let x = x.broadcast_as((batch * side, 2, side, 2, channels))?.contiguous()?;
    Ok(x.reshape((batch, 2 * side, 2 * side, channels))?)
}

/// The sum of every four positions.
fn summed_by_four(x: &Tensor) -> Result<Tensor> {
    let (batch, side, _, channels) = x.dims4()?;
    let x = wide(x)?.reshape((batch * side / 2, 2, side / 2, 2, channels))?.sum(3)?.sum(1)?;
    Ok(x.reshape((batch, side / 2, side / 2, channels))?)
}

/// Every position, and zeros right of it, below it and between.
fn spread(x: &Tensor) -> Result<Tensor> {
    let (batch, side, _, channels) = x.dims4()?;
    let x = x.reshape((batch * side, 1, side, 1, channels))?.pad_with_zeros(3, 0, 1)?.pad_with_zeros(1, 0, 1)?;
    Ok(x.contiguous()?.reshape((batch, 2 * side, 2 * side, channels))?)
}

/// A 3 x 3 convolution with zeros around, over positions `(batch, side, side, channels)`.
fn same(x: &Tensor) -> Result<Convolution> {
    let (batch, height, width, channels) = x.dims4()?;
    Ok(Convolution::new([batch, height, width], channels, [3, 3]).with_zeros([1, 1], [1, 1]))
}

/// What is unfolded: the positions that windows are cut from, and how.
fn windows(x: &Tensor, taps: &Taps) -> Result<(Tensor, Convolution)> {
    let x = squares(x)?;
    let x = if taps.resizing == Resizing::Doubling { doubled(&x)? } else { x };
    let of = same(&x)?;
    let of = if taps.resizing == Resizing::Halving { of.with_zeros([1, 0], [1, 0]).with_stride(2) } else { of };
    Ok((x, of))
}

/// As [`super::convolve::convolve`]; `bias` of all pictures goes into the products, one of each picture is what they are added to.
pub(super) fn convolve([x, weight, bias]: [&Tensor; 3], taps: &Taps) -> Result<Tensor> {
    let [x, weight, bias] = [x, weight, bias].map(Tensor::detach);
    let (of_x, of) = windows(&x, taps)?;
    let [batch, height, width] = of.output();
    let n_out = weight.dim(0)?;
    let each = batch > 1 && bias.dim(0)? == batch;
    let kernel = Kernel::of_rows(&weight, if each { None } else { Some(&bias) }, 1)?;
    let residual = if each {
        let bias = bias.to_dtype(x.dtype())?.reshape((batch, 1, 1, n_out))?;
        Some(bias.broadcast_as((batch, height, width, n_out))?.contiguous()?)
    } else {
        None
    };
    let y = convolution::convolve(&of_x, &of, &kernel, residual.as_ref())?;
    Ok(y.reshape((batch, height * width, n_out))?)
}

/// The gradients of [`convolve`].
pub(super) fn convolve_backward(
    [x, weight, bias]: [&Tensor; 3],
    taps: &Taps,
    grad: &Tensor,
    needed: &[bool],
) -> Result<Vec<Option<Tensor>>> {
    let [x, weight] = [x, weight].map(Tensor::detach);
    let (grad, n_out) = (grad.detach().contiguous()?, weight.dim(0)?);
    let of_y = squares(&grad)?;
    let of_x = if needed[0] {
        // The way back is a convolution too, of what the other one made, with its taps in the other order.
        let n_in = weight.dim(3)?;
        let back = weight.reshape((n_out, N_TAPS, n_in))?.index_select(&taps.back, 1)?.permute((2, 1, 0))?;
        let back = Kernel::of_rows(&back.contiguous()?.reshape((n_in, 3, 3, n_out))?, None, 1)?;
        let of_y = if taps.resizing == Resizing::Halving { spread(&of_y)? } else { of_y.clone() };
        let of_x = convolution::convolve(&of_y, &same(&of_y)?, &back, None)?;
        let of_x = if taps.resizing == Resizing::Doubling { summed_by_four(&of_x)?.to_dtype(x.dtype())? } else { of_x };
        Some(of_x.reshape(x.shape())?)
    } else {
        None
    };
    let of_weight = if needed[1] {
        let (of_x, of) = windows(&x, taps)?;
        let kernel = Kernel::of_rows(&weight, None, 1)?;
        Some(convolution::weight_gradient(&of_x, &of, &kernel, &of_y)?.reshape(weight.shape())?)
    } else {
        None
    };
    let of_bias = if needed[2] {
        let sum = dispatch!(CONV, "grad_output", &grad, T => position_sums::<T>(&grad, bias.dim(0)?))?;
        Some(sum.to_dtype(bias.dtype())?)
    } else {
        None
    };
    Ok(vec![of_x, of_weight, of_bias])
}

/// The sums over all positions, of each picture or of all: `(batch, n, channels)` to `(n_sums, channels)` in f32.
fn position_sums<T: GpuFloat>(x: &Tensor, n_sums: usize) -> Result<Tensor> {
    let on = OnGpu::of(x.device())?;
    let gpu = &*on.gpu;
    let (batch, n, channels) = x.dims3()?;
    let of_x = OnDevice::<T>::of(&on, CONV, "grad_output", x)?;
    let n_rows = batch * n;
    let groups = if n_sums == 1 { None } else { Some(EqualGroups::upload(gpu, n_sums, n_rows / n_sums.max(1))?) };
    // SAFETY: the kernels below overwrite the sums, and read of the workspace what they wrote.
    let (mut sums, mut workspace) = unsafe {
        let len = column_sums::workspace_len(n_rows, n_sums, channels);
        (on.uninit::<f32>(n_sums * channels)?, on.uninit::<f32>(len)?)
    };
    let rows = of_x.rows(gpu, channels)?;
    let offsets = groups.as_ref().map_or_else(|| DeviceOffsets::single(n_rows), |groups| groups.offsets(gpu));
    column_sums::column_sums(gpu, &offsets, &rows, gpu.write(&mut sums), gpu.write(&mut workspace))?;
    Ok(on.tensor(sums, (n_sums, channels)))
}

/// The norm of [`super::norm::group_norm_silu`] as the kernels take it; the parameters are f32.
pub(super) fn norm<'a>(weight: &'a Tensor, bias: &'a Tensor, n_groups: usize, eps: f64) -> Norm<'a> {
    Norm { weight, bias, n_groups, eps, activation: Activation::Silu }
}
