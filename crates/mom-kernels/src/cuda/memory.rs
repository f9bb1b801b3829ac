//! Views of device memory: what the operations take.
//!
//! A view is made by a [`Gpu`] and holds cudarc's record of the access: when it is dropped, behind the launches that it
//! went into, other streams learn that this stream has read or written. Lifetimes are those of host slices: a writable
//! view borrows its memory exclusively. A view goes into launches of its own stream alone; another is told so
//! ([`CudaError::ForeignView`](super::CudaError::ForeignView)) before anything is launched.

use std::cell::Cell;
use std::marker::PhantomData;
use std::rc::Rc;

use cudarc::driver::{CudaSlice, CudaView, CudaViewMut, DeviceRepr, SyncOnDrop, ValidAsZeroBits};

use super::gpu::Gpu;
use super::place::Place;
use crate::error::{Error, Result, expect_size};

/// Element types of activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
    /// IEEE single precision.
    F32,
}

impl Dtype {
    /// As kernels are named.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::F32 => "f32",
        }
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for half::bf16 {}
    impl Sealed for half::f16 {}
    impl Sealed for f32 {}
}

/// An element type of activations: `half::bf16`, `half::f16` or `f32`.
pub trait DeviceElement: sealed::Sealed + DeviceRepr + ValidAsZeroBits + Copy + Send + Sync + 'static {
    /// Its name.
    const DTYPE: Dtype;
}

/// Types that gradients of `W` may have: its own, or f32.
pub trait GradientOf<W>: DeviceElement {}
impl<W: DeviceElement> GradientOf<W> for W {}
impl GradientOf<half::bf16> for f32 {}
impl GradientOf<half::f16> for f32 {}

impl DeviceElement for half::bf16 {
    const DTYPE: Dtype = Dtype::Bf16;
}
impl DeviceElement for half::f16 {
    const DTYPE: Dtype = Dtype::F16;
}
impl DeviceElement for f32 {
    const DTYPE: Dtype = Dtype::F32;
}

/// A borrowed range of device memory. `_access` is dropped, and so recorded, with the last view of the range.
#[derive(Debug, Clone)]
struct Range<'a> {
    pointer: u64,
    gpu: &'a Gpu,
    /// Whether another view reads what this one writes: see [`DeviceRowsMut::in_place`].
    is_read_too: bool,
    _access: Rc<SyncOnDrop<'a>>,
}

/// Why a view has no address.
#[derive(Debug, Clone, Copy)]
enum Misuse {
    /// Devices of the view and of the [`Gpu`] with another stream that asked for it.
    Foreign(usize, usize),
    ReadToo,
}

thread_local! {
    /// What is wrong with a view whose address was asked for, until a launch tells.
    static MISUSE: Cell<Option<Misuse>> = const { Cell::new(None) };
}

impl Range<'_> {
    /// The address for a launch by `gpu`. A view of another stream, which would not wait for this one, has none, nor has
    /// one that another view reads: null, and [`expect_own_views`] is an error, which every launch asks first.
    fn address(&self, gpu: &Gpu) -> u64 {
        if self.is_read_too {
            MISUSE.set(Some(Misuse::ReadToo));
            return 0;
        }
        self.address_in_place(gpu)
    }

    /// The same for a launch that may overwrite what it reads.
    fn address_in_place(&self, gpu: &Gpu) -> u64 {
        if std::ptr::eq(self.gpu, gpu) || self.gpu.stream() == gpu.stream() {
            return self.pointer;
        }
        MISUSE.set(Some(Misuse::Foreign(self.gpu.ordinal(), gpu.ordinal())));
        0
    }
}

/// Whether every address that this thread has asked for since it was last here was one that the asking [`Gpu`] may use.
///
/// It stands between the addresses and what is done with them: in the one place that launches, and before any other call
/// that addresses go to.
pub(super) fn expect_own_views() -> super::error::Result<()> {
    match MISUSE.take() {
        None => Ok(()),
        Some(Misuse::Foreign(made_on, passed_to)) => Err(super::CudaError::ForeignView { made_on, passed_to }),
        Some(Misuse::ReadToo) => Err(super::CudaError::InPlaceView),
    }
}

/// Readable device memory.
#[derive(Debug, Clone)]
pub struct DeviceRef<'a, T> {
    range: Range<'a>,
    len: usize,
    element: PhantomData<&'a T>,
}

/// Writable device memory, borrowed exclusively.
#[derive(Debug)]
pub struct DeviceMut<'a, T> {
    range: Range<'a>,
    len: usize,
    element: PhantomData<&'a mut T>,
}

