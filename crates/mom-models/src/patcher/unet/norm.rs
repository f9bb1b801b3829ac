//! Group norm and SiLU behind it as one node, over pictures of position-major rows.
//!
//! ```text
//! x_hat = (x - mean) / sqrt(var + eps),  z = x_hat weight + bias,  y = z sigmoid(z)
//! ```
//! Mean and variance (around that mean) of each group of neighbouring channels over all positions of a picture (Wu and He 2018,
//! arXiv 1803.08494), never below f32. On the CPU the frozen codecs' group norm has channels before positions, and no backward
//! pass: it stands apart (`codecs::layers`). On a GPU both take `layers::group_norm`.

use candle_core::Tensor;
use mom_core::autograd::{Backward, record, record_tensor};
use mom_core::host::{Float, Host, dispatch, tensor};
use mom_kernels::Element;
use rayon::prelude::*;

use super::way::{Way, wide};
use crate::Result;
use crate::error::require_batch;
#[cfg(feature = "cuda")]
use crate::layers::group_norm;

const OP: &str = "group_norm_silu";
const EPS: f64 = 1e-5;

/// * `x`: `(n_pictures, n_positions, channels)`.
/// * `weight`, `bias`: `(channels)`, f32 where x has 16 bits.
/// * `n_groups`: divides the channels.
///
/// Returns x's shape. **Saved for backward:** x, and on the CPU mean and deviation of each group.
///
/// # Errors
/// Shapes that disagree; on the CPU an element type other than f32 and f64.
pub(crate) fn group_norm_silu(x: &Tensor, weight: &Tensor, bias: &Tensor, n_groups: usize) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    let by_kernels = super::gpu::norm(weight, bias, n_groups, EPS).takes(x);
    #[cfg(not(feature = "cuda"))]
    let by_kernels = false;
    group_norm_silu_with(x, weight, bias, n_groups, Way::of(x, by_kernels))
}

/// As [`group_norm_silu`], by candle's operations on any device.
#[cfg(test)]
pub(crate) fn by_operations(x: &Tensor, weight: &Tensor, bias: &Tensor, n_groups: usize) -> Result<Tensor> {
    group_norm_silu_with(x, weight, bias, n_groups, Way::Operations)
}

fn group_norm_silu_with(x: &Tensor, weight: &Tensor, bias: &Tensor, n_groups: usize, way: Way) -> Result<Tensor> {
    let x = x.contiguous()?;
    let (_, _, channels) = x.dims3()?;
    let fits = n_groups > 0 && channels.is_multiple_of(n_groups);
    require_batch(fits, "n_groups", None, format!("a divisor of {channels} channels"), n_groups)?;
    for (field, parameter) in [("weight", weight), ("bias", bias)] {
        require_batch(parameter.dims() == [channels], field, None, channels, format!("{:?}", parameter.dims()))?;
    }
    let inputs = vec![x.clone(), weight.clone(), bias.clone()];
    let shape = x.shape().clone();
    let mut node = Node { x, weight: weight.clone(), bias: bias.clone(), n_groups, statistics: Vec::new(), way };
    if way == Way::Slices {
        return dispatch!(OP, "x", node.x, T => {
            let (y, statistics) = node.forward::<T>()?;
            node.statistics = statistics;
            Ok(record(inputs, y, shape, node)?)
        });
    }
    let y = match way {
        #[cfg(feature = "cuda")]
        Way::Kernels => {
            group_norm::group_norm(&node.x.detach(), &super::gpu::norm(&node.weight, &node.bias, n_groups, EPS))?
        }
        _ => node.forward_by_operations()?,
    };
    Ok(record_tensor(inputs, &y, node)?)
}

struct Node {
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    n_groups: usize,
    /// Of each picture and group.
    statistics: Vec<Statistics>,
    way: Way,
}

#[derive(Debug, Clone, Copy)]
struct Statistics {
    mean: f64,
    /// One over the deviation.
    scale: f64,
}

fn sigmoid(z: f64) -> f64 {
    1.0 / (1.0 + (-z).exp())
}

/// Sums over positions of a function of channel and value, of each channel.
fn channel_sums<T: Float>(x: &[T], channels: usize, of: impl Fn(usize, f64) -> f64) -> Vec<f64> {
    let mut sums = vec![0.0; channels];
    for row in x.chunks_exact(channels) {
        for (channel, (sum, &x)) in sums.iter_mut().zip(row).enumerate() {
            *sum += of(channel, Element::to_f64(x));
        }
    }
    sums
}

