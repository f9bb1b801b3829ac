//! A 3 x 3 convolution over pictures as one node: neighbourhoods exist for a few pictures at a time, and are gathered again on
//! the way back.
//!
//! ```text
//! y[p, o] = bias[o] + sum over taps k and channels c of x[reads[p, k], c] W[o, k, c]
//! ```
//! On the CPU the products are the project's own; on a GPU, in f32 and bf16, windows and products of `layers::convolution`;
//! elsewhere, and in [`by_operations`], candle's operations.

use std::sync::Arc;

use candle_core::Tensor;
use mom_core::autograd::{Backward, record, record_tensor};
use mom_core::host::{Float, Host, dispatch, tensor};
use mom_kernels::grouped_gemm::{self, GroupedGrads, GroupedWeights, Into as Write};
use mom_kernels::{ModalityOffsets, Rows, RowsMut};
use rayon::prelude::*;

use super::taps::{N_TAPS, OUTSIDE, Taps};
use super::way::{Way, wide};
use crate::Result;
use crate::error::require_batch;

const OP: &str = "convolve";

/// Elements of neighbourhoods that exist at a time, on the CPU and on a device.
const MAX_ELEMENTS: [usize; 2] = [1 << 21, 1 << 27];

/// * `x`: `(n_pictures, n_in, channels)`, positions row-major.
/// * `weight`: `(n_out_channels, 3, 3, channels)`.
/// * `bias`: `(n_pictures, n_out_channels)` of each picture, or `(1, n_out_channels)` of all, in x's element type.
///
/// Returns `(n_pictures, n_out, n_out_channels)`. **Saved for backward:** x.
///
/// # Errors
/// Shapes that disagree; on the CPU an element type other than f32 and f64.
pub(crate) fn convolve(x: &Tensor, weight: &Tensor, bias: &Tensor, taps: &Arc<Taps>) -> Result<Tensor> {
    convolve_with(x, weight, bias, taps, Way::of(x, true))
}

/// As [`convolve`], by candle's operations on any device.
#[cfg(test)]
pub(crate) fn by_operations(x: &Tensor, weight: &Tensor, bias: &Tensor, taps: &Arc<Taps>) -> Result<Tensor> {
    convolve_with(x, weight, bias, taps, Way::Operations)
}

fn convolve_with(x: &Tensor, weight: &Tensor, bias: &Tensor, taps: &Arc<Taps>, way: Way) -> Result<Tensor> {
    let (x, weight, bias) = (x.contiguous()?, weight.contiguous()?, bias.contiguous()?);
    let (n_pictures, _, channels) = x.dims3()?;
    let n_out_channels = weight.dim(0)?;
    let shape = |expected: &[usize], got: &Tensor, field| {
        require_batch(got.dims() == expected, field, None, format!("{expected:?}"), format!("{:?}", got.dims()))
    };
    shape(&[n_pictures, taps.n_in, channels], &x, "x")?;
    shape(&[n_out_channels, 3, 3, channels], &weight, "weight")?;
    let biases = if bias.dim(0)? == 1 { 1 } else { n_pictures };
    shape(&[biases, n_out_channels], &bias, "bias")?;
    let node = Node { x, weight, bias, taps: taps.clone(), way };
    let (inputs, shape) = (node.inputs(), (n_pictures, taps.n_out, n_out_channels));
    if way == Way::Slices {
        return dispatch!(OP, "x", node.x, T => {
            let y = node.forward::<T>()?;
            Ok(record(inputs, y, shape, node)?)
        });
    }
    let y = match way {
        #[cfg(feature = "cuda")]
        Way::Kernels => super::gpu::convolve([&node.x, &node.weight, &node.bias], taps)?,
        _ => node.forward_by_operations()?,
    };
    Ok(record_tensor(inputs, &y, node)?)
}

struct Node {
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    taps: Arc<Taps>,
    way: Way,
}