impl Gpu {
    /// A readable view of a slice.
    pub fn read<'a, T>(&'a self, slice: &'a CudaSlice<T>) -> DeviceRef<'a, T> {
        self.read_view(slice.as_view())
    }

    /// A readable view of a part of a slice.
    pub fn read_view<'a, T>(&'a self, view: CudaView<'a, T>) -> DeviceRef<'a, T> {
        let len = view.len();
        let (pointer, access) = view.view_ptr(self.stream());
        DeviceRef {
            range: Range { pointer, gpu: self, is_read_too: false, _access: Rc::new(access) },
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
            range: Range { pointer, gpu: self, is_read_too: false, _access: Rc::new(access) },
            len,
            element: PhantomData,
        }
    }

    /// Dense readable rows. Errors if the length is no multiple of the width.
    pub fn rows<'a, T>(&'a self, slice: &'a CudaSlice<T>, width: usize) -> Result<DeviceRows<'a, T>> {
        DeviceRows::new("rows", self.read(slice), width)
    }

    /// Dense writable rows. Errors if the length is no multiple of the width.
    pub fn rows_mut<'a, T>(&'a self, slice: &'a mut CudaSlice<T>, width: usize) -> Result<DeviceRowsMut<'a, T>> {
        DeviceRowsMut::new("rows_mut", self.write(slice), width)
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

    pub(super) fn address(&self, gpu: &Gpu) -> u64 {
        self.range.address(gpu)
    }

    /// Whether a vector of `n` elements may start here.
    pub(super) fn is_aligned(&self, n: usize) -> bool {
        self.range.pointer.is_multiple_of((n * size_of::<T>()).min(16) as u64)
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
    pub(super) fn split_at(self, arg: &'static str, at: usize) -> Result<(Self, Self)> {
        expect_room(arg, at, self.len)?;
        let pointer = self.range.pointer + (at * size_of::<T>()) as u64;
        let tail = Self { range: Range { pointer, ..self.range.clone() }, len: self.len - at, element: PhantomData };
        Ok((Self { len: at, ..self }, tail))
    }

    pub(super) fn address(&self, gpu: &Gpu) -> u64 {
        self.range.address(gpu)
    }

    /// Fails for memory that kernels cannot read and write by 16 bytes.
    pub(super) fn expect_vectors(&self, op: &'static str, arg: &'static str) -> Result<()> {
        expect_size(op, arg, "bytes off 16", 0, (self.range.pointer % 16) as usize)
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
    if len <= got { Ok(()) } else { Err(Error::Limit { op: "device memory", arg, min: 0, max: got, got: len }) }
}

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
            return Err(Error::Limit { op: "rows", arg, min: 1, max: MAX_WIDTH, got: width });
        }
        let n_rows = len / width;
        expect_size("rows", arg, "elements", n_rows * width, len)?;
        Ok(Self { n_rows, width, stride: width })
    }

    fn columns(self, start: usize, width: usize) -> Result<Self> {
        let end = start.saturating_add(width);
        if end > self.width {
            return Err(Error::Limit { op: "columns", arg: "end", min: 0, max: self.width, got: end });
        }
        Ok(Self { width, ..self })
    }

    fn expect(self, op: &'static str, arg: &'static str, n_rows: usize, width: usize) -> Result<()> {
        expect_size(op, arg, "rows", n_rows, self.n_rows)?;
        expect_size(op, arg, "columns", width, self.width)
    }
}