impl Node {
    fn forward<T: Float>(&self) -> Result<(Vec<T>, Vec<Statistics>)> {
        let (n_pictures, n_positions, channels) = self.x.dims3()?;
        let (x, weight) = (Host::<T>::of(OP, "x", &self.x)?, Host::<T>::of(OP, "weight", &self.weight)?);
        let bias = Host::<T>::of(OP, "bias", &self.bias)?;
        let (x, weight, bias) = (x.slice()?, weight.slice()?, bias.slice()?);
        let (per_group, of_picture) = (channels / self.n_groups, n_positions * channels);
        let n = (n_positions * per_group) as f64;
        let mut y = vec![T::ZERO; x.len()];
        let mut statistics = vec![Statistics { mean: 0.0, scale: 0.0 }; n_pictures * self.n_groups];
        let pictures = y.par_chunks_exact_mut(of_picture).zip(x.par_chunks_exact(of_picture));
        pictures.zip(statistics.par_chunks_exact_mut(self.n_groups)).for_each(|((y, x), statistics)| {
            let of_groups = |sums: Vec<f64>| -> Vec<f64> {
                sums.chunks_exact(per_group).map(|group| group.iter().sum::<f64>() / n).collect()
            };
            let means = of_groups(channel_sums(x, channels, |_, x| x));
            let variances = of_groups(channel_sums(x, channels, |c, x| (x - means[c / per_group]).powi(2)));
            for (to, (&mean, variance)) in statistics.iter_mut().zip(means.iter().zip(variances)) {
                *to = Statistics { mean, scale: 1.0 / (variance + EPS).sqrt() };
            }
            for (y, x) in y.chunks_exact_mut(channels).zip(x.chunks_exact(channels)) {
                for c in 0..channels {
                    let Statistics { mean, scale } = statistics[c / per_group];
                    let z = (Element::to_f64(x[c]) - mean) * scale * Element::to_f64(weight[c]);
                    let z = z + Element::to_f64(bias[c]);
                    y[c] = <T as Element>::from_f64(z * sigmoid(z));
                }
            }
        });
        Ok((y, statistics))
    }

    fn gradients<T: Float>(&self, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let (n_pictures, n_positions, channels) = self.x.dims3()?;
        let grad = grad.contiguous()?;
        let (x, weight) = (Host::<T>::of(OP, "x", &self.x)?, Host::<T>::of(OP, "weight", &self.weight)?);
        let (bias, grad) = (Host::<T>::of(OP, "bias", &self.bias)?, Host::<T>::of(OP, "grad_output", &grad)?);
        let (x, weight, bias, grad) = (x.slice()?, weight.slice()?, bias.slice()?, grad.slice()?);
        let (per_group, of_picture) = (channels / self.n_groups, n_positions * channels);
        let n = (n_positions * per_group) as f64;
        let mut grad_x = vec![T::ZERO; x.len()];
        // Of each picture: sums over positions of the gradient of z, then of that times x_hat.
        let mut sums = vec![0.0; n_pictures * 2 * channels];
        let pictures = grad_x.par_chunks_exact_mut(of_picture).zip(sums.par_chunks_exact_mut(2 * channels));
        let pictures = pictures.zip(x.par_chunks_exact(of_picture)).zip(grad.par_chunks_exact(of_picture));
        pictures.zip(self.statistics.par_chunks_exact(self.n_groups)).for_each(|((((to, sums), x), grad), of)| {
            let normed = |c: usize, x: T| (Element::to_f64(x) - of[c / per_group].mean) * of[c / per_group].scale;
            let grad_z = |c: usize, x_hat: f64, grad: T| {
                let z = x_hat * Element::to_f64(weight[c]) + Element::to_f64(bias[c]);
                let s = sigmoid(z);
                Element::to_f64(grad) * s * (1.0 + z * (1.0 - s))
            };
            let (of_bias, of_weight) = sums.split_at_mut(channels);
            for (x, grad) in x.chunks_exact(channels).zip(grad.chunks_exact(channels)) {
                for c in 0..channels {
                    let x_hat = normed(c, x[c]);
                    let grad_z = grad_z(c, x_hat, grad[c]);
                    of_bias[c] += grad_z;
                    of_weight[c] += grad_z * x_hat;
                }
            }
            let of_groups = |sums: &[f64]| -> Vec<f64> {
                let weighted = |c: usize| sums[c] * Element::to_f64(weight[c]);
                (0..channels / per_group)
                    .map(|group| (group * per_group..(group + 1) * per_group).map(weighted).sum::<f64>() / n)
                    .collect()
            };
            let (mean, along) = (of_groups(of_bias), of_groups(of_weight));
            for ((to, x), grad) in
                to.chunks_exact_mut(channels).zip(x.chunks_exact(channels)).zip(grad.chunks_exact(channels))
            {
                for c in 0..channels {
                    let (x_hat, group) = (normed(c, x[c]), c / per_group);
                    let of_hat = grad_z(c, x_hat, grad[c]) * Element::to_f64(weight[c]);
                    to[c] = <T as Element>::from_f64(of[group].scale * (of_hat - mean[group] - x_hat * along[group]));
                }
            }
        });
        let (mut of_weight, mut of_bias) = (vec![0.0; channels], vec![0.0; channels]);
        for sums in sums.chunks_exact(2 * channels) {
            for c in 0..channels {
                of_bias[c] += sums[c];
                of_weight[c] += sums[channels + c];
            }
        }
        let of = |values: Vec<f64>| tensor(values.into_iter().map(<T as Element>::from_f64).collect(), channels);
        Ok(vec![Some(tensor(grad_x, self.x.shape())?), Some(of(of_weight)?), Some(of(of_bias)?)])
    }

