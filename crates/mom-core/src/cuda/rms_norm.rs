//! RMS norm on the GPU.

use candle_core::Tensor;
use mom_kernels::cuda::rms_norm::{self, NormInputs};

use super::on_device::OnDevice;
use super::on_gpu::{GpuFloat, OnGpu, dispatch};
use crate::Result;
use crate::autograd::{Backward, record_storage};

const OP: &str = "rms_norm";

/// As [`crate::ops::rms_norm`]; the weight is f32, `x` contiguous.
pub(crate) fn rms_norm(x: Tensor, weight: Tensor, eps: f64) -> Result<Tensor> {
    dispatch!(OP, "x", x, T => {
        let on = OnGpu::of(x.device())?;
        if x.elem_count() == 0 {
            return on.no_rows::<T>(x.shape());
        }
        let mut y = on.room::<T>(x.elem_count())?;
        {
            let (x, weight) = (OnDevice::<T>::of(&on, OP, "x", &x)?, OnDevice::<f32>::of(&on, OP, "weight", &weight)?);
            let weight = weight.view(&on.gpu)?;
            let width = weight.len();
            let y = on.gpu.rows_mut(&mut y, width)?;
            rms_norm::forward(&on.gpu, x.rows(&on.gpu, width)?, None, weight, eps as f32, y)?;
        }
        let shape = x.shape().clone();
        let node = Node { x: x.clone(), weight: weight.clone(), eps };
        Ok(record_storage(vec![x, weight], on.storage(y), shape, node)?)
    })
}

struct Node {
    x: Tensor,
    weight: Tensor,
    eps: f64,
}

impl Node {
    fn gradients<T: GpuFloat>(&self, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let on = OnGpu::of(self.x.device())?;
        let (x, weight) =
            (OnDevice::<T>::of(&on, OP, "x", &self.x)?, OnDevice::<f32>::of(&on, OP, "weight", &self.weight)?);
        let grad = OnDevice::<T>::of(&on, OP, "grad_output", grad)?;
        let weight = weight.view(&on.gpu)?;
        let (width, n) = (weight.len(), self.x.elem_count());
        let (mut grad_x, mut grad_weight) = (on.room::<T>(n)?, on.room::<f32>(width)?);
        let mut workspace = on.room::<f32>(rms_norm::backward_workspace_len(n / width.max(1), width))?;
        let inputs = NormInputs::new(x.rows(&on.gpu, width)?, weight, self.eps as f32, grad.rows(&on.gpu, width)?);
        let rows = on.gpu.rows_mut(&mut grad_x, width)?;
        rms_norm::backward(&on.gpu, &inputs, rows, on.gpu.write(&mut grad_weight), on.gpu.write(&mut workspace))?;
        Ok(vec![Some(on.tensor(grad_x, self.x.shape())), Some(on.tensor(grad_weight, width))])
    }
}

impl Backward for Node {
    fn name(&self) -> &'static str {
        OP
    }
    fn backward(&self, grad: &Tensor, _: &[bool]) -> candle_core::Result<Vec<Option<Tensor>>> {
        Ok(dispatch!(OP, "grad_output", grad, T => self.gradients::<T>(grad))?)
    }
}
