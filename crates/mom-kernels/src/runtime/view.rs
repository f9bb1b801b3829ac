//! Views of device memory: what the operations take.
//!
//! A view is made by a [`Gpu`](super::Gpu) and holds cudarc's record of the access: when it is dropped, behind the launches that it
//! went into, other streams learn that this stream has read or written. Lifetimes are those of host slices: a writable
//! view borrows its memory exclusively. A view goes into launches of its own stream alone; another is told so
//! ([`CudaError::ForeignView`](super::CudaError::ForeignView)) before anything is launched.

use std::marker::PhantomData;
use std::rc::Rc;

use cudarc::driver::{CudaSlice, CudaView, CudaViewMut, SyncOnDrop};

use super::error::{CudaError, Result};
use super::stream::Stream;
use crate::error::{Error, expect_size};

/// A borrowed range of device memory. `_access` is dropped, and so recorded, with the last view of the range.
#[derive(Debug, Clone)]
pub(super) struct Range<'a> {
    pub pointer: u64,
    stream: &'a Stream,
    /// Whether another view reads what this one writes: see [`DeviceRowsMut::in_place`](super::DeviceRowsMut::in_place).
    is_read_too: bool,
    _access: Rc<SyncOnDrop<'a>>,
}

impl Range<'_> {
    /// The same access, `bytes` further on.
    pub fn behind(self, bytes: usize) -> Self {
        Self { pointer: self.pointer + bytes as u64, ..self }
    }

    /// The same with or without another view that reads what this one writes.
    pub fn read_too(self, is_read_too: bool) -> Self {
        Self { is_read_too, ..self }
    }

    /// The address for a launch on `stream`.
    ///
    /// # Errors
    /// A view of another stream, which would not wait for this one, or one that another view reads.
    pub fn address(&self, stream: &Stream) -> Result<u64> {
        if self.is_read_too { Err(CudaError::InPlaceView) } else { self.address_in_place(stream) }
    }

    /// The same for a launch that may overwrite what it reads.
    pub fn address_in_place(&self, stream: &Stream) -> Result<u64> {
        if self.stream == stream {
            return Ok(self.pointer);
        }
        Err(CudaError::ForeignView { made_on: self.stream.ordinal(), passed_to: stream.ordinal() })
    }
}

/// Readable device memory.
#[derive(Debug, Clone)]
pub struct DeviceRef<'a, T> {
    pub(super) range: Range<'a>,
    pub(super) len: usize,
    pub(super) element: PhantomData<&'a T>,
}

/// Writable device memory, borrowed exclusively.
#[derive(Debug)]
pub struct DeviceMut<'a, T> {
    pub(super) range: Range<'a>,
    pub(super) len: usize,
    pub(super) element: PhantomData<&'a mut T>,
}

impl Stream {
    /// A readable view of a slice.
    pub fn read<'a, T>(&'a self, slice: &'a CudaSlice<T>) -> DeviceRef<'a, T> {
        self.read_view(slice.as_view())
    }

    /// A readable view of a part of a slice.
    pub fn read_view<'a, T>(&'a self, view: CudaView<'a, T>) -> DeviceRef<'a, T> {
        let len = view.len();
        let (pointer, access) = view.view_ptr(self.stream());
        DeviceRef {
            range: Range { pointer, stream: self, is_read_too: false, _access: Rc::new(access) },
            len,
            element: PhantomData,
        }
    }

    /// A writable view of a slice.
    pub fn write<'a, T>(&'a self, slice: &'a mut CudaSlice<T>) -> DeviceMut<'a, T> {
        self.write_view(slice.as_view_mut())
    }

    /// A writable view of a part of a slice.
    pub fn write_view<'a, T>(&'a self, view: CudaViewMut<'a, T>) -> DeviceMut<'a, T> {
        let len = view.len();
        let (pointer, access) = view.view_ptr_mut(self.stream());
        DeviceMut {
            range: Range { pointer, stream: self, is_read_too: false, _access: Rc::new(access) },
            len,
            element: PhantomData,
        }
    }
}

