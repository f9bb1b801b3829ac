//! Ranges of rows on the GPU: copies within the device, without a kernel.

use std::ops::Range;

use candle_core::Tensor;
use mom_kernels::cuda::cudarc::driver::CudaSlice;

use super::on_device::OnDevice;
use super::on_gpu::{GpuFloat, OnGpu, dispatch, driver_error};
use crate::Result;
use crate::autograd::record_storage;
use crate::ops::{Narrow, Stack};

const OP: &str = "row_ranges";

/// Contiguous tensors one behind another.
pub(super) fn joined<T: GpuFloat>(on: &OnGpu, parts: &[Tensor]) -> Result<CudaSlice<T>> {
    let mut all = on.room::<T>(parts.iter().map(Tensor::elem_count).sum())?;
    let mut at = 0;
    for part in parts.iter().filter(|part| part.elem_count() > 0) {
        let from = OnDevice::<T>::of(on, OP, "part", part)?;
        let mut to = all.slice_mut(at..at + from.len());
        on.gpu.stream().memcpy_dtod(&from.slice()?, &mut to).map_err(driver_error("copying rows"))?;
        at += from.len();
    }
    Ok(all)
}

/// States of several sequences, `(batch, .., ..)` in f32, one behind another.
pub(crate) fn joined_states(parts: &[Tensor]) -> Result<Tensor> {
    let Some(first) = parts.first() else { return Err(no_part()) };
    let (_, height, width) = first.dims3()?;
    let batch: usize = parts.iter().map(|part| part.dims().first().copied().unwrap_or(0)).sum();
    let on = OnGpu::of(first.device())?;
    Ok(on.tensor(joined::<f32>(&on, parts)?, (batch, height, width)))
}

fn no_part() -> crate::Error {
    mom_kernels::Error::Limit { op: OP, arg: "parts", min: 1, max: usize::MAX, got: 0 }.into()
}

/// As the operation of the host, whose checks were passed.
pub(crate) fn narrow_rows(x: Tensor, rows: Range<usize>, node: Narrow) -> Result<Tensor> {
    let shape = (rows.len(), x.dim(1)?);
    dispatch!(OP, "x", x, T => {
        let on = OnGpu::of(x.device())?;
        if rows.is_empty() || shape.1 == 0 {
            return on.no_rows::<T>(shape);
        }
        let part = joined::<T>(&on, &[x.detach().narrow(0, rows.start, rows.len())?])?;
        Ok(record_storage(vec![x], on.storage(part), shape, node)?)
    })
}

/// `n_rows` rows of zeros but for those of `grad`, behind `before` others.
pub(crate) fn within_rows(grad: &Tensor, before: usize, n_rows: usize) -> Result<Tensor> {
    let (_, width) = grad.dims2()?;
    dispatch!(OP, "grad_output", grad, T => {
        let on = OnGpu::of(grad.device())?;
        let mut all = on.gpu.zeros::<T>(n_rows * width)?;
        let from = OnDevice::<T>::of(&on, OP, "grad_output", grad)?;
        if !from.is_empty() {
            let mut to = all.slice_mut(before * width..before * width + from.len());
            on.gpu.stream().memcpy_dtod(&from.slice()?, &mut to).map_err(driver_error("copying rows"))?;
        }
        Ok(on.tensor(all, (n_rows, width)))
    })
}

/// As the operation of the host, whose checks were passed; all parts are contiguous.
pub(crate) fn stack_rows(parts: Vec<Tensor>, node: Stack) -> Result<Tensor> {
    let mut n_rows = 0;
    for part in &parts {
        n_rows += part.dim(0)?;
    }
    let Some(first) = parts.first().cloned() else { return Err(no_part()) };
    let shape = (n_rows, first.dim(1)?);
    dispatch!(OP, "part", first, T => {
        let on = OnGpu::of(first.device())?;
        if n_rows * shape.1 == 0 {
            return on.no_rows::<T>(shape);
        }
        let all = joined::<T>(&on, &parts)?;
        Ok(record_storage(parts, on.storage(all), shape, node)?)
    })
}
