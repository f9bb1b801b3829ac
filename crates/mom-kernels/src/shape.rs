//! What the check of an argument needs to know of it, wherever its memory lies: sizes, no address.
//!
//! The arguments of an operation are one struct, generic over the views that it holds: host slices and [`Rows`], or views of
//! device memory. These traits let one check read both.

use crate::error::{Result, expect_size};
use crate::rows::{Rows, RowsMut};

/// Elements side by side.
pub(crate) trait Elements {
    fn n_elements(&self) -> usize;
}

/// A matrix of rows.
pub(crate) trait Matrix {
    fn n_rows(&self) -> usize;
    fn width(&self) -> usize;
}

/// How time runs through rows.
pub(crate) trait Sequences {
    fn batch(&self) -> usize;
    fn seqlen(&self) -> usize;
}

/// The rows of each modality.
pub(crate) trait Groups {
    fn n_groups(&self) -> usize;
    fn n_rows(&self) -> usize;
}

impl<T> Elements for &[T] {
    fn n_elements(&self) -> usize {
        self.len()
    }
}

impl<T> Elements for &mut [T] {
    fn n_elements(&self) -> usize {
        self.len()
    }
}

impl<T> Matrix for Rows<'_, T> {
    fn n_rows(&self) -> usize {
        self.n_rows()
    }

    fn width(&self) -> usize {
        self.width()
    }
}

impl<T> Matrix for RowsMut<'_, T> {
    fn n_rows(&self) -> usize {
        self.n_rows()
    }

    fn width(&self) -> usize {
        self.width()
    }
}

impl<G: Groups> Groups for &G {
    fn n_groups(&self) -> usize {
        (**self).n_groups()
    }

    fn n_rows(&self) -> usize {
        (**self).n_rows()
    }
}

impl<M: Matrix> Matrix for &M {
    fn n_rows(&self) -> usize {
        (**self).n_rows()
    }

    fn width(&self) -> usize {
        (**self).width()
    }
}

/// Checks the number of elements.
pub(crate) fn expect_elements(op: &'static str, arg: &'static str, expected: usize, of: &impl Elements) -> Result<()> {
    expect_size(op, arg, "elements", expected, of.n_elements())
}

/// The same where there is such an argument.
pub(crate) fn expect_any_elements(
    op: &'static str,
    arg: &'static str,
    expected: usize,
    of: Option<&impl Elements>,
) -> Result<()> {
    of.map_or(Ok(()), |of| expect_elements(op, arg, expected, of))
}

/// Checks the shape of a matrix.
pub(crate) fn expect_matrix(
    op: &'static str,
    arg: &'static str,
    (n_rows, width): (usize, usize),
    of: &impl Matrix,
) -> Result<()> {
    expect_size(op, arg, "rows", n_rows, of.n_rows())?;
    expect_size(op, arg, "columns", width, of.width())
}

/// The same where there is such an argument.
pub(crate) fn expect_any_matrix(
    op: &'static str,
    arg: &'static str,
    shape: (usize, usize),
    of: Option<&impl Matrix>,
) -> Result<()> {
    of.map_or(Ok(()), |of| expect_matrix(op, arg, shape, of))
}
