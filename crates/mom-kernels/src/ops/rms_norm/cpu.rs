//! The norm on the CPU: vectors run over the elements of a row.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::params::{validate_backward, validate_forward};
use crate::error::Result;
use crate::rows::{DisjointRows, Rows, RowsMut};
use crate::simd::{self, Element};

/// Rows that one task sums the weight's gradient over: fixed, so that the sum's order is.
const ROWS_PER_TASK: usize = 64;

/// Normalises rows.
///
/// * `x`, `y`: `(n_rows, d_model)`; `weight`: `(d_model)`; `eps` is added to the mean square.
///
/// # Errors
/// Sizes that disagree, d_model 0. Nothing is written then.
pub fn forward<T: Element>(x: Rows<'_, T>, weight: &[T], eps: f64, y: RowsMut<'_, T>) -> Result<()> {
    validate_forward(&x, &weight, &y)?;
    let y = y.disjoint();
    let n_tasks = x.n_rows().div_ceil(ROWS_PER_TASK);
    (0..n_tasks).into_par_iter().for_each(|task| simd::dispatch(Forward { x, weight, eps, y, task }));
    Ok(())
}

/// Gradients of [`forward`]; `grad_x` and `grad_weight` are overwritten.
///
/// # Errors
/// Sizes that disagree, d_model 0. Nothing is written then.
pub fn backward<T: Element>(
    x: Rows<'_, T>,
    weight: &[T],
    eps: f64,
    grad_y: Rows<'_, T>,
    grad_x: RowsMut<'_, T>,
    grad_weight: &mut [T],
) -> Result<()> {
    let (_, width) = validate_backward((&x, &weight), &grad_y, None, &grad_x, &grad_weight)?;
    let grad_x = grad_x.disjoint();
    let n_tasks = x.n_rows().div_ceil(ROWS_PER_TASK);
    let mut partial = vec![T::ZERO; n_tasks * width];
    partial.par_chunks_exact_mut(width).enumerate().for_each(|(task, grad_weight)| {
        simd::dispatch(Backward { x, weight, eps, grad_y, grad_x, grad_weight, task });
    });
    grad_weight.fill(T::ZERO);
    for partial in partial.chunks_exact(width) {
        for (to, &from) in grad_weight.iter_mut().zip(partial) {
            *to += from;
        }
    }
    Ok(())
}

fn task_rows(task: usize, n_rows: usize) -> std::ops::Range<usize> {
    task * ROWS_PER_TASK..((task + 1) * ROWS_PER_TASK).min(n_rows)
}

/// 1 / rms of a row.
#[inline(always)]
fn inverse_rms<T: Element, S: Simd>(s: S, x: &[T], eps: f64) -> T {
    let mut squares = T::splat(s, T::ZERO);
    for x in x.chunks(T::lanes::<S>()) {
        let x = T::load(s, x);
        squares = T::mul_add(s, x, x, squares);
    }
    T::ONE / (T::vsum(s, squares) / T::from_f64(x.len() as f64) + T::from_f64(eps)).sqrt()
}

struct Forward<'a, T> {
    x: Rows<'a, T>,
    weight: &'a [T],
    eps: f64,
    y: DisjointRows<'a, T>,
    task: usize,
}

impl<T: Element> WithSimd for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let lanes = T::lanes::<S>();
        for row in task_rows(self.task, self.x.n_rows()) {
            let x = self.x.row(row);
            let r = T::splat(s, inverse_rms(s, x, self.eps));
            // SAFETY: each task writes its own rows.
            let y = unsafe { self.y.block(row, 0, x.len()) };
            for ((y, x), w) in y.chunks_mut(lanes).zip(x.chunks(lanes)).zip(self.weight.chunks(lanes)) {
                let normed = T::vmul(s, T::load(s, x), r);
                T::store(s, y, T::vmul(s, normed, T::load(s, w)));
            }
        }
    }
}

struct Backward<'a, T> {
    x: Rows<'a, T>,
    weight: &'a [T],
    eps: f64,
    grad_y: Rows<'a, T>,
    grad_x: DisjointRows<'a, T>,
    grad_weight: &'a mut [T],
    task: usize,
}

impl<T: Element> WithSimd for Backward<'_, T> {
    type Output = ();

    /// With n = x r: dw = dy n, dx = r (dy w - n mean(dy w n)).
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let lanes = T::lanes::<S>();
        for row in task_rows(self.task, self.x.n_rows()) {
            let (x, grad_y) = (self.x.row(row), self.grad_y.row(row));
            let r_scalar = inverse_rms(s, x, self.eps);
            let r = T::splat(s, r_scalar);
            let mut dot = T::splat(s, T::ZERO);
            for (((x, g), w), grad_w) in x
                .chunks(lanes)
                .zip(grad_y.chunks(lanes))
                .zip(self.weight.chunks(lanes))
                .zip(self.grad_weight.chunks_mut(lanes))
            {
                let normed = T::vmul(s, T::load(s, x), r);
                let g = T::load(s, g);
                let by_weight = T::vmul(s, g, normed);
                dot = T::mul_add(s, by_weight, T::load(s, w), dot);
                let sum = T::load(s, grad_w);
                T::store(s, grad_w, T::vadd(s, sum, by_weight));
            }
            let mean = T::vsum(s, dot) / T::from_f64(x.len() as f64);
            let back = T::splat(s, -(mean * r_scalar));
            // SAFETY: each task writes its own rows.
            let grad_x = unsafe { self.grad_x.block(row, 0, x.len()) };
            for (((to, x), g), w) in
                grad_x.chunks_mut(lanes).zip(x.chunks(lanes)).zip(grad_y.chunks(lanes)).zip(self.weight.chunks(lanes))
            {
                let through = T::vmul(s, T::load(s, g), T::load(s, w));
                let value = T::mul_add(s, T::load(s, x), back, through);
                T::store(s, to, T::vmul(s, value, r));
            }
        }
    }
}
