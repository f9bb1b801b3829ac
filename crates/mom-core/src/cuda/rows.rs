//! Rows and positions on the GPU.

use candle_core::Tensor;
use mom_kernels::cuda::cudarc::driver::CudaSlice;
use mom_kernels::cuda::embedding;

use crate::autograd::{Backward, record_storage};
use crate::plan::Direction;
use crate::{Plan, Result};

use super::on_device::OnDevice;
use super::on_gpu::{GpuFloat, OnGpu, dispatch};

/// As the operation of the host; `x` is contiguous.
pub(crate) fn move_rows(x: Tensor, plan: &Plan, direction: Direction) -> Result<Tensor> {
    if x.elem_count() == 0 {
        let shape = direction.shape(plan, x.dims().last().copied().unwrap_or(0));
        return dispatch!("rows", "x", x, T => OnGpu::of(x.device())?.no_rows::<T>(shape));
    }
    let features = x.dims().last().copied().unwrap_or(0);
    let node = Node { plan: plan.clone(), direction };
    dispatch!("rows", "x", x, T => {
        let on = OnGpu::of(x.device())?;
        let moved = on.storage(gather::<T>(&on, &x, plan, direction)?);
        Ok(record_storage(vec![x], moved, direction.shape(plan, features), node)?)
    })
}

fn gather<T: GpuFloat>(on: &OnGpu, x: &Tensor, plan: &Plan, direction: Direction) -> Result<CudaSlice<T>> {
    let gpu = &*on.gpu;
    let features = x.dims().last().copied().unwrap_or(0);
    let sources = gpu.upload(direction.sources(plan))?;
    let (mut moved, mut out_of_range) = (on.room::<T>(x.elem_count())?, gpu.zeros::<u32>(1)?);
    let from = OnDevice::<T>::of(on, "rows", "x", x)?;
    let mut to = gpu.rows_mut(&mut moved, features)?;
    embedding::forward(
        gpu,
        &from.rows(gpu, features)?,
        &gpu.read(&sources),
        &mut to,
        &mut gpu.write(&mut out_of_range),
    )?;
    drop(to);
    Ok(moved)
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
        let back = self.direction.reversed();
        let shape = back.shape(&self.plan, grad.dims().last().copied().unwrap_or(0));
        let moved: Result<Tensor> = dispatch!("rows", "grad_output", grad, T => {
            let on = OnGpu::of(grad.device())?;
            Ok(on.tensor(gather::<T>(&on, grad, &self.plan, back)?, shape))
        });
        Ok(vec![Some(moved?)])
    }
}
