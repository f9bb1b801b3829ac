//! Causal depthwise convolution along time, then SiLU.

use candle_core::Tensor;
use mom_kernels::causal_conv1d::{self as kernel, ConvGrads, ConvInputs};
use mom_kernels::{ModalityPlan, Rows, RowsMut};

use crate::autograd::{Backward, record};
use crate::error::{expect_device, expect_shape};
use crate::host::{Float, Host, contiguous, dispatch, tensor};
use crate::{Plan, Result};

const OP: &str = "causal_conv1d";

/// `silu(conv(x))`, every document from a zero window.
///
/// `x`: `(n_rows, d_inner)`, rows in modality order; `weight`: `(d_inner, 1, d_conv)` as PyTorch's Conv1d has it; `bias`:
/// `(d_inner)`. Returns `(n_rows, d_inner)`. **Saved for backward:** x.
///
/// # Errors
/// A plan of chunks, shapes that disagree, d_conv out of range, tensors on several devices, an element type that the device does not have: f32
/// or f64 for all on the CPU; on a GPU bf16, f16 or f32, with taps and bias in f32.
pub fn causal_conv1d(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, plan: &Plan) -> Result<Tensor> {
    plan.expect_whole(OP)?;
    let (x, weight) = (contiguous(x)?, contiguous(weight)?);
    let bias = bias.map(contiguous).transpose()?;
    let (n_rows, d_inner) = (plan.n_rows(), x.dims().last().copied().unwrap_or(0));
    expect_shape(OP, "x", &[n_rows, d_inner], &x)?;
    expect_shape(OP, "weight", &[d_inner, 1, weight.dims().last().copied().unwrap_or(0)], &weight)?;
    expect_device(OP, "weight", &x, &weight)?;
    if let Some(bias) = &bias {
        expect_shape(OP, "bias", &[d_inner], bias)?;
        expect_device(OP, "bias", &x, bias)?;
    }
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return crate::cuda::causal_conv1d(x, weight, bias, plan);
    }
    let inputs = [&x, &weight].into_iter().chain(&bias).cloned().collect();
    let node = Node { x, weight, bias, plan: plan.clone() };
    dispatch!(OP, "x", node.x, T => {
        let out = node.forward::<T>()?;
        Ok(record(inputs, out, (n_rows, d_inner), node)?)
    })
}

struct Node {
    x: Tensor,
    weight: Tensor,
    bias: Option<Tensor>,
    plan: Plan,
}

struct Hosts<'a, T> {
    x: Host<'a, T>,
    weight: Host<'a, T>,
    bias: Option<Host<'a, T>>,
}

impl<T: Float> Hosts<'_, T> {
    fn inputs<'b>(&'b self, plan: &'b ModalityPlan, d_inner: usize) -> Result<ConvInputs<'b, T>> {
        Ok(ConvInputs::new(plan.layout(), Rows::new("x", self.x.slice()?, d_inner)?, self.weight.slice()?)
            .with_bias(self.bias.as_ref().map(Host::slice).transpose()?))
    }
}

impl Node {
    fn d_inner(&self) -> usize {
        self.weight.dims()[0]
    }

    fn hosts<T: Float>(&self) -> Result<Hosts<'_, T>> {
        Ok(Hosts {
            x: Host::of(OP, "x", &self.x)?,
            weight: Host::of(OP, "weight", &self.weight)?,
            bias: self.bias.as_ref().map(|bias| Host::of(OP, "bias", bias)).transpose()?,
        })
    }

    fn forward<T: Float>(&self) -> Result<Vec<T>> {
        let (hosts, d_inner) = (self.hosts::<T>()?, self.d_inner());
        let mut out = vec![T::ZERO; self.plan.n_rows() * d_inner];
        kernel::forward(&hosts.inputs(&self.plan, d_inner)?, RowsMut::new("out", &mut out, d_inner)?, None)?;
        Ok(out)
    }

    fn gradients<T: Float>(&self, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let (hosts, d_inner) = (self.hosts::<T>()?, self.d_inner());
        let grad = Host::<T>::of(OP, "grad_output", grad)?;
        let mut grad_x = vec![T::ZERO; self.plan.n_rows() * d_inner];
        let mut grad_weight = vec![T::ZERO; self.weight.elem_count()];
        let mut grad_bias = self.bias.as_ref().map(|_| vec![T::ZERO; d_inner]);
        let grads = ConvGrads::new(RowsMut::new("grad_x", &mut grad_x, d_inner)?, &mut grad_weight)
            .with_grad_bias(grad_bias.as_deref_mut());
        let grad = Rows::new("grad_output", grad.slice()?, d_inner)?;
        kernel::backward(&hosts.inputs(&self.plan, d_inner)?, grad, None, grads)?;
        let mut gradients =
            vec![Some(tensor(grad_x, self.x.shape())?), Some(tensor(grad_weight, self.weight.shape())?)];
        if let Some(grad) = grad_bias {
            gradients.push(Some(tensor(grad, d_inner)?));
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