/// Sizes of a call.
struct Sizes {
    n_pictures: usize,
    channels: usize,
    n_out_channels: usize,
    /// Features of a neighbourhood.
    n_features: usize,
    /// Pictures whose neighbourhoods exist at a time.
    at_a_time: usize,
}

impl Node {
    fn inputs(&self) -> Vec<Tensor> {
        vec![self.x.clone(), self.weight.clone(), self.bias.clone()]
    }

    fn sizes(&self) -> Result<Sizes> {
        let (n_pictures, _, channels) = self.x.dims3()?;
        let n_features = N_TAPS * channels;
        let most = MAX_ELEMENTS[usize::from(self.way != Way::Slices)];
        let at_a_time = (most / (self.taps.n_out * n_features).max(1)).clamp(1, n_pictures.max(1));
        Ok(Sizes { n_pictures, channels, n_out_channels: self.weight.dim(0)?, n_features, at_a_time })
    }

    /// The neighbourhoods of some pictures, `(pictures * n_out, 9 channels)`, for slices.
    fn gather<T: Float>(&self, x: &[T], channels: usize, into: &mut [T]) {
        let (taps, n_features) = (&*self.taps, N_TAPS * channels);
        into.par_chunks_exact_mut(n_features).enumerate().with_min_len(64).for_each(|(row, into)| {
            let (picture, out) = (row / taps.n_out, row % taps.n_out);
            let reads = &taps.reads[out * N_TAPS..][..N_TAPS];
            for (to, &at) in into.chunks_exact_mut(channels).zip(reads) {
                if at == OUTSIDE {
                    to.fill(T::ZERO);
                } else {
                    to.copy_from_slice(&x[(picture * taps.n_in + at as usize) * channels..][..channels]);
                }
            }
        });
    }

    fn forward<T: Float>(&self) -> Result<Vec<T>> {
        let Sizes { n_pictures, channels, n_out_channels, n_features, at_a_time } = self.sizes()?;
        let (x, weight) = (Host::<T>::of(OP, "x", &self.x)?, Host::<T>::of(OP, "weight", &self.weight)?);
        let bias = Host::<T>::of(OP, "bias", &self.bias)?;
        let (x, weight, bias) = (x.slice()?, weight.slice()?, bias.slice()?);
        let weights = GroupedWeights::new(n_features, n_out_channels, vec![weight], None)?;
        let (of_input, of_output) = (self.taps.n_in * channels, self.taps.n_out * n_out_channels);
        let mut y = vec![T::ZERO; n_pictures * of_output];
        let mut gathered = vec![T::ZERO; at_a_time * self.taps.n_out * n_features];
        let chunks = x.chunks(at_a_time * of_input).zip(y.chunks_mut(at_a_time * of_output));
        for (x, y) in chunks {
            let n_rows = y.len() / n_out_channels;
            let gathered = &mut gathered[..n_rows * n_features];
            self.gather(x, channels, gathered);
            let (from, to) = (Rows::new("x", gathered, n_features)?, RowsMut::new("y", y, n_out_channels)?);
            grouped_gemm::forward(&ModalityOffsets::single(n_rows), from, &weights, to)?;
        }
        y.par_chunks_exact_mut(of_output).enumerate().for_each(|(picture, y)| {
            let bias = if bias.len() == n_out_channels { bias } else { &bias[picture * n_out_channels..] };
            for row in y.chunks_exact_mut(n_out_channels) {
                row.iter_mut().zip(bias).for_each(|(y, &bias)| *y += bias);
            }
        });
        Ok(y)
    }

