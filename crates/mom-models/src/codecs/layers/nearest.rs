//! The nearest row of a table.

use candle_core::{D, DType, Tensor};

use crate::Result;

/// A table of which rows are looked up: by number, or as the nearest one. f32 in every element type, so that which one is
/// nearest does not depend on it more than it must.
#[derive(Debug, Clone)]
pub(in crate::codecs) struct Nearest {
    /// (n_rows, dim)
    rows: Tensor,
    /// (n_rows), half of each row's square
    half_squares: Tensor,
}

/// Distances that are held at once.
const MAX_DISTANCES: usize = 1 << 26;

impl Nearest {
    /// `rows`: (n_rows, dim) f32.
    pub fn new(rows: Tensor) -> Result<Self> {
        let half_squares = (rows.sqr()?.sum(1)? * 0.5)?;
        Ok(Self { rows, half_squares })
    }

    pub fn n_rows(&self) -> usize {
        self.half_squares.elem_count()
    }

    /// Numbers of the rows at the smallest Euclidean distance: `x` (n, dim) to (n) u32. The square of x is the same for
    /// all rows, so that it is left out.
    pub fn codes(&self, x: &Tensor) -> Result<Tensor> {
        let x = x.to_dtype(DType::F32)?.contiguous()?;
        let n = x.dim(0)?;
        let block = (MAX_DISTANCES / self.n_rows().max(1)).max(1);
        let mut parts = Vec::new();
        for start in (0..n).step_by(block) {
            let some = x.narrow(0, start, block.min(n - start))?;
            let distances = self.half_squares.broadcast_sub(&some.matmul(&self.rows.t()?)?)?;
            parts.push(distances.argmin(D::Minus1)?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(&parts, 0)? })
    }

    /// Rows by their numbers: (n) u32, each below [`Self::n_rows`], to (n, dim) f32.
    pub fn rows(&self, codes: &Tensor) -> Result<Tensor> {
        Ok(self.rows.index_select(codes, 0)?)
    }
}