impl Gpu {
    /// Copies rows of the same width; the callers have checked that there are as many.
    pub(super) fn copy_rows<T>(
        &self,
        from: &DeviceRows<'_, T>,
        to: &mut DeviceRowsMut<'_, T>,
    ) -> super::error::Result<()> {
        use cudarc::driver::result::memcpy_dtod_async;
        use cudarc::driver::sys::{CUDA_MEMCPY2D, CUmemorytype, cuMemcpy2DAsync_v2};
        to.expect("copy_rows", "to", from.n_rows(), from.width())?;
        let error = super::CudaError::driver("copying rows on the device");
        let stream = self.stream().cu_stream();
        let pitch = |stride: usize| stride * size_of::<T>();
        let (source, target) = (from.address(self), to.address(self));
        expect_own_views()?;
        if from.stride() == from.width() && to.stride() == to.width() {
            let bytes = from.n_rows() * pitch(from.width());
            return self.timed("copy_rows", || {
                // SAFETY: both are dense and have the rows that are copied, `to` is borrowed exclusively, and the views
                // keep their memory until the copy is on the stream.
                unsafe { memcpy_dtod_async(target, source, bytes, stream) }.map_err(error)
            });
        }
        let copy = CUDA_MEMCPY2D {
            srcMemoryType: CUmemorytype::CU_MEMORYTYPE_DEVICE,
            srcDevice: source,
            srcPitch: pitch(from.stride()),
            dstMemoryType: CUmemorytype::CU_MEMORYTYPE_DEVICE,
            dstDevice: target,
            dstPitch: pitch(to.stride()),
            WidthInBytes: pitch(from.width()),
            Height: from.n_rows(),
            srcXInBytes: 0,
            srcY: 0,
            srcHost: std::ptr::null(),
            srcArray: std::ptr::null_mut(),
            dstXInBytes: 0,
            dstY: 0,
            dstHost: std::ptr::null_mut(),
            dstArray: std::ptr::null_mut(),
        };
        self.timed("copy_rows", || {
            // SAFETY: both matrices have the rows and the width that are copied, `to` is borrowed exclusively, and the views
            // keep their memory until the copy is on the stream.
            unsafe { cuMemcpy2DAsync_v2(&copy, stream) }.result().map_err(error)
        })
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
                let pointer = self.range.pointer + (start * size_of::<T>()) as u64;
                Ok(Self { range: Range { pointer, ..self.range }, shape, element: PhantomData })
            }

            pub(super) fn expect(
                &self,
                op: &'static str,
                arg: &'static str,
                n_rows: usize,
                width: usize,
            ) -> Result<()> {
                self.shape.expect(op, arg, n_rows, width)
            }

            pub(super) fn address(&self, gpu: &Gpu) -> u64 {
                self.range.address(gpu)
            }

            /// Where in memory the elements lie.
            pub(super) fn place(&self) -> Place {
                Place {
                    start: self.range.pointer,
                    n_rows: self.shape.n_rows as u64,
                    width_bytes: (self.shape.width * size_of::<T>()) as u64,
                    stride_bytes: (self.shape.stride * size_of::<T>()) as u64,
                }
            }

            /// Bytes between the starts of two rows; [`Shape::dense`] has seen that they fit.
            pub(super) fn stride_bytes(&self) -> u32 {
                (self.shape.stride * size_of::<T>()) as u32
            }

            /// Whether vectors of `n` elements may start at every `n`th column of every row.
            pub(super) fn is_aligned(&self, n: usize) -> bool {
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
        DeviceRows { range: Range { is_read_too: false, ..self.range }, shape: self.shape, element: PhantomData }
    }

    /// The same rows twice, to be read and to be overwritten by one operation that says that it may:
    /// [`super::selective_scan::backward`] and [`super::causal_conv1d::backward`]. Any other refuses the second
    /// ([`CudaError::InPlaceView`](super::CudaError::InPlaceView)).
    pub fn in_place(self) -> (DeviceRows<'a, T>, Self) {
        let range = Range { is_read_too: true, ..self.range.clone() };
        let to = Self { range, shape: self.shape, element: PhantomData };
        (self.into_rows(), to)
    }

    /// The memory of rows that are not written yet, to hold anything else until they are.
    ///
    /// # Errors
    /// The rows are not dense, or do not begin on 16 bytes.
    pub(super) fn lend<U>(&mut self, op: &'static str, arg: &'static str) -> Result<DeviceMut<'_, U>> {
        expect_size(op, arg, "elements from row to row", self.shape.width, self.shape.stride)?;
        let len = self.shape.n_rows * self.shape.width * size_of::<T>() / size_of::<U>();
        let memory = DeviceMut { range: self.range.clone(), len, element: PhantomData };
        memory.expect_vectors(op, arg)?;
        Ok(memory)
    }

    /// The address for an operation that may overwrite what it reads, and has compared [`Self::place`]s.
    pub(super) fn address_in_place(&self, gpu: &Gpu) -> u64 {
        self.range.address_in_place(gpu)
    }

    /// Splits the columns in two, `(..at, at..)`, which interleave in memory and may be written apart.
    ///
    /// # Errors
    /// There are fewer columns than `at`.
    pub fn split_columns(self, at: usize) -> Result<(Self, Self)> {
        let shape = self.shape.columns(at, self.shape.width.saturating_sub(at))?;
        let pointer = self.range.pointer + (at * size_of::<T>()) as u64;
        let right = Self { range: Range { pointer, ..self.range.clone() }, shape, element: PhantomData };
        Ok((Self { shape: Shape { width: at, ..self.shape }, ..self }, right))
    }
}
