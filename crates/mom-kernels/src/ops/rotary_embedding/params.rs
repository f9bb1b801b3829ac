//! The angles, which way to turn, and the checks that arguments pass, once for CPU and GPU.

use crate::error::{Error, MAX_SIZE, Result, expect_limit, expect_size};
use crate::shape::{Matrix, Sequences, expect_matrix};

pub(crate) const OP: &str = "rotary_embedding";

/// Which way features turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// By the angle: the embedding.
    Forward,
    /// Back by it: the gradient of the embedding.
    Backward,
}

impl Direction {
    pub(crate) fn sign(self) -> f64 {
        match self {
            Self::Forward => 1.0,
            Self::Backward => -1.0,
        }
    }
}

/// Cosines and sines of every angle.
#[derive(Debug, Clone, PartialEq)]
pub struct RotaryTable {
    n_positions: usize,
    head_dim: usize,
    /// `(n_positions, head_dim / 2, 2)`.
    turns: Vec<f64>,
}

impl RotaryTable {
    /// The angles of positions below `n_positions`.
    ///
    /// # Errors
    /// A head_dim that is odd or zero, a base that is not above 1.
    pub fn new(n_positions: usize, head_dim: usize, base: f64) -> Result<Self> {
        expect_limit(OP, "head_dim", MAX_SIZE, head_dim)?;
        expect_size(OP, "head_dim", "features", head_dim / 2 * 2, head_dim)?;
        if !(base > 1.0 && base.is_finite()) {
            return Err(Error::Limit { op: OP, arg: "base", min: 2, max: usize::MAX, got: base as usize });
        }
        let half = head_dim / 2;
        let rates: Vec<f64> = (0..half).map(|i| base.powf(-(2.0 * i as f64) / head_dim as f64)).collect();
        let angles = (0..n_positions).flat_map(|t| rates.iter().map(move |rate| t as f64 * rate));
        let turns = angles.flat_map(|angle| [angle.cos(), angle.sin()]).collect();
        Ok(Self { n_positions, head_dim, turns })
    }

    /// Positions that it has angles for.
    pub fn n_positions(&self) -> usize {
        self.n_positions
    }

    /// Features of a head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// `(n_positions, head_dim / 2, 2)`: cosine and sine.
    pub fn turns(&self) -> &[f64] {
        &self.turns
    }
}

/// Checks sizes: `n_heads` heads of `head_dim` features in rows of x and out, a position for each.
pub(crate) fn validate(
    layout: &impl Sequences,
    n_positions: usize,
    (n_heads, head_dim): (usize, usize),
    x: &impl Matrix,
    out: &impl Matrix,
) -> Result<()> {
    let n = layout.batch() * layout.seqlen();
    expect_size(OP, "positions", "elements", n, n_positions)?;
    expect_limit(OP, "n_heads", MAX_SIZE, n_heads)?;
    let shape = (n, n_heads.saturating_mul(head_dim));
    expect_matrix(OP, "x", shape, x)?;
    expect_matrix(OP, "out", shape, out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_heads_and_a_base_that_is_none_are_refused() {
        assert!(RotaryTable::new(4, 3, 10_000.0).unwrap_err().to_string().contains("head_dim"));
        for base in [1.0, f64::NAN, f64::INFINITY] {
            assert!(RotaryTable::new(4, 2, base).unwrap_err().to_string().contains("base"));
        }
    }
}
