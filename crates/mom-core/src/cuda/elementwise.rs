//! Elementwise operations on the GPU.

use candle_core::{DType, Tensor};
use mom_kernels::cuda::elementwise as kernels;

use super::on_device::OnDevice;
use super::on_gpu::{GpuFloat, OnGpu, dispatch};
use crate::Result;
use crate::autograd::{Backward, record_storage};
use crate::ops::Combination;

const SILU: &str = "silu";
const CONVERT: &str = "convert";

/// As the operation of the host; both are contiguous, and alike.
pub(crate) fn combine(how: Combination, a: Tensor, b: Option<Tensor>) -> Result<Tensor> {
    let Combination { op, alpha, beta } = how;
    dispatch!(op, "a", a, T => {
        let on = OnGpu::of(a.device())?;
        let gpu = &*on.gpu;
        if a.elem_count() == 0 {
            return on.no_rows::<T>(a.shape());
        }
        let mut out = on.room::<T>(a.elem_count())?;
        {
            let of_a = OnDevice::<T>::of(&on, op, "a", &a)?;
            let to = &mut gpu.write(&mut out);
            match (&b, beta) {
                (Some(b), Some(beta)) => {
                    let of_b = OnDevice::<T>::of(&on, op, "b", b)?;
                    kernels::combine(gpu, alpha as f32, &of_a.view(gpu)?, beta as f32, &of_b.view(gpu)?, to)?;
                }
                _ => kernels::scale(gpu, alpha as f32, &of_a.view(gpu)?, to)?,
            }
        }
        let shape = a.shape().clone();
        Ok(record_storage(std::iter::once(a).chain(b).collect(), on.storage(out), shape, how)?)
    })
}

/// As the operation of the host; `x` is contiguous.
pub(crate) fn silu(x: Tensor) -> Result<Tensor> {
    dispatch!(SILU, "x", x, T => {
        let on = OnGpu::of(x.device())?;
        if x.elem_count() == 0 {
            return on.no_rows::<T>(x.shape());
        }
        let mut out = on.room::<T>(x.elem_count())?;
        let of_x = OnDevice::<T>::of(&on, SILU, "x", &x)?;
        kernels::silu(&on.gpu, &of_x.view(&on.gpu)?, &mut on.gpu.write(&mut out))?;
        drop(of_x);
        let shape = x.shape().clone();
        Ok(record_storage(vec![x.clone()], on.storage(out), shape, Silu(x))?)
    })
}

struct Silu(Tensor);

impl Silu {
    fn gradient<T: GpuFloat>(&self, grad: &Tensor) -> Result<Tensor> {
        let on = OnGpu::of(grad.device())?;
        let gpu = &*on.gpu;
        let mut out = on.room::<T>(grad.elem_count())?;
        let (x, of_out) = (OnDevice::<T>::of(&on, SILU, "x", &self.0)?, OnDevice::<T>::of(&on, SILU, "grad", grad)?);
        kernels::silu_backward(gpu, &x.view(gpu)?, &of_out.view(gpu)?, &mut gpu.write(&mut out))?;
        Ok(on.tensor(out, grad.shape()))
    }
}

impl Backward for Silu {
    fn name(&self) -> &'static str {
        SILU
    }
    fn backward(&self, grad: &Tensor, _: &[bool]) -> candle_core::Result<Vec<Option<Tensor>>> {
        let grad_x: Result<Tensor> = dispatch!(SILU, "grad_output", grad, T => self.gradient::<T>(grad));
        Ok(vec![Some(grad_x?)])
    }
}

/// As [`crate::convert`]; `x` is contiguous, and of another type.
pub(crate) fn convert(x: &Tensor, dtype: DType) -> Result<Tensor> {
    let on = OnGpu::of(x.device())?;
    let gpu = &*on.gpu;
    let n = x.elem_count();
    if x.dtype() == DType::F32 {
        let from = OnDevice::<f32>::of(&on, CONVERT, "x", x)?;
        return match dtype {
            DType::BF16 => narrowed::<super::half::bf16>(&on, &from, x),
            DType::F16 => narrowed::<super::half::f16>(&on, &from, x),
            got => Err(crate::Error::DType { op: CONVERT, arg: "dtype", expected: "bf16, f16 or f32", got }),
        };
    }
    if dtype != DType::F32 {
        return convert(&convert(x, DType::F32)?, dtype);
    }
    dispatch!(CONVERT, "x", x, T => {
        let mut out = on.room::<f32>(n)?;
        let from = OnDevice::<T>::of(&on, CONVERT, "x", x)?;
        kernels::widen(gpu, &from.view(gpu)?, &mut gpu.write(&mut out))?;
        Ok(on.tensor(out, x.shape()))
    })
}

fn narrowed<T: GpuFloat>(on: &OnGpu, from: &OnDevice<'_, f32>, x: &Tensor) -> Result<Tensor> {
    let gpu = &*on.gpu;
    let mut out = on.room::<T>(from.len())?;
    kernels::narrow(gpu, &from.view(gpu)?, &mut gpu.write(&mut out))?;
    Ok(on.tensor(out, x.shape()))
}

/// As [`crate::accumulate`]; both are contiguous, `sum` is f32.
pub(crate) fn accumulate(sum: &Tensor, x: &Tensor) -> Result<Tensor> {
    const OP: &str = "accumulate";
    dispatch!(OP, "x", x, T => {
        let on = OnGpu::of(x.device())?;
        let gpu = &*on.gpu;
        let mut out = on.room::<f32>(x.elem_count())?;
        let (of_sum, of_x) = (OnDevice::<f32>::of(&on, OP, "sum", sum)?, OnDevice::<T>::of(&on, OP, "x", x)?);
        kernels::accumulate(gpu, &of_sum.view(gpu)?, &of_x.view(gpu)?, &mut gpu.write(&mut out))?;
        Ok(on.tensor(out, x.shape()))
    })
}
