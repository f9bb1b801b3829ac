//! Sums, multiples and SiLU, as recorded functions: candle's own are not on a [`Tape`](crate::autograd::Tape), and on a GPU
//! the driver compiles them for seconds before the first one runs.

use candle_core::Tensor;
use mom_kernels::Element;
use rayon::prelude::*;

use crate::autograd::{Backward, record};
use crate::error::{expect_device, expect_shape};
use crate::host::{Float, Host, contiguous, dispatch, tensor};
use crate::{Error, Result};

/// Elements of a task.
const PIECE: usize = 1 << 14;

/// `a + b`.
///
/// Tensors of one shape and element type on one device: f32 or f64 on the CPU, bf16, f16 or f32 on a GPU.
///
/// # Errors
/// Tensors that are not alike, an element type that the device does not have.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let op = "add";
    let (a, b) = (contiguous(a)?, contiguous(b)?);
    expect_shape(op, "b", a.dims(), &b)?;
    expect_device(op, "b", &a, &b)?;
    let combination = Combination { op, alpha: 1.0, beta: Some(1.0) };
    combination.of(a, Some(b))
}

/// `factor x`. Element types as for [`add`].
///
/// # Errors
/// An element type that the device does not have.
pub fn scaled(x: &Tensor, factor: f64) -> Result<Tensor> {
    Combination { op: "scaled", alpha: factor, beta: None }.of(contiguous(x)?, None)
}

/// `alpha a + beta b`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Combination {
    pub op: &'static str,
    pub alpha: f64,
    pub beta: Option<f64>,
}

impl Combination {
    fn of(self, a: Tensor, b: Option<Tensor>) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if a.device().is_cuda() {
            return crate::cuda::combine(self, a, b);
        }
        dispatch!(self.op, "a", a, T => {
            let out = self.values::<T>(&a, b.as_ref())?;
            let shape = a.shape().clone();
            Ok(record(std::iter::once(a).chain(b).collect(), out, shape, self)?)
        })
    }

    fn values<T: Float>(self, a: &Tensor, b: Option<&Tensor>) -> Result<Vec<T>> {
        let host = Host::<T>::of(self.op, "a", a)?;
        let alpha = <T as Element>::from_f64(self.alpha);
        // One times a value is the value.
        let mut out: Vec<T> = match self.alpha {
            1.0 => host.slice()?.to_vec(),
            _ => host.slice()?.par_iter().with_min_len(PIECE).map(|&a| alpha * a).collect(),
        };
        if let (Some(b), Some(beta)) = (b, self.beta) {
            let host = Host::<T>::of(self.op, "b", b)?;
            let beta = <T as Element>::from_f64(beta);
            let pairs = out.par_iter_mut().with_min_len(PIECE).zip(host.slice()?);
            pairs.for_each(|(out, &b)| *out += beta * b);
        }
        Ok(out)
    }
}

impl Backward for Combination {
    fn name(&self) -> &'static str {
        self.op
    }
    fn backward(&self, grad: &Tensor, needed: &[bool]) -> candle_core::Result<Vec<Option<Tensor>>> {
        let of = |(factor, &needed): (f64, &bool)| {
            let scaled =
                || if factor == 1.0 { Ok(grad.clone()) } else { Ok::<_, Error>(scaled(&grad.detach(), factor)?) };
            needed.then(scaled).transpose()
        };
        let factors = std::iter::once(self.alpha).chain(self.beta);
        Ok(factors.zip(needed).map(of).collect::<Result<_>>()?)
    }
}

const SILU: &str = "silu";

/// `x / (1 + e^-x)`. Element types as for [`add`]. **Saved for backward:** x.
///
/// # Errors
/// An element type that the device does not have.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    let x = contiguous(x)?;
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return crate::cuda::silu(x);
    }
    dispatch!(SILU, "x", x, T => {
        let host = Host::<T>::of(SILU, "x", &x)?;
        let values: Vec<T> = host.slice()?.par_iter().with_min_len(PIECE).map(|&x| x * sigmoid(x)).collect();
        drop(host);
        let shape = x.shape().clone();
        Ok(record(vec![x.clone()], values, shape, Silu(x))?)
    })
}

fn sigmoid<T: Float>(x: T) -> T {
    <T as Element>::from_f64(1.0 / (1.0 + (-Element::to_f64(x)).exp()))
}

struct Silu(Tensor);

impl Silu {
    fn gradient<T: Float>(&self, grad: &Tensor) -> Result<Tensor> {
        let (x, grad) = (Host::<T>::of(SILU, "x", &self.0)?, Host::<T>::of(SILU, "grad_output", grad)?);
        let pairs = x.slice()?.par_iter().with_min_len(PIECE).zip(grad.slice()?);
        let of = |(&x, &grad): (&T, &T)| {
            let s = sigmoid(x);
            grad * (s * (T::ONE + x * (T::ONE - s)))
        };
        tensor(pairs.map(of).collect(), self.0.shape())
    }
}

impl Backward for Silu {
    fn name(&self) -> &'static str {
        SILU
    }
    fn backward(&self, grad: &Tensor, _: &[bool]) -> candle_core::Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(dispatch!(SILU, "grad_output", grad, T => self.gradient::<T>(grad))?)])
    }
}
