//! RMS norm with a gradient; candle-nn's fused one has none.

use candle_core::Tensor;
use mom_kernels::{Rows, RowsMut};

use crate::Result;
use crate::autograd::{Backward, record};
use crate::error::{expect_device, expect_shape};
use crate::host::{Float, Host, contiguous, dispatch, tensor};

const OP: &str = "rms_norm";

/// `y = x / sqrt(mean(x^2) + eps) * weight` over the last dimension.
///
/// `x`: `(.., d_model)`; `weight`: `(d_model)`. Returns a tensor of x's shape. **Saved for backward:** x.
///
/// # Errors
/// A weight of another size, tensors on several devices, an element type that the device does not have: f32 or f64 for all
/// on the CPU; on a GPU bf16, f16 or f32, with the weight in f32.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let x = contiguous(x)?;
    let weight = contiguous(weight)?;
    let d_model = x.dims().last().copied().unwrap_or(0);
    expect_shape(OP, "weight", &[d_model], &weight)?;
    expect_device(OP, "weight", &x, &weight)?;
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return crate::cuda::rms_norm(x, weight, eps);
    }
    dispatch!(OP, "x", x, T => {
        let y = forward::<T>(&x, &weight, eps)?;
        let shape = x.shape().clone();
        let backward = RmsNorm { x: x.clone(), weight: weight.clone(), eps };
        Ok(record(vec![x, weight], y, shape, backward)?)
    })
}

fn forward<T: Float>(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Vec<T>> {
    let (x, weight) = (Host::<T>::of(OP, "x", x)?, Host::<T>::of(OP, "weight", weight)?);
    let (x, weight) = (x.slice()?, weight.slice()?);
    let mut y = vec![T::ZERO; x.len()];
    let width = weight.len();
    mom_kernels::rms_norm::forward(Rows::new("x", x, width)?, weight, eps, RowsMut::new("y", &mut y, width)?)?;
    Ok(y)
}

struct RmsNorm {
    x: Tensor,
    weight: Tensor,
    eps: f64,
}

impl RmsNorm {
    fn gradients<T: Float>(&self, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let (x, weight, grad) = (
            Host::<T>::of(OP, "x", &self.x)?,
            Host::<T>::of(OP, "weight", &self.weight)?,
            Host::<T>::of(OP, "grad_output", grad)?,
        );
        let (x, weight, grad) = (x.slice()?, weight.slice()?, grad.slice()?);
        let width = weight.len();
        let (mut grad_x, mut grad_weight) = (vec![T::ZERO; x.len()], vec![T::ZERO; width]);
        mom_kernels::rms_norm::backward(
            Rows::new("x", x, width)?,
            weight,
            self.eps,
            Rows::new("grad_output", grad, width)?,
            RowsMut::new("grad_x", &mut grad_x, width)?,
            &mut grad_weight,
        )?;
        Ok(vec![Some(tensor(grad_x, self.x.shape())?), Some(tensor(grad_weight, width)?)])
    }
}

impl Backward for RmsNorm {
    fn name(&self) -> &'static str {
        OP
    }
    fn backward(&self, grad: &Tensor, _: &[bool]) -> candle_core::Result<Vec<Option<Tensor>>> {
        Ok(dispatch!(OP, "grad_output", grad, T => self.gradients::<T>(grad))?)
    }
}
