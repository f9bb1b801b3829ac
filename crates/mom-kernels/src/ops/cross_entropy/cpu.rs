//! The loss on the CPU.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::params::{OP, expect_rows, validate};
use crate::error::{Error, MAX_SIZE, Result};
use crate::rows::{DisjointRows, RowsMut};
use crate::simd::{self, Element};

/// Loss of one row, in nats.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct RowLoss {
    /// Negative log-likelihood of the target.
    pub nll: f64,
    /// Logarithm of the normaliser; the z-loss is `z lse^2`.
    pub lse: f64,
}

/// What happens to the logits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Gradient {
    /// They are left as scratch: only losses are wanted.
    None,
    /// They become `scale * d loss / d logits` with a z-loss of weight `z`.
    InPlace {
        /// Factor on the gradient: one over the number of targets, say.
        scale: f64,
        /// Weight of the z-loss.
        z: f64,
    },
}

/// Losses of rows of logits, and their gradient.
///
/// * `logits`: `(n_rows, n_classes)`, overwritten.
/// * `targets`: `(n_rows)`, each below `n_classes`.
/// * `losses`: `(n_rows)`, overwritten.
///
/// # Errors
/// Sizes that disagree, rows without a class, a target out of range. Nothing is written then.
pub fn forward_backward<T: Element>(
    logits: RowsMut<'_, T>,
    targets: &[u32],
    gradient: Gradient,
    losses: &mut [RowLoss],
) -> Result<()> {
    let (n_rows, n_classes) = validate(&logits, ("n_classes", 1..=MAX_SIZE), &targets)?;
    expect_rows("losses", n_rows, &&*losses)?;
    if let Some(&target) = targets.iter().find(|&&target| target as usize >= n_classes) {
        return Err(Error::Limit { op: OP, arg: "targets", min: 0, max: n_classes - 1, got: target as usize });
    }
    let logits = logits.disjoint();
    losses.par_iter_mut().with_min_len(8).enumerate().for_each(|(row, loss)| {
        *loss = simd::dispatch(Row { logits, row, target: targets[row] as usize, gradient });
    });
    Ok(())
}

struct Row<'a, T> {
    logits: DisjointRows<'a, T>,
    row: usize,
    target: usize,
    gradient: Gradient,
}

