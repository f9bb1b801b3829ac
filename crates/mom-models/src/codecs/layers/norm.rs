//! Group norm and layer norm, in f32 whatever the element type: the variance is that around the mean, or around one of the values, since
//! published weights make groups whose mean is many times their deviation.

use candle_core::{D, DType, Tensor};

use super::map::Map;
use super::options::Activation;
use crate::Result;
use crate::codecs::network::Scope;

/// Elements that one sum runs over before partial sums are added: GPUs sum many short rows faster than few long ones.
const PART: usize = 4096;

/// Group norm: `y = (x - mean) / sqrt(var + eps) * weight + bias`, mean and variance of each group of channels
/// (Wu and He 2018, arXiv 1803.08494). Parameters: `weight`, `bias` (n_channels).
#[derive(Debug, Clone)]
pub(in crate::codecs) struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    n_groups: usize,
    eps: f64,
}

impl GroupNorm {
    /// `n_groups` divides `n_channels`: the caller has checked.
    pub fn new(n_channels: usize, n_groups: usize, eps: f64, scope: &Scope<'_>) -> Result<Self> {
        let (weight, bias) = (scope.get_f32("weight", &[n_channels])?, scope.get_f32("bias", &[n_channels])?);
        Ok(Self { weight, bias, n_groups, eps })
    }

    /// The norm of a map, and what is behind it.
    pub fn forward(&self, x: &Map, activation: Activation) -> Result<Map> {
        #[cfg(feature = "cuda")]
        if x.is_last()
            && let Some(y) = super::gpu::group_norm(x, (&self.weight, &self.bias), self.n_groups, self.eps, activation)?
        {
            return Ok(y);
        }
        let y = self.channels_first(&x.channels_first()?)?;
        Map::new(&match activation {
            Activation::None => y,
            Activation::Silu => y.silu()?,
            Activation::Gelu => y.gelu_erf()?,
        })
    }

    /// `(batch, channels, ..)` to the same.
    fn channels_first(&self, x: &Tensor) -> Result<Tensor> {
        let (dims, n_channels) = (x.dims().to_vec(), self.weight.elem_count());
        let rows = dims[0] * self.n_groups;
        let per_row = x.elem_count() / rows.max(1);
        let wide = x.to_dtype(DType::F32)?.reshape((rows, per_row))?;
        let mean = mean(&wide)?;
        let centred = wide.broadcast_sub(&mean)?;
        let scale = (mean_of_squares(&centred)? + self.eps)?.sqrt()?.recip()?;
        // One factor for each channel: the group's, times the channel's own.
        let scale = scale.reshape((dims[0], self.n_groups, 1))?;
        let weight = self.weight.reshape((1, self.n_groups, n_channels / self.n_groups))?;
        let scale = scale.broadcast_mul(&weight)?.reshape((dims[0], n_channels, 1))?;
        let y = centred.reshape((dims[0], n_channels, per_row * self.n_groups / n_channels))?.broadcast_mul(&scale)?;
        let y = y.broadcast_add(&self.bias.reshape((1, n_channels, 1))?)?;
        Ok(y.to_dtype(x.dtype())?.reshape(dims)?)
    }
}

/// Layer norm over the last axis (Ba, Kiros and Hinton 2016, arXiv 1607.06450). Parameters: `weight`, `bias` (size).
#[derive(Debug, Clone)]
pub(in crate::codecs) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    pub fn new(size: usize, eps: f64, scope: &Scope<'_>) -> Result<Self> {
        Ok(Self { weight: scope.get_f32("weight", &[size])?, bias: scope.get_f32("bias", &[size])?, eps })
    }

    /// `(.., size)` to the same.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if x.device().is_cuda()
            && let Some(y) = super::gpu::layer_norm(x, (&self.weight, &self.bias), self.eps)?
        {
            return Ok(y);
        }
        let wide = x.to_dtype(DType::F32)?;
        let size = self.weight.elem_count() as f64;
        let centred = wide.broadcast_sub(&(wide.sum_keepdim(D::Minus1)? / size)?)?;
        let deviation = ((centred.sqr()?.sum_keepdim(D::Minus1)? / size)? + self.eps)?.sqrt()?;
        let y = centred.broadcast_div(&deviation)?.broadcast_mul(&self.weight)?.broadcast_add(&self.bias)?;
        Ok(y.to_dtype(x.dtype())?)
    }
}

/// Mean of each row of `(rows, n)`: `(rows, 1)`.
fn mean(x: &Tensor) -> Result<Tensor> {
    let (rows, n) = x.dims2()?;
    let sum = if n > PART && n.is_multiple_of(PART) {
        x.reshape((rows, n / PART, PART))?.sum(2)?.sum_keepdim(1)?
    } else {
        x.sum_keepdim(1)?
    };
    Ok((sum / n as f64)?)
}

fn mean_of_squares(x: &Tensor) -> Result<Tensor> {
    mean(&x.sqr()?)
}