impl<T> DeviceRef<'_, T> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first `len` elements.
    ///
    /// # Errors
    /// There are fewer.
    pub fn first(self, arg: &'static str, len: usize) -> Result<Self> {
        expect_room(arg, len, self.len)?;
        Ok(Self { len, ..self })
    }

    /// `len` elements from the one at `start` on.
    pub(crate) fn part(self, arg: &'static str, start: usize, len: usize) -> Result<Self> {
        expect_room(arg, start + len, self.len)?;
        Ok(Self { range: self.range.behind(start * size_of::<T>()), len, ..self })
    }

    pub(crate) fn address(&self, stream: &Stream) -> Result<u64> {
        self.range.address(stream)
    }

    /// Whether a vector of `n` elements may start here.
    pub(crate) fn is_aligned(&self, n: usize) -> bool {
        self.range.pointer.is_multiple_of((n * size_of::<T>()).min(16) as u64)
    }

    /// Fails for memory that kernels cannot read by 16 bytes.
    pub(crate) fn expect_vectors(&self, op: &'static str, arg: &'static str) -> Result<()> {
        expect_vectors(op, arg, self.range.pointer)
    }
}

impl<'a, T> DeviceMut<'a, T> {
    /// The same memory for a shorter time.
    pub fn reborrow(&mut self) -> DeviceMut<'_, T> {
        DeviceMut { range: self.range.clone(), len: self.len, element: PhantomData }
    }

    /// The same memory to be read: what was written is.
    pub fn into_ref(self) -> DeviceRef<'a, T> {
        DeviceRef { range: self.range, len: self.len, element: PhantomData }
    }
}

impl<T> DeviceMut<'_, T> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first `len` elements.
    ///
    /// # Errors
    /// There are fewer.
    pub fn first(self, arg: &'static str, len: usize) -> Result<Self> {
        expect_room(arg, len, self.len)?;
        Ok(Self { len, ..self })
    }

    /// Splits in two, `..at` and `at..`.
    pub(crate) fn split_at(self, arg: &'static str, at: usize) -> Result<(Self, Self)> {
        expect_room(arg, at, self.len)?;
        let range = self.range.clone().behind(at * size_of::<T>());
        let tail = Self { range, len: self.len - at, element: PhantomData };
        Ok((Self { len: at, ..self }, tail))
    }

    pub(crate) fn address(&self, stream: &Stream) -> Result<u64> {
        self.range.address(stream)
    }

    /// Whether a vector of `n` elements may start here.
    pub(crate) fn is_aligned(&self, n: usize) -> bool {
        self.range.pointer.is_multiple_of((n * size_of::<T>()).min(16) as u64)
    }

    /// Fails for memory that kernels cannot read and write by 16 bytes.
    pub(crate) fn expect_vectors(&self, op: &'static str, arg: &'static str) -> Result<()> {
        expect_vectors(op, arg, self.range.pointer)
    }
}

impl<'a> DeviceMut<'a, u8> {
    /// Bytes as `len` elements: what they hold means nothing.
    ///
    /// # Errors
    /// There are fewer, or they do not begin where such an element may.
    pub fn cast<T>(self, arg: &'static str, len: usize) -> Result<DeviceMut<'a, T>> {
        expect_room(arg, len * size_of::<T>(), self.len)?;
        let offset = (self.range.pointer % align_of::<T>() as u64) as usize;
        expect_size("device memory", arg, "bytes off its alignment", 0, offset)?;
        Ok(DeviceMut { range: self.range, len, element: PhantomData })
    }
}

fn expect_room(arg: &'static str, len: usize, got: usize) -> Result<()> {
    if len <= got { Ok(()) } else { Err(Error::Limit { op: "device memory", arg, min: 0, max: got, got: len }.into()) }
}

fn expect_vectors(op: &'static str, arg: &'static str, pointer: u64) -> Result<()> {
    Ok(expect_size(op, arg, "bytes off 16", 0, (pointer % 16) as usize)?)
}

/// The address of optional writable memory, null without.
pub(crate) fn optional_mut<T>(stream: &Stream, memory: &Option<DeviceMut<'_, T>>) -> Result<u64> {
    memory.as_ref().map_or(Ok(0), |memory| memory.address(stream))
}

/// The address of optional readable memory, null without.
pub(crate) fn optional_ref<T>(stream: &Stream, memory: &Option<DeviceRef<'_, T>>) -> Result<u64> {
    memory.as_ref().map_or(Ok(0), |memory| memory.address(stream))
}