    fn gradients<T: Float>(&self, grad: &Tensor, needed: &[bool]) -> Result<Vec<Option<Tensor>>> {
        let Sizes { channels, n_out_channels, n_features, at_a_time, .. } = self.sizes()?;
        let grad = grad.contiguous()?;
        let (x, weight) = (Host::<T>::of(OP, "x", &self.x)?, Host::<T>::of(OP, "weight", &self.weight)?);
        let grad = Host::<T>::of(OP, "grad_output", &grad)?;
        let (x, weight, grad) = (x.slice()?, weight.slice()?, grad.slice()?);
        let weights = GroupedWeights::new(n_features, n_out_channels, vec![weight], None)?;
        let (of_input, of_output) = (self.taps.n_in * channels, self.taps.n_out * n_out_channels);
        let mut grad_x = vec![T::ZERO; if needed[0] { x.len() } else { 0 }];
        let mut grad_weight = vec![T::ZERO; weight.len()];
        let mut of_chunk = vec![T::ZERO; weight.len()];
        let mut gathered = vec![T::ZERO; at_a_time * self.taps.n_out * n_features];
        for (at, (x, grad)) in x.chunks(at_a_time * of_input).zip(grad.chunks(at_a_time * of_output)).enumerate() {
            let n_rows = grad.len() / n_out_channels;
            let offsets = ModalityOffsets::single(n_rows);
            let gathered = &mut gathered[..n_rows * n_features];
            let grad = Rows::new("grad_output", grad, n_out_channels)?;
            if needed[1] {
                self.gather(x, channels, gathered);
                let grads = GroupedGrads::new(vec![&mut of_chunk[..]]);
                grouped_gemm::backward_weights(&offsets, Rows::new("x", gathered, n_features)?, grad, &weights, grads)?;
                grad_weight.iter_mut().zip(&of_chunk).for_each(|(sum, &part)| *sum += part);
            }
            if needed[0] {
                let to = RowsMut::new("grad_neighbourhoods", gathered, n_features)?;
                grouped_gemm::backward_input(&offsets, grad, &weights, to, Write::Overwrite)?;
                let first = at * at_a_time * of_input;
                self.sum_reads(gathered, channels, &mut grad_x[first..first + x.len()]);
            }
        }
        let of = |needed: bool, values: Vec<T>, like: &Tensor| -> Result<Option<Tensor>> {
            if needed { Ok(Some(tensor(values, like.shape())?)) } else { Ok(None) }
        };
        Ok(vec![
            of(needed[0], grad_x, &self.x)?,
            of(needed[1], grad_weight, &self.weight)?,
            of(needed[2], self.grad_bias(grad, n_out_channels)?, &self.bias)?,
        ])
    }

    /// What an input's neighbours' gradients say of it, in the order of the outputs.
    fn sum_reads<T: Float>(&self, gathered: &[T], channels: usize, into: &mut [T]) {
        let taps = &*self.taps;
        into.par_chunks_exact_mut(channels).enumerate().with_min_len(64).for_each(|(row, into)| {
            let (picture, at) = (row / taps.n_in, row % taps.n_in);
            let first = picture * taps.n_out * N_TAPS;
            for &slot in taps.read_by[at * taps.fan..][..taps.fan].iter().take_while(|&&slot| slot != OUTSIDE) {
                let from = &gathered[(first + slot as usize) * channels..][..channels];
                into.iter_mut().zip(from).for_each(|(sum, &part)| *sum += part);
            }
        });
    }

    fn grad_bias<T: Float>(&self, grad: &[T], n_out_channels: usize) -> Result<Vec<T>> {
        let of_output = (self.taps.n_out * n_out_channels).max(1);
        let mut sums = vec![T::ZERO; grad.len() / of_output * n_out_channels];
        sums.par_chunks_exact_mut(n_out_channels).zip(grad.par_chunks_exact(of_output)).for_each(|(sums, grad)| {
            for row in grad.chunks_exact(n_out_channels) {
                sums.iter_mut().zip(row).for_each(|(sum, &part)| *sum += part);
            }
        });
        if self.bias.elem_count() == sums.len() {
            return Ok(sums);
        }
        let mut sum = vec![T::ZERO; n_out_channels];
        for of_picture in sums.chunks_exact(n_out_channels) {
            sum.iter_mut().zip(of_picture).for_each(|(sum, &part)| *sum += part);
        }
        Ok(sum)
    }

