//! Matrices in device memory whose rows may lie apart.

use std::marker::PhantomData;

use cudarc::driver::CudaSlice;

use super::error::Result;
use super::place::Place;
use super::stream::Stream;
use super::view::{DeviceMut, DeviceRef, Range};
use crate::error::{Error, expect_size};

/// A readable matrix `(n_rows, width)` on the device, rows `stride` elements apart: [`crate::Rows`] there.
#[derive(Debug, Clone)]
pub struct DeviceRows<'a, T> {
    range: Range<'a>,
    shape: Shape,
    element: PhantomData<&'a T>,
}

/// A writable matrix on the device that owns its columns alone: [`crate::RowsMut`] there.
#[derive(Debug)]
pub struct DeviceRowsMut<'a, T> {
    range: Range<'a>,
    shape: Shape,
    element: PhantomData<&'a mut T>,
}

/// Largest width: a row's bytes fit 32 bits, whatever the element type.
const MAX_WIDTH: usize = u32::MAX as usize / 8;

#[derive(Debug, Clone, Copy)]
struct Shape {
    n_rows: usize,
    width: usize,
    stride: usize,
}

impl Shape {
    fn dense(arg: &'static str, len: usize, width: usize) -> Result<Self> {
        if !(1..=MAX_WIDTH).contains(&width) {
            return Err(Error::Limit { op: "rows", arg, min: 1, max: MAX_WIDTH, got: width }.into());
        }
        let n_rows = len / width;
        expect_size("rows", arg, "elements", n_rows * width, len)?;
        Ok(Self { n_rows, width, stride: width })
    }

    fn columns(self, start: usize, width: usize) -> Result<Self> {
        let end = start.saturating_add(width);
        if end > self.width || width == 0 {
            return Err(Error::Limit { op: "columns", arg: "end", min: start + 1, max: self.width, got: end }.into());
        }
        Ok(Self { width, ..self })
    }

    fn expect(self, op: &'static str, arg: &'static str, n_rows: usize, width: usize) -> Result<()> {
        expect_size(op, arg, "rows", n_rows, self.n_rows)?;
        Ok(expect_size(op, arg, "columns", width, self.width)?)
    }
}

impl Stream {
    /// Dense readable rows. Errors if the length is no multiple of the width.
    pub fn rows<'a, T>(&'a self, slice: &'a CudaSlice<T>, width: usize) -> Result<DeviceRows<'a, T>> {
        DeviceRows::new("rows", self.read(slice), width)
    }

    /// Dense writable rows. Errors if the length is no multiple of the width.
    pub fn rows_mut<'a, T>(&'a self, slice: &'a mut CudaSlice<T>, width: usize) -> Result<DeviceRowsMut<'a, T>> {
        DeviceRowsMut::new("rows_mut", self.write(slice), width)
    }
}

macro_rules! shared_methods {
    ($name:ident) => {
        impl<'a, T> $name<'a, T> {
            /// Number of rows.
            pub fn n_rows(&self) -> usize {
                self.shape.n_rows
            }

            /// Elements in a row.
            pub fn width(&self) -> usize {
                self.shape.width
            }

            /// Elements between the starts of two rows.
            pub fn stride(&self) -> usize {
                self.shape.stride
            }

            /// The columns `start..start + width` of every row, without a copy.
            ///
            /// # Errors
            /// There are fewer columns.
            pub fn columns(self, start: usize, width: usize) -> Result<Self> {
                let shape = self.shape.columns(start, width)?;
                Ok(Self { range: self.range.behind(start * size_of::<T>()), shape, element: PhantomData })
            }

            pub(crate) fn expect(
                &self,
                op: &'static str,
                arg: &'static str,
                n_rows: usize,
                width: usize,
            ) -> Result<()> {
                self.shape.expect(op, arg, n_rows, width)
            }

            pub(crate) fn address(&self, stream: &Stream) -> Result<u64> {
                self.range.address(stream)
            }

            /// Where in memory the elements lie.
            pub(crate) fn place(&self) -> Place {
                Place {
                    start: self.range.pointer,
                    n_rows: self.shape.n_rows as u64,
                    width_bytes: (self.shape.width * size_of::<T>()) as u64,
                    stride_bytes: (self.shape.stride * size_of::<T>()) as u64,
                }
            }

            /// Bytes between the starts of two rows; [`Shape::dense`] has seen that they fit.
            pub(crate) fn stride_bytes(&self) -> u32 {
                (self.shape.stride * size_of::<T>()) as u32
            }

            /// Whether vectors of `n` elements may start at every `n`th column of every row.
            pub(crate) fn is_aligned(&self, n: usize) -> bool {
                self.range.pointer.is_multiple_of((n * size_of::<T>()).min(16) as u64)
                    && self.shape.stride.is_multiple_of(n)
            }
        }
    };
}

