//! Arguments of attention, once for CPU and GPU, and the checks that they pass before anything is computed.
//!
//! `Rows`, `Layout` and `Mask` are views of the memory in question: [`attention`](crate::attention) names them for the host,
//! `cuda::attention` for the device.

use crate::error::{Error, MAX_SIZE, Result, expect_limit, expect_size};
use crate::shape::{Elements, Matrix, Sequences, expect_elements, expect_matrix};

pub(crate) const OP: &str = "attention";

/// Inputs; `n_rows = batch * seqlen`, `width = n_heads * head_dim`.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct AttentionInputs<Rows, Layout, Mask> {
    /// Which row a position has.
    pub layout: Layout,
    /// Which keys a query meets.
    pub mask: Mask,
    /// Number of heads.
    pub n_heads: usize,
    /// `(n_rows, width)`: queries.
    pub q: Rows,
    /// `(n_rows, width)`: keys.
    pub k: Rows,
    /// `(n_rows, width)`: values.
    pub v: Rows,
    /// Factor on a product of a query and a key; `head_dim^-1/2` if not given.
    pub scale: Option<f64>,
}

/// What the backward pass writes, all overwritten.
#[derive(Debug)]
#[non_exhaustive]
pub struct AttentionGrads<RowsMut> {
    /// `(n_rows, width)`.
    pub grad_q: RowsMut,
    /// `(n_rows, width)`.
    pub grad_k: RowsMut,
    /// `(n_rows, width)`.
    pub grad_v: RowsMut,
}

impl<Rows, Layout, Mask> AttentionInputs<Rows, Layout, Mask> {
    /// Attention with the usual scale.
    pub fn new(layout: Layout, mask: Mask, n_heads: usize, q: Rows, k: Rows, v: Rows) -> Self {
        Self { layout, mask, n_heads, q, k, v, scale: None }
    }

    /// With another scale.
    #[must_use]
    pub fn with_scale(self, scale: impl Into<Option<f64>>) -> Self {
        Self { scale: scale.into(), ..self }
    }
}

impl<RowsMut> AttentionGrads<RowsMut> {
    /// Gradients of queries, keys and values.
    pub fn new(grad_q: RowsMut, grad_k: RowsMut, grad_v: RowsMut) -> Self {
        Self { grad_q, grad_k, grad_v }
    }
}

/// Sizes, once they are known to agree.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dims {
    pub batch: usize,
    pub seqlen: usize,
    pub n_heads: usize,
    pub head_dim: usize,
    pub scale: f64,
}

impl Dims {
    /// Shape of q, k, v, the output and their gradients.
    pub fn rows(&self) -> (usize, usize) {
        (self.batch * self.seqlen, self.n_heads * self.head_dim)
    }

    /// Checks what has a number for each head and position.
    pub fn expect_lse(&self, arg: &'static str, lse: &impl Elements) -> Result<()> {
        expect_elements(OP, arg, (self.batch * self.seqlen).saturating_mul(self.n_heads), lse)
    }
}

impl<Rows, Layout, Mask> AttentionInputs<Rows, Layout, Mask> {
    pub(crate) fn validate(&self) -> Result<Dims>
    where
        Rows: Matrix,
        Layout: Sequences,
        Mask: Sequences,
    {
        let (width, n_heads) = (self.q.width(), self.n_heads);
        expect_limit(OP, "width", MAX_SIZE, width)?;
        expect_limit(OP, "n_heads", width, n_heads)?;
        // Heads have one width.
        expect_size(OP, "q", "columns", width / n_heads * n_heads, width)?;
        let (batch, seqlen) = (self.layout.batch(), self.layout.seqlen());
        expect_size(OP, "mask", "sequences", batch, self.mask.batch())?;
        expect_size(OP, "mask", "positions", seqlen, self.mask.seqlen())?;
        let head_dim = width / n_heads;
        let scale = self.scale.unwrap_or((head_dim as f64).sqrt().recip());
        expect_size(OP, "scale", "finite numbers", 1, usize::from(scale.is_finite()))?;
        let dims = Dims { batch, seqlen, n_heads, head_dim, scale };
        for (arg, rows) in [("q", &self.q), ("k", &self.k), ("v", &self.v)] {
            expect_matrix(OP, arg, dims.rows(), rows)?;
        }
        if seqlen > i32::MAX as usize / 2 {
            return Err(Error::Limit { op: OP, arg: "seqlen", min: 0, max: i32::MAX as usize / 2, got: seqlen });
        }
        Ok(dims)
    }
}

impl<RowsMut> AttentionGrads<RowsMut> {
    pub(crate) fn validate(&self, dims: Dims) -> Result<()>
    where
        RowsMut: Matrix,
    {
        expect_matrix(OP, "grad_q", dims.rows(), &self.grad_q)?;
        expect_matrix(OP, "grad_k", dims.rows(), &self.grad_k)?;
        expect_matrix(OP, "grad_v", dims.rows(), &self.grad_v)
    }
}
