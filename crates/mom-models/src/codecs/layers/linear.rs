//! `y = x W^T + b`.

use candle_core::Tensor;

use crate::Result;
use crate::codecs::network::Scope;

/// A linear layer. Parameters: `weight` (n_out, n_in), and `bias` (n_out) where it has one.
#[derive(Debug, Clone)]
pub(in crate::codecs) struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    pub fn new(n_in: usize, n_out: usize, scope: &Scope<'_>) -> Result<Self> {
        let bias = Some(scope.get("bias", &[n_out])?);
        Ok(Self { bias, ..Self::without_bias(n_in, n_out, scope)? })
    }

    pub fn without_bias(n_in: usize, n_out: usize, scope: &Scope<'_>) -> Result<Self> {
        Ok(Self { weight: scope.get("weight", &[n_out, n_in])?, bias: None })
    }

    pub fn from_weight(weight: Tensor) -> Self {
        Self { weight, bias: None }
    }

    pub fn n_in(&self) -> Result<usize> {
        Ok(self.weight.dim(1)?)
    }

    /// `(.., n_in)` to `(.., n_out)`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (n_out, n_in) = self.weight.dims2()?;
        let mut dims = x.dims().to_vec();
        let rows = x.elem_count() / n_in.max(1);
        let y = x.reshape((rows, n_in))?.matmul(&self.weight.t()?)?;
        let y = match &self.bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        };
        if let Some(last) = dims.last_mut() {
            *last = n_out;
        }
        Ok(y.reshape(dims)?)
    }
}