shared_methods!(DeviceRows);
shared_methods!(DeviceRowsMut);

impl<'a, T> DeviceRows<'a, T> {
    /// Dense rows. Errors if the length is no multiple of the width.
    pub fn new(arg: &'static str, data: DeviceRef<'a, T>, width: usize) -> Result<Self> {
        Ok(Self { shape: Shape::dense(arg, data.len, width)?, range: data.range, element: PhantomData })
    }
}

impl<'a, T> DeviceRowsMut<'a, T> {
    /// Dense rows. Errors if the length is no multiple of the width.
    pub fn new(arg: &'static str, data: DeviceMut<'a, T>, width: usize) -> Result<Self> {
        Ok(Self { shape: Shape::dense(arg, data.len, width)?, range: data.range, element: PhantomData })
    }

    /// The same rows to be read: what was written is.
    pub fn into_rows(self) -> DeviceRows<'a, T> {
        DeviceRows { range: self.range.read_too(false), shape: self.shape, element: PhantomData }
    }

    /// The same rows twice, to be read and to be overwritten by one operation that says that it may:
    /// [`selective_scan::backward`](crate::cuda::selective_scan::backward) and
    /// [`causal_conv1d::backward`](crate::cuda::causal_conv1d::backward). Any other refuses the second
    /// ([`CudaError::InPlaceView`](super::CudaError::InPlaceView)).
    pub fn in_place(self) -> (DeviceRows<'a, T>, Self) {
        let range = self.range.clone().read_too(true);
        let to = Self { range, shape: self.shape, element: PhantomData };
        (self.into_rows(), to)
    }

    /// The memory of rows that are not written yet, to hold anything else until they are.
    ///
    /// # Errors
    /// The rows are not dense, or do not begin on 16 bytes.
    pub(crate) fn lend<U>(&mut self, op: &'static str, arg: &'static str) -> Result<DeviceMut<'_, U>> {
        expect_size(op, arg, "elements from row to row", self.shape.width, self.shape.stride)?;
        let len = self.shape.n_rows * self.shape.width * size_of::<T>() / size_of::<U>();
        let memory = DeviceMut { range: self.range.clone(), len, element: PhantomData };
        memory.expect_vectors(op, arg)?;
        Ok(memory)
    }

    /// The address for an operation that may overwrite what it reads, and has compared [`Self::place`]s.
    pub(crate) fn address_in_place(&self, stream: &Stream) -> Result<u64> {
        self.range.address_in_place(stream)
    }

    /// Splits the columns in two, `(..at, at..)`, which interleave in memory and may be written apart.
    ///
    /// # Errors
    /// A half without columns.
    pub fn split_columns(self, at: usize) -> Result<(Self, Self)> {
        self.shape.columns(0, at)?;
        let shape = self.shape.columns(at, self.shape.width.saturating_sub(at))?;
        let range = self.range.clone().behind(at * size_of::<T>());
        let right = Self { range, shape, element: PhantomData };
        Ok((Self { shape: Shape { width: at, ..self.shape }, ..self }, right))
    }
}

/// The address of optional writable rows, null without.
pub(crate) fn optional_rows<T>(stream: &Stream, rows: &Option<DeviceRowsMut<'_, T>>) -> Result<u64> {
    rows.as_ref().map_or(Ok(0), |rows| rows.address(stream))
}
