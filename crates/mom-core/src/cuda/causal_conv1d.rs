//! Causal depthwise convolution on the GPU.

use candle_core::Tensor;
use mom_kernels::cuda::causal_conv1d::{self as kernels, ConvGrads, ConvInputs};
use mom_kernels::cuda::cudarc::driver::CudaSlice;
use mom_kernels::cuda::{DevicePlan, DeviceRows, Gpu};

use super::on_device::OnDevice;
use super::on_gpu::{GpuFloat, OnGpu, dispatch};
use crate::autograd::{Backward, record_storage};
use crate::{Plan, Result};

const OP: &str = "causal_conv1d";

/// As [`crate::ops::causal_conv1d`], whose checks were passed; taps and bias are f32, all tensors contiguous.
pub(crate) fn causal_conv1d(x: Tensor, weight: Tensor, bias: Option<Tensor>, plan: &Plan) -> Result<Tensor> {
    dispatch!(OP, "x", x, T => {
        let on = OnGpu::of(x.device())?;
        let shape = x.shape().clone();
        if shape.elem_count() == 0 {
            return on.no_rows::<T>(shape);
        }
        let inputs = [&x, &weight].into_iter().chain(&bias).cloned().collect();
        let node = Node { x, weight, bias, plan: plan.clone() };
        let out = node.forward::<T>(&on)?;
        Ok(record_storage(inputs, on.storage(out), shape, node)?)
    })
}

struct Node {
    x: Tensor,
    weight: Tensor,
    bias: Option<Tensor>,
    plan: Plan,
}

/// The tensors of a node, held.
struct Held<'a, T> {
    x: OnDevice<'a, T>,
    weight: OnDevice<'a, f32>,
    bias: Option<OnDevice<'a, f32>>,
    d_inner: usize,
}

impl<T: GpuFloat> Held<'_, T> {
    fn inputs<'b>(&'b self, gpu: &'b Gpu, plan: &'b DevicePlan) -> Result<ConvInputs<'b, T>> {
        Ok(ConvInputs::new(plan.layout(gpu), self.x.rows(gpu, self.d_inner)?, self.weight.view(gpu)?)
            .with_bias(self.bias.as_ref().map(|bias| bias.view(gpu)).transpose()?))
    }
}

impl Node {
    fn held<T: GpuFloat>(&self, on: &OnGpu) -> Result<Held<'_, T>> {
        Ok(Held {
            x: OnDevice::of(on, OP, "x", &self.x)?,
            weight: OnDevice::of(on, OP, "weight", &self.weight)?,
            bias: self.bias.as_ref().map(|bias| OnDevice::of(on, OP, "bias", bias)).transpose()?,
            d_inner: self.weight.dims()[0],
        })
    }

    fn forward<T: GpuFloat>(&self, on: &OnGpu) -> Result<CudaSlice<T>> {
        let gpu = &*on.gpu;
        let held = self.held::<T>(on)?;
        let plan = self.plan.on(on)?;
        let mut out = on.room::<T>(self.x.elem_count())?;
        let to = gpu.rows_mut(&mut out, held.d_inner)?;
        kernels::forward(gpu, &held.inputs(gpu, plan)?, to, None)?;
        Ok(out)
    }

    fn gradients<T: GpuFloat>(&self, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let on = OnGpu::of(self.x.device())?;
        let gpu = &*on.gpu;
        let held = self.held::<T>(&on)?;
        let d_inner = held.d_inner;
        let grad = OnDevice::<T>::of(&on, OP, "grad_output", grad)?;
        let plan = self.plan.on(&on)?;
        let inputs = held.inputs(gpu, plan)?;
        let mut grad_x = on.room::<T>(self.x.elem_count())?;
        let mut grad_weight = on.room::<f32>(self.weight.elem_count())?;
        let mut grad_bias = self.bias.as_ref().map(|bias| on.room::<f32>(bias.elem_count())).transpose()?;
        let mut workspace = on.room::<f32>(kernels::backward_workspace_len(&inputs)?)?;
        let grads = ConvGrads::new(gpu.rows_mut(&mut grad_x, d_inner)?, gpu.write(&mut grad_weight))
            .with_grad_bias(grad_bias.as_mut().map(|bias| gpu.write(bias)));
        let grad: DeviceRows<'_, T> = grad.rows(gpu, d_inner)?;
        kernels::backward(gpu, &inputs, grad, None, grads, gpu.write(&mut workspace))?;
        let mut gradients =
            vec![Some(on.tensor(grad_x, self.x.shape())), Some(on.tensor(grad_weight, self.weight.shape()))];
        if let Some(grad_bias) = grad_bias {
            gradients.push(Some(on.tensor(grad_bias, d_inner)));
        }
        Ok(gradients)
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