impl<T: Element> WithSimd for Row<'_, T> {
    type Output = RowLoss;

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) -> RowLoss {
        let lanes = T::lanes::<S>();
        // SAFETY: each task has a row of its own.
        let logits = unsafe { self.logits.block(self.row, 0, self.logits.width()) };
        let at_target = logits[self.target];
        // A NaN is never greater, so it does not become the maximum; it reaches the sum through its exponential.
        let max = logits.iter().fold(logits[0], |max, &x| if x > max { x } else { max });
        let max_v = T::splat(s, max);
        let mut sum = 0.0;
        for part in logits.chunks_mut(lanes) {
            let x = T::load(s, part);
            let e = T::exp(s, T::vsub(s, x, max_v));
            T::store(s, part, e);
        }
        // Partial sums of fixed length in T, their total in f64: exact enough for any vocabulary.
        for part in logits.chunks(64 * lanes) {
            let mut partial = T::splat(s, T::ZERO);
            for part in part.chunks(lanes) {
                partial = T::vadd(s, partial, T::load(s, part));
            }
            sum += T::vsum(s, partial).to_f64();
        }
        let lse = max.to_f64() + sum.ln();
        if let Gradient::InPlace { scale, z } = self.gradient {
            let factor = T::splat(s, T::from_f64(scale * (1.0 + 2.0 * z * lse) / sum));
            for part in logits.chunks_mut(lanes) {
                let e = T::load(s, part);
                T::store(s, part, T::vmul(s, e, factor));
            }
            logits[self.target] += T::from_f64(-scale);
        }
        RowLoss { nll: lse - at_target.to_f64(), lse }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loss(logits: &[f64], target: usize, z: f64) -> f64 {
        let max = logits.iter().copied().fold(f64::MIN, f64::max);
        let lse = max + logits.iter().map(|l| (l - max).exp()).sum::<f64>().ln();
        lse - logits[target] + z * lse * lse
    }

    fn run(logits: &[f64], n_classes: usize, targets: &[u32], gradient: Gradient) -> (Vec<f64>, Vec<RowLoss>) {
        let mut out = logits.to_vec();
        let mut losses = vec![RowLoss::default(); targets.len()];
        let rows = RowsMut::new("logits", &mut out, n_classes).unwrap();
        forward_backward(rows, targets, gradient, &mut losses).unwrap();
        (out, losses)
    }

    #[test]
    fn loss_and_gradient_meet_the_definition_and_finite_differences() {
        for n_classes in [1, 2, 7, 33, 300] {
            let logits: Vec<f64> = (0..3 * n_classes).map(|i| (i as f64 * 0.7).sin() * 4.0 + 50.0).collect();
            let targets: Vec<u32> = (0..3).map(|row| (row * 5 % n_classes) as u32).collect();
            let (scale, z) = (0.25, 1e-2);
            let (grad, losses) = run(&logits, n_classes, &targets, Gradient::InPlace { scale, z });
            for row in 0..3 {
                let of_row = &logits[row * n_classes..(row + 1) * n_classes];
                let target = targets[row] as usize;
                let RowLoss { nll, lse } = losses[row];
                assert!((nll + z * lse * lse - loss(of_row, target, z)).abs() < 1e-10);
                for v in 0..n_classes {
                    let mut moved = of_row.to_vec();
                    moved[v] += 1e-5;
                    let up = loss(&moved, target, z);
                    moved[v] -= 2e-5;
                    let difference = scale * (up - loss(&moved, target, z)) / 2e-5;
                    assert!((grad[row * n_classes + v] - difference).abs() < 1e-7, "{n_classes} {row} {v}");
                }
            }
        }
    }

    #[test]
    fn single_precision_agrees_and_a_nan_is_not_swallowed() {
        let logits: Vec<f64> = (0..1000).map(|i| (i as f64 * 1.3).cos() * 9.0).collect();
        let (_, want) = run(&logits, 1000, &[17], Gradient::None);
        let mut single: Vec<f32> = logits.iter().map(|&l| l as f32).collect();
        let mut losses = [RowLoss::default()];
        let rows = RowsMut::new("logits", &mut single, 1000).unwrap();
        forward_backward(rows, &[17], Gradient::None, &mut losses).unwrap();
        assert!((losses[0].nll - want[0].nll).abs() < 1e-5);
        for poisoned in [0, 3, 999] {
            let mut with_nan = logits.clone();
            with_nan[poisoned] = f64::NAN;
            let (_, losses) = run(&with_nan, 1000, &[17], Gradient::None);
            assert!(losses[0].nll.is_nan(), "{poisoned}");
        }
    }

    #[test]
    fn rows_without_a_class_are_refused() {
        let mut logits = [1.0f32; 4];
        let (_, right) = RowsMut::new("logits", &mut logits, 2).unwrap().split_columns(2).unwrap();
        let mut losses = [RowLoss::default(); 2];
        let gradient = Gradient::None;
        let error = forward_backward(right, &[0, 0], gradient, &mut losses).unwrap_err().to_string();
        assert!(error.contains("n_classes"), "{error}");
    }

    #[test]
    fn a_target_out_of_range_is_refused_and_nothing_is_written() {
        let mut logits = [1.0f32, 2.0, 3.0, 4.0];
        let mut losses = [RowLoss::default(); 2];
        let rows = RowsMut::new("logits", &mut logits, 2).unwrap();
        let error = forward_backward(rows, &[1, 2], Gradient::None, &mut losses).unwrap_err();
        assert_eq!(error.to_string(), "cross_entropy: targets = 2 is outside 0..=1");
        assert_eq!(logits, [1.0, 2.0, 3.0, 4.0]);
    }
}