    /// The neighbourhoods of some pictures by candle's operations, `(pictures * n_out, 9 channels)`.
    fn gathered(&self, first: usize, n: usize, reads: &Tensor, n_features: usize) -> Result<Tensor> {
        let x = self.x.detach().narrow(0, first, n)?.contiguous()?;
        Ok(x.index_select(reads, 1)?.reshape((n * self.taps.n_out, n_features))?)
    }

    /// First picture and number of pictures of each chunk.
    fn chunks(sizes: &Sizes) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (n_pictures, at_a_time) = (sizes.n_pictures, sizes.at_a_time);
        (0..n_pictures).step_by(at_a_time).map(move |first| (first, at_a_time.min(n_pictures - first)))
    }

    fn forward_by_operations(&self) -> Result<Tensor> {
        let sizes = self.sizes()?;
        let Sizes { n_pictures, n_out_channels, n_features, .. } = sizes;
        let [reads, _] = self.taps.tensors(self.x.device())?;
        let weight = self.weight.detach().reshape((n_out_channels, n_features))?.t()?;
        let mut parts = Vec::new();
        for (first, n) in Self::chunks(&sizes) {
            parts.push(self.gathered(first, n, &reads, n_features)?.matmul(&weight)?);
        }
        let y = Tensor::cat(&parts, 0)?.reshape((n_pictures, self.taps.n_out, n_out_channels))?;
        Ok(y.broadcast_add(&self.bias.detach().unsqueeze(1)?)?.contiguous()?)
    }

    fn gradients_by_operations(&self, grad: &Tensor, needed: &[bool]) -> Result<Vec<Option<Tensor>>> {
        let sizes = self.sizes()?;
        let Sizes { channels, n_out_channels, n_features, .. } = sizes;
        let [reads, read_by] = self.taps.tensors(self.x.device())?;
        let (grad, dtype) = (grad.contiguous()?, self.x.dtype());
        let weight = self.weight.detach().reshape((n_out_channels, n_features))?;
        let (mut of_x, mut of_weight) = (Vec::new(), None);
        for (first, n) in Self::chunks(&sizes) {
            let grad = grad.narrow(0, first, n)?.reshape((n * self.taps.n_out, n_out_channels))?;
            if needed[1] {
                // Sums of chunks in more than 16 bits.
                let part = wide(&grad.t()?.contiguous()?.matmul(&self.gathered(first, n, &reads, n_features)?)?)?;
                of_weight = Some(match of_weight {
                    Some(sum) => (sum + part)?,
                    None => part,
                });
            }
            if needed[0] {
                let gathered = grad.matmul(&weight)?.reshape((n, self.taps.n_out * N_TAPS, channels))?;
                let read = gathered.index_select(&read_by, 1)?.reshape((n, self.taps.n_in, self.taps.fan, channels))?;
                of_x.push(wide(&read)?.sum(2)?.to_dtype(dtype)?);
            }
        }
        let of_x = if of_x.is_empty() { None } else { Some(Tensor::cat(&of_x, 0)?) };
        let of_weight = of_weight.map(|sum| sum.to_dtype(dtype)?.reshape(self.weight.shape())).transpose()?;
        let of_bias = if needed[2] {
            let sum = wide(&grad)?.sum(1)?;
            let sum = if self.bias.dim(0)? == sum.dim(0)? { sum } else { sum.sum_keepdim(0)? };
            Some(sum.to_dtype(dtype)?)
        } else {
            None
        };
        Ok(vec![of_x, of_weight, of_bias])
    }
}

impl Backward for Node {
    fn name(&self) -> &'static str {
        OP
    }
    fn backward(&self, grad: &Tensor, needed: &[bool]) -> candle_core::Result<Vec<Option<Tensor>>> {
        let gradients: Result<_> = match self.way {
            Way::Slices => dispatch!(OP, "grad_output", grad, T => self.gradients::<T>(grad, needed)),
            #[cfg(feature = "cuda")]
            Way::Kernels => {
                super::gpu::convolve_backward([&self.x, &self.weight, &self.bias], &self.taps, grad, needed)
            }
            Way::Operations => self.gradients_by_operations(grad, needed),
        };
        Ok(gradients?)
    }
}
