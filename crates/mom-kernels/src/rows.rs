//! Matrices of rows: one token a row, channels contiguous, rows a fixed stride apart.

use std::marker::PhantomData;

use crate::error::{Error, MAX_SIZE, Result, expect_limit, expect_size};

/// A read-only matrix `(n_rows, width)` whose rows lie `stride` elements apart.
///
/// A stride larger than the width makes a part of wider rows an argument without a copy: the gate `z` is the right half
/// of in_proj's output, `B` and `C` are columns of x_proj's.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a, T> {
    data: &'a [T],
    n_rows: usize,
    width: usize,
    stride: usize,
}

impl<'a, T> Rows<'a, T> {
    /// Dense rows of `width` elements; `arg` names them in an error.
    ///
    /// # Errors
    /// A length that is no multiple of the width, or a width of zero.
    pub fn new(arg: &'static str, data: &'a [T], width: usize) -> Result<Self> {
        let n_rows = whole_rows(arg, data.len(), width)?;
        Ok(Self { data, n_rows, width, stride: width })
    }

    /// The columns `start..start + width` of every row, without a copy.
    ///
    /// # Errors
    /// Columns that these rows do not have.
    pub fn columns(self, start: usize, width: usize) -> Result<Self> {
        expect_columns(start, width, self.width)?;
        let data = if self.n_rows == 0 { self.data } else { &self.data[start..] };
        Ok(Self { data, n_rows: self.n_rows, width, stride: self.stride })
    }

    /// Number of rows.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Elements in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Elements between the starts of two rows.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// One row.
    #[inline(always)]
    pub fn row(&self, row: usize) -> &'a [T] {
        let start = row * self.stride;
        &self.data[start..start + self.width]
    }

    /// The elements from the start of a row on.
    pub(crate) fn rows_from(&self, row: usize) -> &'a [T] {
        self.data.get(row * self.stride..).unwrap_or_default()
    }

    pub(crate) fn expect(&self, op: &'static str, arg: &'static str, n_rows: usize, width: usize) -> Result<()> {
        expect_size(op, arg, "rows", n_rows, self.n_rows)?;
        expect_size(op, arg, "columns", width, self.width)
    }
}

/// A writable matrix `(n_rows, width)`; as [`Rows`].
///
/// It owns its columns alone: [`Self::split_columns`] makes two writable halves of one matrix.
#[derive(Debug)]
pub struct RowsMut<'a, T>(DisjointRows<'a, T>);

impl<'a, T> RowsMut<'a, T> {
    /// Dense rows of `width` elements; `arg` names them in an error.
    ///
    /// # Errors
    /// A length that is no multiple of the width, or a width of zero.
    pub fn new(arg: &'static str, data: &'a mut [T], width: usize) -> Result<Self> {
        let n_rows = whole_rows(arg, data.len(), width)?;
        Ok(Self(DisjointRows { data: data.as_mut_ptr(), n_rows, width, stride: width, life: PhantomData }))
    }

    /// Splits the columns in two, `(..at, at..)`, which interleave in memory and may be written apart.
    ///
    /// # Errors
    /// More columns on the left than these rows have.
    pub fn split_columns(self, at: usize) -> Result<(Self, Self)> {
        let whole = self.0;
        expect_columns(0, at, whole.width)?;
        // SAFETY: column `at` of row 0 lies inside the allocation, or one past its end, whenever there is a row.
        let right = if whole.n_rows == 0 { whole.data } else { unsafe { whole.data.add(at) } };
        let width = whole.width - at;
        Ok((Self(DisjointRows { width: at, ..whole }), Self(DisjointRows { data: right, width, ..whole })))
    }

    /// Number of rows.
    pub fn n_rows(&self) -> usize {
        self.0.n_rows
    }

    /// Elements in a row.
    pub fn width(&self) -> usize {
        self.0.width
    }

    /// One row.
    #[inline(always)]
    pub fn row_mut(&mut self, row: usize) -> &mut [T] {
        // SAFETY: this matrix owns its columns, and `self` is borrowed for as long as the row is.
        unsafe { self.0.block(row, 0, self.0.width) }
    }

    /// A view for parallel writers of disjoint parts.
    pub(crate) fn disjoint(self) -> DisjointRows<'a, T> {
        self.0
    }
}

/// Rows that several threads write at once, each its own rows or columns.
///
/// Safe code cannot make one from shared data: it starts from an exclusive [`RowsMut`]. What the type cannot prove, that
/// two tasks never write one element, each user proves at its `block` calls.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DisjointRows<'a, T> {
    data: *mut T,
    n_rows: usize,
    width: usize,
    stride: usize,
    life: PhantomData<&'a mut T>,
}

// SAFETY: a DisjointRows is an exclusive borrow split by its users into disjoint parts; T crosses threads as itself.
unsafe impl<T: Send> Send for DisjointRows<'_, T> {}
// SAFETY: as above; sharing the handle shares no element, since `block` demands disjoint parts.
unsafe impl<T: Send> Sync for DisjointRows<'_, T> {}

impl<'a, T> DisjointRows<'a, T> {
    pub(crate) fn n_rows(&self) -> usize {
        self.n_rows
    }

    pub(crate) fn width(&self) -> usize {
        self.width
    }

    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    pub(crate) fn as_mut_ptr(&self) -> *mut T {
        self.data
    }

    /// The rows `start..start + n_rows`, as a matrix of their own.
    pub(crate) fn row_range(self, start: usize, n_rows: usize) -> Self {
        assert!(start + n_rows <= self.n_rows);
        // SAFETY: inside the allocation by the assertion; an empty range keeps the start.
        let data = if n_rows == 0 { self.data } else { unsafe { self.data.add(start * self.stride) } };
        Self { data, n_rows, ..self }
    }

    /// The elements `start..start + len` of one row.
    ///
    /// # Safety
    /// No other live slice covers any of these elements.
    #[inline(always)]
    pub(crate) unsafe fn block(&self, row: usize, start: usize, len: usize) -> &'a mut [T] {
        assert!(row < self.n_rows && start + len <= self.width);
        // SAFETY: inside the allocation by the assertion; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(row * self.stride + start), len) }
    }
}

fn whole_rows(arg: &'static str, len: usize, width: usize) -> Result<usize> {
    expect_limit("width of rows", arg, MAX_SIZE, width)?;
    let n_rows = len / width;
    expect_size("rows", arg, "elements", n_rows * width, len)?;
    Ok(n_rows)
}

fn expect_columns(start: usize, width: usize, available: usize) -> Result<()> {
    let end = start.saturating_add(width);
    if end > available {
        return Err(Error::Limit { op: "columns", arg: "end", min: 0, max: available, got: end });
    }
    Ok(())
}
