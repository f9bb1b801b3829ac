//! Between `(batch, seqlen, features)` and rows in modality order, `(n_rows, features)`.

use candle_core::op::BackpropOp;
use candle_core::{Storage, Tensor, WithDType};
use mom_kernels::ModalityPlan;
use rayon::prelude::*;

use crate::autograd::{Backward, record_storage};
use crate::error::expect_shape;
use crate::host::{Float, Host, contiguous, dispatch};
use crate::plan::Direction;
use crate::{Plan, Result};

/// Positions to rows.
///
/// `x`: `(batch, seqlen, features)`. Returns `(n_rows, features)`.
///
/// # Errors
/// A shape that is not the plan's, an unsupported element type or device.
pub fn to_rows(x: &Tensor, plan: &Plan) -> Result<Tensor> {
    let features = last_dim(x);
    expect_shape("to_rows", "x", &[plan.batch(), plan.seqlen(), features], x)?;
    move_rows(x, plan, Direction::ToRows)
}

/// Rows to positions: the inverse of [`to_rows`].
///
/// `x`: `(n_rows, features)`. Returns `(batch, seqlen, features)`.
///
/// # Errors
/// A shape that is not the plan's, an unsupported element type or device.
pub fn to_positions(x: &Tensor, plan: &Plan) -> Result<Tensor> {
    expect_shape("to_positions", "x", &[plan.n_rows(), last_dim(x)], x)?;
    move_rows(x, plan, Direction::ToPositions)
}

fn last_dim(x: &Tensor) -> usize {
    x.dims().last().copied().unwrap_or(0)
}

fn move_rows(x: &Tensor, plan: &Plan, direction: Direction) -> Result<Tensor> {
    let x = contiguous(x)?;
    let shape = direction.shape(plan, last_dim(&x));
    let moved = moved("x", &x, plan, direction)?;
    if x.device().is_cuda() && x.elem_count() == 0 {
        // Off the tape, which would ask the driver for gradients of no bytes.
        return Ok(Tensor::from_storage(moved, shape, BackpropOp::none(), false));
    }
    Ok(record_storage(vec![x], moved, shape, MoveRows { plan: plan.clone(), direction })?)
}

/// The rows of `x`, which is contiguous, at their other places, on its device.
fn moved(arg: &'static str, x: &Tensor, plan: &Plan, direction: Direction) -> Result<Storage> {
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return crate::cuda::moved_rows(arg, x, plan, direction);
    }
    dispatch!("rows", arg, x, T => Ok(Storage::Cpu(T::to_cpu_storage_owned(gather::<T>(arg, x, plan, direction)?))))
}

fn gather<T: Float>(arg: &'static str, x: &Tensor, plan: &ModalityPlan, direction: Direction) -> Result<Vec<T>> {
    let features = last_dim(x);
    let host = Host::<T>::of("rows", arg, x)?;
    let from = host.slice()?;
    let mut to = vec![T::ZERO; plan.n_rows() * features];
    if features > 0 {
        to.par_chunks_exact_mut(features).with_min_len(128).zip(direction.sources(plan)).for_each(|(to, &source)| {
            to.copy_from_slice(&from[source as usize * features..][..features]);
        });
    }
    Ok(to)
}

struct MoveRows {
    plan: Plan,
    direction: Direction,
}

impl Backward for MoveRows {
    fn name(&self) -> &'static str {
        "rows"
    }
    /// A permutation's transpose is its inverse.
    fn backward(&self, grad: &Tensor, _: &[bool]) -> candle_core::Result<Vec<Option<Tensor>>> {
        let back = self.direction.reversed();
        let moved = moved("grad_output", grad, &self.plan, back)?;
        let shape = back.shape(&self.plan, last_dim(grad));
        Ok(vec![Some(Tensor::from_storage(moved, shape, BackpropOp::none(), false))])
    }
}
