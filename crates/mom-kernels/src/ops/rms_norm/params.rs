//! What the norm checks before anything is computed, once for CPU and GPU, and the arguments that are many.

use crate::error::{MAX_SIZE, Result, expect_limit};
use crate::shape::{Elements, Matrix, expect_any_matrix, expect_elements, expect_matrix};

pub(crate) const OP: &str = "rms_norm";

/// What is added to x before the norm, and where the sum goes.
#[derive(Debug)]
#[non_exhaustive]
pub struct Residual<Rows, RowsMut> {
    /// `(n_rows, d_model)`.
    pub residual: Rows,
    /// `(n_rows, d_model)`: x + residual, rounded to the element type; what is normed.
    pub sum: RowsMut,
}

/// Inputs of the backward pass.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct NormInputs<Rows, Slice> {
    /// `(n_rows, d_model)`: what was normed, the sum where there was a residual.
    pub x: Rows,
    /// `(d_model)`.
    pub weight: Slice,
    /// As in the forward pass.
    pub eps: f32,
    /// `(n_rows, d_model)`.
    pub grad_y: Rows,
    /// `(n_rows, d_model)`: the gradient that reaches the sum past the norm, added to `grad_x`.
    pub grad_sum: Option<Rows>,
}

impl<Rows, RowsMut> Residual<Rows, RowsMut> {
    /// `sum = x + residual`.
    pub fn new(residual: Rows, sum: RowsMut) -> Self {
        Self { residual, sum }
    }
}

impl<Rows, Slice> NormInputs<Rows, Slice> {
    /// What the forward pass read, and the gradient of its output.
    pub fn new(x: Rows, weight: Slice, eps: f32, grad_y: Rows) -> Self {
        Self { x, weight, eps, grad_y, grad_sum: None }
    }

    /// And the gradient that reaches the sum past the norm.
    #[must_use]
    pub fn with_grad_sum(self, grad_sum: impl Into<Option<Rows>>) -> Self {
        Self { grad_sum: grad_sum.into(), ..self }
    }
}

/// Rows and width of x, where the weight and y fit them.
pub(crate) fn validate_forward(x: &impl Matrix, weight: &impl Elements, y: &impl Matrix) -> Result<(usize, usize)> {
    let shape = validate_input(x, weight)?;
    expect_matrix(OP, "y", shape, y)?;
    Ok(shape)
}

/// Rows and width of x, where everything that the backward pass takes fits them.
pub(crate) fn validate_backward<Rows: Matrix>(
    (x, weight): (&Rows, &impl Elements),
    grad_y: &Rows,
    grad_sum: Option<&Rows>,
    grad_x: &impl Matrix,
    grad_weight: &impl Elements,
) -> Result<(usize, usize)> {
    let shape = validate_input(x, weight)?;
    expect_elements(OP, "grad_weight", shape.1, grad_weight)?;
    expect_matrix(OP, "grad_y", shape, grad_y)?;
    expect_matrix(OP, "grad_x", shape, grad_x)?;
    expect_any_matrix(OP, "grad_sum", shape, grad_sum)?;
    Ok(shape)
}

fn validate_input(x: &impl Matrix, weight: &impl Elements) -> Result<(usize, usize)> {
    expect_limit(OP, "d_model", MAX_SIZE, x.width())?;
    expect_elements(OP, "weight", x.width(), weight)?;
    Ok((x.n_rows(), x.width()))
}
