//! A linear layer with weights of its own for each modality, over rows in modality order.

use candle_core::Tensor;
use mom_kernels::grouped_gemm::{self, GroupedGrads, Into as Write};
use mom_kernels::{Rows, RowsMut};

use crate::autograd::{Backward, record};
use crate::error::{expect_device, expect_shape};
use crate::host::{Float, Host, contiguous, dispatch, tensor};
use crate::linear::GroupedLinear;
use crate::{Plan, Result};

const OP: &str = "grouped_linear";

/// `y_r = x_r W_m^T + b_m` for the rows of each modality m.
///
/// `x`: `(n_rows, in_features)`, rows in modality order. Returns `(n_rows, out_features)`. **Saved for backward:** x.
///
/// # Errors
/// Shapes that disagree, tensors on several devices, an element type that the device does not have: f32 or f64 for all
/// on the CPU; on a GPU bf16, f16 or f32, with biases in f32.
pub fn grouped_linear(x: &Tensor, linear: &GroupedLinear, plan: &Plan) -> Result<Tensor> {
    let x = contiguous(x)?;
    expect_shape(OP, "x", &[plan.n_rows(), linear.in_features()], &x)?;
    linear.tensors().try_for_each(|parameter| expect_device(OP, "a weight or bias", &x, parameter))?;
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return crate::cuda::grouped_linear(x, linear, plan);
    }
    let node = Node { x: x.clone(), linear: linear.clone(), plan: plan.clone() };
    dispatch!(OP, "x", x, T => {
        let y = node.forward::<T>()?;
        let inputs = std::iter::once(&x).chain(linear.tensors()).cloned().collect();
        Ok(record(inputs, y, (plan.n_rows(), linear.out_features()), node)?)
    })
}

struct Node {
    x: Tensor,
    linear: GroupedLinear,
    plan: Plan,
}

impl Node {
    fn forward<T: Float>(&self) -> Result<Vec<T>> {
        let (x, hosts) = (Host::<T>::of(OP, "x", &self.x)?, self.linear.hosts::<T>()?);
        let (n_in, n_out) = (self.linear.in_features(), self.linear.out_features());
        let mut y = vec![T::ZERO; self.plan.n_rows() * n_out];
        grouped_gemm::forward(
            self.plan.modality_offsets(),
            Rows::new("x", x.slice()?, n_in)?,
            &hosts.grouped()?,
            RowsMut::new("y", &mut y, n_out)?,
        )?;
        Ok(y)
    }

    fn gradients<T: Float>(&self, grad: &Tensor, needed: &[bool]) -> Result<Vec<Option<Tensor>>> {
        let (x, grad) = (Host::<T>::of(OP, "x", &self.x)?, Host::<T>::of(OP, "grad_output", grad)?);
        let hosts = self.linear.hosts::<T>()?;
        let (n_in, n_out) = (self.linear.in_features(), self.linear.out_features());
        let (x, grad) = (Rows::new("x", x.slice()?, n_in)?, Rows::new("grad_output", grad.slice()?, n_out)?);
        let (offsets, weights) = (self.plan.modality_offsets(), hosts.grouped()?);
        let mut gradients = vec![None];
        if needed[0] {
            let mut grad_x = vec![T::ZERO; self.plan.n_rows() * n_in];
            let to = RowsMut::new("grad_x", &mut grad_x, n_in)?;
            grouped_gemm::backward_input(offsets, grad, &weights, to, Write::Overwrite)?;
            gradients[0] = Some(tensor(grad_x, (self.plan.n_rows(), n_in))?);
        }
        let mut grad_weights = vec![vec![T::ZERO; n_out * n_in]; self.linear.weights().len()];
        let mut grad_biases = vec![vec![T::ZERO; n_out]; self.linear.biases().len()];
        let to = GroupedGrads::new(grad_weights.iter_mut().map(Vec::as_mut_slice).collect())
            .with_grad_biases(weights.biases().map(|_| grad_biases.iter_mut().map(Vec::as_mut_slice).collect()));
        grouped_gemm::backward_weights(offsets, x, grad, &weights, to)?;
        gradients.extend(self.linear.split_gradients(grad_weights, grad_biases)?);
        Ok(gradients)
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
