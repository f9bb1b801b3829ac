//! Rows and positions on the GPU.

use candle_core::{Storage, Tensor};
use mom_kernels::cuda::cudarc::driver::CudaSlice;
use mom_kernels::cuda::embedding;

use crate::plan::Direction;
use crate::{Plan, Result};

use super::on_device::OnDevice;
use super::on_gpu::{GpuFloat, OnGpu, dispatch};

/// The rows of `x`, which is contiguous, at their other places.
pub(crate) fn moved_rows(arg: &'static str, x: &Tensor, plan: &Plan, direction: Direction) -> Result<Storage> {
    dispatch!("rows", arg, x, T => {
        let on = OnGpu::of(x.device())?;
        Ok(on.storage(gather::<T>(arg, &on, x, plan, direction)?))
    })
}

fn gather<T: GpuFloat>(
    arg: &'static str,
    on: &OnGpu,
    x: &Tensor,
    plan: &Plan,
    direction: Direction,
) -> Result<CudaSlice<T>> {
    if x.elem_count() == 0 {
        return on.room(0);
    }
    let gpu = &*on.gpu;
    let features = x.dims().last().copied().unwrap_or(0);
    let sources = gpu.upload(direction.sources(plan))?;
    let (mut moved, mut out_of_range) = (on.room::<T>(x.elem_count())?, gpu.zeros::<u32>(1)?);
    let from = OnDevice::<T>::of(on, "rows", arg, x)?;
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
