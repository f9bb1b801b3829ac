//! Grouped products on the GPU.

use candle_core::Tensor;
use mom_kernels::cuda::DeviceOffsets;
use mom_kernels::cuda::grouped_gemm::{self, Into};

use super::on_device::OnDevice;
use super::on_gpu::{GpuFloat, OnGpu, dispatch};
use super::weights::{Of, Projection, ProjectionGrads};
use crate::autograd::{Backward, record_storage};
use crate::linear::GroupedLinear;
use crate::{Plan, Result};

const OP: &str = "grouped_linear";

/// As [`crate::ops::grouped_linear`]; `x` is contiguous.
pub(crate) fn grouped_linear(x: Tensor, linear: &GroupedLinear, plan: &Plan) -> Result<Tensor> {
    dispatch!(OP, "x", x, T => {
        let on = OnGpu::of(x.device())?;
        let (n_rows, n_out) = (plan.n_rows(), linear.out_features());
        if n_rows == 0 {
            return on.no_rows::<T>((n_rows, n_out));
        }
        let mut y = on.room::<T>(n_rows * n_out)?;
        {
            let offsets = offsets(&on, linear, plan)?;
            let projection = Projection::new(linear, Of::All)?;
            let (weights, rows) = (projection.on_device::<T>(&on)?, OnDevice::<T>::of(&on, OP, "x", &x)?);
            let y = on.gpu.rows_mut(&mut y, n_out)?;
            let rows = rows.rows(&on.gpu, linear.in_features())?;
            grouped_gemm::forward(&on.gpu, &offsets, &rows, &weights.grouped(&on.gpu)?, y)?;
        }
        let node = Node { x: x.clone(), linear: linear.clone(), plan: plan.clone() };
        let inputs = std::iter::once(x).chain(linear.tensors().cloned()).collect();
        Ok(record_storage(inputs, on.storage(y), (n_rows, n_out), node)?)
    })
}

/// The rows of each weight; a shared one needs no plan on the device.
fn offsets<'a>(on: &'a OnGpu, linear: &GroupedLinear, plan: &'a Plan) -> Result<DeviceOffsets<'a>> {
    match linear.weights() {
        [_] => Ok(DeviceOffsets::single(plan.n_rows())),
        _ => Ok(plan.on(on)?.modality_offsets(&on.gpu)),
    }
}

struct Node {
    x: Tensor,
    linear: GroupedLinear,
    plan: Plan,
}

impl Node {
    fn gradients<T: GpuFloat>(&self, grad: &Tensor, needed: &[bool]) -> Result<Vec<Option<Tensor>>> {
        let on = OnGpu::of(self.x.device())?;
        let gpu = &on.gpu;
        let (n_in, n_out) = (self.linear.in_features(), self.linear.out_features());
        let offsets = offsets(&on, &self.linear, &self.plan)?;
        let projection = Projection::new(&self.linear, Of::All)?;
        let (weights, x) = (projection.on_device::<T>(&on)?, OnDevice::<T>::of(&on, OP, "x", &self.x)?);
        let grad = OnDevice::<T>::of(&on, OP, "grad_output", grad)?;
        let (weights, x, grad) = (weights.grouped(gpu)?, x.rows(gpu, n_in)?, grad.rows(gpu, n_out)?);
        let mut all = vec![None];
        if needed[0] {
            let mut grad_x = on.room::<T>(self.x.elem_count())?;
            let to = gpu.rows_mut(&mut grad_x, n_in)?;
            grouped_gemm::backward_input(gpu, &offsets, &grad, &weights, to, Into::Overwrite)?;
            all[0] = Some(on.tensor(grad_x, self.x.shape()));
        }
        let mut grads = ProjectionGrads::<T>::new(&on, &self.linear)?;
        let len = grouped_gemm::backward_weights_workspace_len(self.plan.n_rows(), &weights);
        let mut workspace = on.room::<f32>(len)?;
        let scratch = gpu.write(&mut workspace).first("workspace", len)?;
        grouped_gemm::backward_weights(gpu, &offsets, &x, &grad, &weights, grads.write(gpu), scratch)?;
        all.extend(grads.into_tensors(&on, &self.linear)?);
        Ok(all)
    }
}

impl Backward for Node {
    fn name(&self) -> &'static str {
        OP
    }
    fn backward(&self, grad: &Tensor, needed: &[bool]) -> candle_core::Result<Vec<Option<Tensor>>> {
        Ok(dispatch!(OP, "grad_output", grad, T => self.gradients::<T>(grad, needed))?)
    }
}
