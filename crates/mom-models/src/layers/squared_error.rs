//! The sum of squared errors.

use candle_core::Tensor;
use mom_core::autograd::{Backward, record};
use mom_core::convert;
use mom_core::host::{Float, Host, dispatch, tensor};
use mom_kernels::Element;

use crate::Result;

const OP: &str = "squared_error";

/// `scale sum (predicted - target)^2` over all elements, `(1)`, in f32, or f64 where `predicted` is.
///
/// `predicted`, `target`: of one shape on one device. On a GPU `predicted` is bf16, f16 or f32 and the target f32; on the CPU
/// f32 or f64. **Saved for backward:** both.
///
/// # Errors
/// Shapes that disagree, an unsupported element type or device.
pub fn squared_error(predicted: &Tensor, target: &Tensor, scale: f64) -> Result<Tensor> {
    if predicted.shape() != target.shape() {
        let (expected, got) = (predicted.dims().to_vec(), target.dims().to_vec());
        return Err(mom_core::Error::Shape { op: OP, arg: "target", expected, got }.into());
    }
    let (predicted, target) = (predicted.contiguous()?, target.contiguous()?);
    #[cfg(feature = "cuda")]
    if predicted.device().is_cuda() {
        return crate::cuda::squared_error(predicted, &convert(&target, candle_core::DType::F32)?, scale);
    }
    dispatch!(OP, "predicted", predicted, T => {
        let target = convert(&target, predicted.dtype())?;
        let sum: f64 = differences::<T>(&predicted, &target)?.into_iter().map(|x| Element::to_f64(x).powi(2)).sum();
        let node = Node { predicted: predicted.clone(), target, scale };
        Ok(record(vec![predicted], vec![<T as Element>::from_f64(sum * scale)], 1, node)?)
    })
}

fn differences<T: Float>(predicted: &Tensor, target: &Tensor) -> Result<Vec<T>> {
    let (predicted, target) = (Host::<T>::of(OP, "predicted", predicted)?, Host::<T>::of(OP, "target", target)?);
    Ok(predicted.slice()?.iter().zip(target.slice()?).map(|(&x, &y)| x - y).collect())
}

struct Node {
    predicted: Tensor,
    target: Tensor,
    scale: f64,
}

impl Node {
    fn gradient<T: Float>(&self, grad: &Tensor) -> Result<Tensor> {
        let of_sum = Host::<T>::of(OP, "grad_output", grad)?.slice()?.first().copied().unwrap_or(T::ZERO);
        let factor = <T as Element>::from_f64(2.0 * self.scale) * of_sum;
        let values = differences::<T>(&self.predicted, &self.target)?.into_iter().map(|x| factor * x);
        Ok(tensor(values.collect(), self.predicted.shape())?)
    }
}

impl Backward for Node {
    fn name(&self) -> &'static str {
        OP
    }
    fn backward(&self, grad: &Tensor, _: &[bool]) -> candle_core::Result<Vec<Option<Tensor>>> {
        let predicted: Result<Tensor> = dispatch!(OP, "grad_output", grad, T => self.gradient::<T>(grad));
        Ok(vec![Some(predicted?)])
    }
}
