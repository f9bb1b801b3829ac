//! `y = x W^T + b`.

use candle_core::Tensor;

use crate::Result;
use crate::codecs::network::Scope;

/// A linear layer. Parameters: `weight` (n_out, n_in), and `bias` (n_out) where it has one.
#[derive(Debug, Clone)]
pub(in crate::codecs) struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
    /// On a GPU, where its rows are whole vectors.
    #[cfg(feature = "cuda")]
    kernel: Option<super::gpu::Kernel>,
}

impl Linear {
    pub fn new(n_in: usize, n_out: usize, scope: &Scope<'_>) -> Result<Self> {
        Self::from_parts(scope.get("weight", &[n_out, n_in])?, Some(scope.get("bias", &[n_out])?))
    }

    pub fn without_bias(n_in: usize, n_out: usize, scope: &Scope<'_>) -> Result<Self> {
        Self::from_weight(scope.get("weight", &[n_out, n_in])?)
    }

    pub fn from_weight(weight: Tensor) -> Result<Self> {
        Self::from_parts(weight, None)
    }

    fn from_parts(weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        #[cfg(feature = "cuda")]
        let kernel = super::gpu::Kernel::linear(&weight, bias.as_ref())?;
        Ok(Self {
            weight,
            bias,
            #[cfg(feature = "cuda")]
            kernel,
        })
    }

    pub fn n_in(&self) -> Result<usize> {
        Ok(self.weight.dim(1)?)
    }

    /// `(.., n_in)` to `(.., n_out)`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (n_out, n_in) = self.weight.dims2()?;
        let mut dims = x.dims().to_vec();
        let rows = x.reshape((x.elem_count() / n_in.max(1), n_in))?;
        if let Some(last) = dims.last_mut() {
            *last = n_out;
        }
        #[cfg(feature = "cuda")]
        if let Some(kernel) = &self.kernel {
            return Ok(super::gpu::linear(&rows, kernel)?.reshape(dims)?);
        }
        let y = rows.matmul(&self.weight.t()?)?;
        let y = match &self.bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        };
        Ok(y.reshape(dims)?)
    }
}
