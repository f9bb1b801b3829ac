//! Attention over rows in modality order.

use candle_core::Tensor;
use mom_kernels::attention::{self, AttentionGrads, AttentionInputs};
use mom_kernels::{Rows, RowsMut};

use crate::autograd::{Backward, record};
use crate::error::{expect_device, expect_shape, require};
use crate::host::{Float, Host, contiguous, dispatch, tensor};
use crate::{Plan, Result};

pub(crate) const OP: &str = "attention";

/// `softmax(q k' / sqrt(head_dim)) v` of each head, where a query meets the keys of its document up to itself, and inside of a
/// span of the plan ([`Plan::with_spans`]) up to the span's end.
///
/// `q`, `k`, `v`: `(n_rows, n_heads * head_dim)`, rows in modality order. Returns the same shape. **Saved for backward:** all
/// three, the output, and a number for each query and head.
///
/// # Errors
/// Shapes that disagree, heads that do not divide the width, tensors on several devices, an element type that the device does
/// not have: f32 or f64 for all on the CPU; on a GPU bf16 or f32, with heads of at most 64 features.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, n_heads: usize, plan: &Plan) -> Result<Tensor> {
    let (q, k, v) = (contiguous(q)?, contiguous(k)?, contiguous(v)?);
    let width = q.dims().last().copied().unwrap_or(0);
    require(n_heads > 0 && width > 0 && width.is_multiple_of(n_heads), "n_heads", "a divisor of the width", n_heads)?;
    for (arg, rows) in [("q", &q), ("k", &k), ("v", &v)] {
        expect_shape(OP, arg, &[plan.n_rows(), width], rows)?;
        expect_device(OP, arg, &q, rows)?;
    }
    #[cfg(feature = "cuda")]
    if q.device().is_cuda() {
        return crate::cuda::attention([q, k, v], n_heads, plan);
    }
    dispatch!(OP, "q", q, T => {
        let (out, lse) = forward::<T>(&q, &k, &v, n_heads, plan)?;
        let shape = q.shape().clone();
        let node = Node { inputs: [q.clone(), k.clone(), v.clone()], out: out.clone(), lse, n_heads, plan: plan.clone() };
        Ok(record(vec![q, k, v], out, shape, node)?)
    })
}

fn forward<T: Float>(q: &Tensor, k: &Tensor, v: &Tensor, n_heads: usize, plan: &Plan) -> Result<(Vec<T>, Vec<T>)> {
    let hosts = [("q", q), ("k", k), ("v", v)].map(|(arg, x)| Host::<T>::of(OP, arg, x));
    let [q, k, v] = hosts;
    let (q, k, v) = (q?, k?, v?);
    let inputs = inputs(&q, &k, &v, n_heads, plan)?;
    let width = inputs.q.width();
    let mut out = vec![T::ZERO; plan.n_rows() * width];
    let mut lse = vec![T::ZERO; plan.n_rows() * n_heads];
    attention::forward(&inputs, RowsMut::new("out", &mut out, width)?, Some(&mut lse))?;
    Ok((out, lse))
}

fn inputs<'a, T: Float>(
    q: &'a Host<'_, T>,
    k: &'a Host<'_, T>,
    v: &'a Host<'_, T>,
    n_heads: usize,
    plan: &'a Plan,
) -> Result<AttentionInputs<'a, T>> {
    let width = q.slice()?.len().checked_div(plan.n_rows()).unwrap_or(0).max(n_heads);
    let rows = |arg, host: &'a Host<'_, T>| Ok::<_, crate::Error>(Rows::new(arg, host.slice()?, width)?);
    let mask = plan.attention_mask()?;
    Ok(AttentionInputs::new(plan.layout(), mask, n_heads, rows("q", q)?, rows("k", k)?, rows("v", v)?))
}

struct Node<T> {
    inputs: [Tensor; 3],
    out: Vec<T>,
    lse: Vec<T>,
    n_heads: usize,
    plan: Plan,
}

impl<T: Float> Node<T> {
    fn gradients(&self, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let [q, k, v] = &self.inputs;
        let (q_host, k_host, v_host) =
            (Host::<T>::of(OP, "q", q)?, Host::<T>::of(OP, "k", k)?, Host::<T>::of(OP, "v", v)?);
        let grad = Host::<T>::of(OP, "grad_output", grad)?;
        let inputs = inputs(&q_host, &k_host, &v_host, self.n_heads, &self.plan)?;
        let width = inputs.q.width();
        let [mut grad_q, mut grad_k, mut grad_v] = [(); 3].map(|()| vec![T::ZERO; self.out.len()]);
        attention::backward(
            &inputs,
            Rows::new("out", &self.out, width)?,
            &self.lse,
            Rows::new("grad_output", grad.slice()?, width)?,
            AttentionGrads::new(
                RowsMut::new("grad_q", &mut grad_q, width)?,
                RowsMut::new("grad_k", &mut grad_k, width)?,
                RowsMut::new("grad_v", &mut grad_v, width)?,
            ),
        )?;
        [grad_q, grad_k, grad_v].into_iter().map(|grad| Ok(Some(tensor(grad, q.shape())?))).collect()
    }
}

impl<T: Float> Backward for Node<T> {
    fn name(&self) -> &'static str {
        OP
    }
    fn backward(&self, grad: &Tensor, _: &[bool]) -> candle_core::Result<Vec<Option<Tensor>>> {
        Ok(self.gradients(&contiguous(grad)?)?)
    }
}
