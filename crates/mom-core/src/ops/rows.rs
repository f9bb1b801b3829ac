//! Between `(batch, seqlen, features)` and rows in modality order, `(n_rows, features)`.

use candle_core::Tensor;
use mom_kernels::ModalityPlan;
use rayon::prelude::*;

use crate::autograd::{Backward, record};
use crate::error::expect_shape;
use crate::host::{Float, Host, contiguous, dispatch};
use crate::plan::Direction;
use crate::{Error, Plan, Result};

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
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return crate::cuda::move_rows(x, plan, direction);
    }
    let shape = direction.shape(plan, last_dim(&x));
    let backward = MoveRows { plan: plan.clone(), direction };
    dispatch!("rows", "x", x, T => {
        let moved = gather::<T>(&x, plan, direction)?;
        Ok(record(vec![x], moved, shape, backward)?)
    })
}

fn gather<T: Float>(x: &Tensor, plan: &ModalityPlan, direction: Direction) -> Result<Vec<T>> {
    let features = last_dim(x);
    let host = Host::<T>::of("rows", "x", x)?;
    let from = host.slice()?;
    let mut to = vec![T::ZERO; from.len()];
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
        let shape = back.shape(&self.plan, last_dim(grad));
        let moved = dispatch!("rows", "grad_output", grad, T => {
            let moved = gather::<T>(grad, &self.plan, back)?;
            Ok::<_, Error>(crate::host::tensor(moved, shape)?)
        })?;
        Ok(vec![Some(moved)])
    }
}
