//! Ranges of a matrix' rows, and matrices one below another, as recorded functions.

use std::ops::Range;

use candle_core::Tensor;

use crate::autograd::{Backward, record};
use crate::error::{expect_device, expect_shape};
use crate::host::{Float, Host, contiguous, dispatch, tensor};
use crate::{Error, Result};

const NARROW: &str = "narrow_rows";
const STACK: &str = "stack_rows";

/// Rows `rows` of `x`, `(n_rows, width)`.
///
/// # Errors
/// A range that reaches behind the last row, an unsupported element type or device.
pub fn narrow_rows(x: &Tensor, rows: Range<usize>) -> Result<Tensor> {
    let x = contiguous(x)?;
    let (n_rows, width) = x.dims2()?;
    if rows.start > rows.end || rows.end > n_rows {
        let limit =
            mom_kernels::Error::Limit { op: NARROW, arg: "rows.end", min: rows.start, max: n_rows, got: rows.end };
        return Err(limit.into());
    }
    let node = Narrow { before: rows.start, n_rows };
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return crate::cuda::narrow_rows(x, rows, node);
    }
    dispatch!(NARROW, "x", x, T => {
        let host = Host::<T>::of(NARROW, "x", &x)?;
        let values = host.slice()?[rows.start * width..rows.end * width].to_vec();
        drop(host);
        Ok(record(vec![x], values, (rows.len(), width), node)?)
    })
}

/// The gradient of a range of rows; that of all others is zero.
pub(crate) struct Narrow {
    before: usize,
    n_rows: usize,
}

impl Narrow {
    fn gradient<T: Float>(&self, grad: &Tensor) -> Result<Tensor> {
        let (_, width) = grad.dims2()?;
        let host = Host::<T>::of(NARROW, "grad_output", grad)?;
        let grad = host.slice()?;
        let mut all = vec![T::ZERO; self.n_rows * width];
        all[self.before * width..][..grad.len()].copy_from_slice(grad);
        tensor(all, (self.n_rows, width))
    }
}

impl Backward for Narrow {
    fn name(&self) -> &'static str {
        NARROW
    }
    fn backward(&self, grad: &Tensor, _: &[bool]) -> candle_core::Result<Vec<Option<Tensor>>> {
        #[cfg(feature = "cuda")]
        if grad.device().is_cuda() {
            return Ok(vec![Some(crate::cuda::within_rows(grad, self.before, self.n_rows)?)]);
        }
        let all: Result<Tensor> = dispatch!(NARROW, "grad_output", grad, T => self.gradient::<T>(grad));
        Ok(vec![Some(all?)])
    }
}

/// The rows of all parts, `(n_rows of each, width)`, one part below another. A single part is given back as it is.
///
/// # Errors
/// No part; parts of several widths, element types or devices.
pub fn stack_rows(parts: &[&Tensor]) -> Result<Tensor> {
    let [first, others @ ..] = parts else {
        return Err(mom_kernels::Error::Limit { op: STACK, arg: "parts", min: 1, max: usize::MAX, got: 0 }.into());
    };
    if others.is_empty() {
        return Ok((*first).clone());
    }
    let parts = parts.iter().map(|part| contiguous(part)).collect::<Result<Vec<_>>>()?;
    let (_, width) = first.dims2()?;
    for part in &parts {
        expect_device(STACK, "part", first, part)?;
        expect_shape(STACK, "part", &[part.dims().first().copied().unwrap_or(0), width], part)?;
        if part.dtype() != first.dtype() {
            let (expected, got) = (first.dtype().as_str(), part.dtype());
            return Err(Error::DType { op: STACK, arg: "part", expected, got });
        }
    }
    let node = Stack(parts.iter().map(|part| part.dim(0)).collect::<candle_core::Result<_>>()?);
    #[cfg(feature = "cuda")]
    if first.device().is_cuda() {
        return crate::cuda::stack_rows(parts, node);
    }
    dispatch!(STACK, "part", first, T => {
        let mut all: Vec<T> = Vec::with_capacity(parts.iter().map(Tensor::elem_count).sum());
        for part in &parts {
            all.extend_from_slice(Host::<T>::of(STACK, "part", part)?.slice()?);
        }
        let shape = (node.0.iter().sum::<usize>(), width);
        Ok(record(parts, all, shape, node)?)
    })
}

/// The gradient of parts of so many rows each: ranges of rows.
pub(crate) struct Stack(Vec<usize>);

impl Backward for Stack {
    fn name(&self) -> &'static str {
        STACK
    }
    fn backward(&self, grad: &Tensor, _: &[bool]) -> candle_core::Result<Vec<Option<Tensor>>> {
        let mut start = 0;
        let range = |&n: &usize| {
            let range = grad.narrow(0, start, n).map(Some);
            start += n;
            range
        };
        self.0.iter().map(range).collect()
    }
}