    /// Means over each group, `(n_pictures, 1, groups, 1)`, of `(n_pictures, n_positions, groups, per_group)`.
    fn means(&self, of: &Tensor) -> Result<Tensor> {
        let (_, n_positions, _, per_group) = of.dims4()?;
        Ok(of.sum_keepdim(3)?.sum_keepdim(1)?.affine(1.0 / (n_positions * per_group) as f64, 0.0)?)
    }

    fn grouped(&self, x: &Tensor) -> Result<Tensor> {
        let (n_pictures, n_positions, channels) = self.x.dims3()?;
        Ok(x.reshape((n_pictures, n_positions, self.n_groups, channels / self.n_groups))?)
    }

    /// `x_hat`, one over the deviation, and z.
    fn normed(&self) -> Result<[Tensor; 3]> {
        let x = self.grouped(&wide(&self.x.detach())?)?;
        let centred = x.broadcast_sub(&self.means(&x)?)?;
        let scale = (self.means(&centred.sqr()?)? + EPS)?.sqrt()?.recip()?;
        let x_hat = centred.broadcast_mul(&scale)?;
        let z = x_hat.broadcast_mul(&self.channelwise(&self.weight)?)?;
        let z = z.broadcast_add(&self.channelwise(&self.bias)?)?;
        Ok([x_hat, scale, z])
    }

    /// A parameter as it stands beside grouped rows, `(1, 1, groups, per_group)`.
    fn channelwise(&self, parameter: &Tensor) -> Result<Tensor> {
        let per_group = parameter.elem_count() / self.n_groups;
        Ok(wide(&parameter.detach())?.reshape((1, 1, self.n_groups, per_group))?)
    }

    fn forward_by_operations(&self) -> Result<Tensor> {
        let [_, _, z] = self.normed()?;
        let sigmoid = (z.neg()?.exp()? + 1.0)?.recip()?;
        Ok((z * sigmoid)?.reshape(self.x.shape())?.to_dtype(self.x.dtype())?)
    }

    fn gradients_by_operations(&self, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let [x_hat, scale, z] = self.normed()?;
        let grad = self.grouped(&wide(grad)?.contiguous()?)?;
        let sigmoid = (z.neg()?.exp()? + 1.0)?.recip()?;
        let slope = (&sigmoid * ((&z * (1.0 - &sigmoid)?)? + 1.0)?)?;
        let grad_z = (grad * slope)?;
        let of_hat = grad_z.broadcast_mul(&self.channelwise(&self.weight)?)?;
        let along = x_hat.broadcast_mul(&self.means(&(&of_hat * &x_hat)?)?)?;
        let of_x = (of_hat.broadcast_sub(&self.means(&of_hat)?)? - along)?.broadcast_mul(&scale)?;
        let of_parameter = |of: &Tensor, like: &Tensor| -> Result<Tensor> {
            Ok(of.sum(1)?.sum(0)?.flatten_all()?.to_dtype(like.dtype())?)
        };
        Ok(vec![
            Some(of_x.reshape(self.x.shape())?.to_dtype(self.x.dtype())?),
            Some(of_parameter(&(&grad_z * &x_hat)?, &self.weight)?),
            Some(of_parameter(&grad_z, &self.bias)?),
        ])
    }
}

impl Backward for Node {
    fn name(&self) -> &'static str {
        OP
    }
    fn backward(&self, grad: &Tensor, _: &[bool]) -> candle_core::Result<Vec<Option<Tensor>>> {
        let gradients: Result<_> = match self.way {
            Way::Slices => dispatch!(OP, "grad_output", grad, T => self.gradients::<T>(grad)),
            #[cfg(feature = "cuda")]
            Way::Kernels => {
                let norm = super::gpu::norm(&self.weight, &self.bias, self.n_groups, EPS);
                group_norm::group_norm_backward(&self.x.detach(), &norm, &grad.detach().contiguous()?)
                    .map(|all| all.map(Some).into())
            }
            Way::Operations => self.gradients_by_operations(grad),
        };
        Ok(gradients?)
    }
}

/// The most groups that divide the channels: at most 32, and at least 4 channels each where there are as many.
pub(crate) const fn n_groups(channels: usize) -> usize {
    let mut n = if channels / 4 < 32 { channels / 4 } else { 32 };
    while n > 1 && !channels.is_multiple_of(n) {
        n -= 1;
    }
    if n == 0 { 1 } else { n }
}
