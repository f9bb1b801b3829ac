//! Rows and positions on the GPU.

use candle_core::Tensor;

use crate::autograd::{Backward, record_storage};
use crate::plan::Direction;
use crate::{Plan, Result};

use super::on_gpu::{OnGpu, dispatch};

/// As the operation of the host; `x` is contiguous.
pub(crate) fn move_rows(x: Tensor, plan: &Plan, direction: Direction) -> Result<Tensor> {
    if x.elem_count() == 0 {
        let shape = direction.shape(plan, x.dims().last().copied().unwrap_or(0));
        return dispatch!("rows", "x", x, T => OnGpu::of(x.device())?.no_rows::<T>(shape));
    }
    let moved = gather(&x.detach(), plan, direction)?;
    let storage = moved.storage_and_layout().0.try_clone(moved.layout())?;
    Ok(record_storage(vec![x], storage, moved.shape(), Node { plan: plan.clone(), direction })?)
}

fn gather(x: &Tensor, plan: &Plan, direction: Direction) -> candle_core::Result<Tensor> {
    let features = x.dims().last().copied().unwrap_or(0);
    let sources = Tensor::new(direction.sources(plan), x.device())?;
    x.reshape((plan.n_rows(), features))?.index_select(&sources, 0)?.reshape(direction.shape(plan, features))
}

struct Node {
    plan: Plan,
    direction: Direction,
}

impl Backward for Node {
    fn name(&self) -> &'static str {
        "rows"
    }
    /// A permutation's transpose is its inverse.
    fn backward(&self, grad: &Tensor, _: &[bool]) -> candle_core::Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(gather(grad, &self.plan, self.direction.reversed())?)])
    }
}
