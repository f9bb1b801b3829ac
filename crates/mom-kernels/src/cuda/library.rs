//! Dense products by cuBLASLt, NVIDIA's library, which is loaded at run time and only where it is asked for.
//!
//! ```text
//! y = alpha op(a) op(b) + beta y          op: the matrix itself or its transpose; all row-major
//! ```
//!
//! [`Gpu::load_library`] loads it; without that nothing here is used. Inputs are bf16, f16 or f32, sums f32 (no TF32),
//! the output of the inputs' type or f32. Algorithms are asked for once for a shape and kept: a call with a shape that was
//! seen before does nothing but launch, inside of a graph capture too. Algorithms that add in an order that is not fixed
//! are not taken: two calls give the same bits.

use std::collections::HashMap;
use std::ffi::c_void;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::cublaslt::sys::{
    cublasComputeType_t, cublasLtHandle_t, cublasLtMatmulAlgo_t, cublasLtMatmulDesc_t,
    cublasLtMatmulDescAttributes_t as DescAttribute, cublasLtMatmulPreference_t,
    cublasLtMatmulPreferenceAttributes_t as PreferenceAttribute, cublasLtMatrixLayout_t, cublasStatus_t, cudaDataType,
};
use cudarc::cublaslt::{result, result::CublasError};
use cudarc::driver::result::{event, stream};
use cudarc::driver::sys::{CUevent, CUevent_flags, CUevent_wait_flags, CUstream};
use cudarc::driver::{CudaContext, CudaSlice};

use super::error::{CudaError, Result};
use super::gpu::Gpu;
use super::memory::{DeviceElement, DeviceMut, DeviceRows, DeviceRowsMut, Dtype, expect_own_views};
use crate::error::{Error, expect_size};

const OP: &str = "matmul";

/// Device memory that an algorithm may use where the caller has none for it. Only sums that are cut need any: docs/kernels.md
/// has what a block's products ask for.
const WORKSPACE_BYTES: usize = 4 << 20;

/// Bytes that the library recommends for compute capability 9.0, for callers who bring their own.
pub const RECOMMENDED_WORKSPACE_BYTES: usize = 32 << 20;

/// Where the workspace of a caller must begin.
const WORKSPACE_ALIGNMENT: u64 = 16;

/// Partial sums go to the workspace and are added there in order, in the type of the sums: not in place, which is atomic.
const REDUCTIONS: u32 = 2;

/// As profiles name the library's products.
const TIMED: &str = "cublasLt";

/// Products that may run side by side.
pub(super) const LANES: usize = 3;

/// cuBLASLt on the stream of a [`Gpu`]: 12 MiB of workspace on the device, 4 for each of three products that may run side
/// by side, and the algorithms for the shapes seen.
pub struct Library {
    handle: Handle,
    workspace: CudaSlice<u8>,
    workspace_address: u64,
    lanes: Lanes,
    launching: Mutex<()>,
    algorithms: Mutex<HashMap<Shape, cublasLtMatmulAlgo_t>>,
}

/// Streams beside that of the [`Gpu`], which the first lane is; each begins behind a fork and ends before a join.
struct Lanes {
    context: Arc<CudaContext>,
    streams: [CUstream; LANES - 1],
    forked: CUevent,
    done: [CUevent; LANES - 1],
    /// Of two calls at once, the second would fork from where the first has.
    taken: Mutex<()>,
}

// SAFETY: streams and events may be used from any thread.
unsafe impl Send for Lanes {}
// SAFETY: as above; calls that use them hold `taken`.
unsafe impl Sync for Lanes {}

impl Lanes {
    fn new(gpu: &Gpu) -> Result<Self> {
        let stream = || stream::create(stream::StreamKind::NonBlocking).map_err(CudaError::driver("creating a stream"));
        let flags = CUevent_flags::CU_EVENT_DISABLE_TIMING;
        let event = || event::create(flags).map_err(CudaError::driver("creating an event"));
        let context = gpu.stream().context().clone();
        Ok(Self {
            context,
            streams: [stream()?, stream()?],
            forked: event()?,
            done: [event()?, event()?],
            taken: Mutex::default(),
        })
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        // What the driver answers helps nobody.
        let _ = self.context.bind_to_thread();
        for stream in self.streams {
            // SAFETY: created by `Lanes::new`, destroyed once; the driver lets work on it end.
            let _ = unsafe { stream::destroy(stream) };
        }
        for event in [self.forked, self.done[0], self.done[1]] {
            // SAFETY: as above.
            let _ = unsafe { event::destroy(event) };
        }
    }
}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Library").field("workspace_bytes", &self.workspace.len()).finish_non_exhaustive()
    }
}

struct Handle(cublasLtHandle_t);

// SAFETY: the library says that its handle may be used from any thread, and from several at once.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the handle was made by `Library::new` and is destroyed once. What the library answers helps nobody.
        let _ = unsafe { result::destroy_handle(self.0) };
    }
}

/// A factor of a product: a matrix or its transpose.
#[derive(Debug)]
pub struct Factor<'r, 'a, T> {
    rows: &'r DeviceRows<'a, T>,
    transposed: bool,
}

impl<'r, 'a, T> Factor<'r, 'a, T> {
    /// The matrix itself.
    pub fn plain(rows: &'r DeviceRows<'a, T>) -> Self {
        Self { rows, transposed: false }
    }

    /// Its transpose.
    pub fn transposed(rows: &'r DeviceRows<'a, T>) -> Self {
        Self { rows, transposed: true }
    }

    fn shape(&self) -> (usize, usize) {
        let (rows, columns) = (self.rows.n_rows(), self.rows.width());
        if self.transposed { (columns, rows) } else { (rows, columns) }
    }

    fn raw(&self, gpu: &Gpu) -> RawFactor {
        RawFactor { at: self.rows.address(gpu), stride: self.rows.stride(), transposed: self.transposed }
    }
}

/// `y = alpha op(a) op(b) + beta y`.
///
/// * `a`: `(m, k)` and `b`: `(k, n)` behind their [`Factor`]; `y`: `(m, n)`, of their type or f32. Rows may be strided.
/// * With `beta` 0, `y` is overwritten, whatever it held.
/// * `workspace`: any number of bytes, whose contents mean nothing before and after. A sum that is long for a small output
///   is cut where its parts fit there ([`RECOMMENDED_WORKSPACE_BYTES`] are always enough to try), without it where they fit
///   4 MiB.
///
/// # Errors
/// The library is not loaded ([`Gpu::load_library`]), sizes that disagree, no `k`, an output of another 16-bit type, a
/// workspace that does not begin on 16 bytes, a product that the library refuses.
pub fn matmul<T: DeviceElement, O: DeviceElement>(
    gpu: &Gpu,
    alpha: f32,
    a: Factor<'_, '_, T>,
    b: Factor<'_, '_, T>,
    beta: f32,
    y: DeviceRowsMut<'_, O>,
    workspace: Option<DeviceMut<'_, u8>>,
) -> Result<()> {
    let ((m, k), (b_k, n)) = (a.shape(), b.shape());
    expect_size(OP, "b", "rows", k, b_k)?;
    y.expect(OP, "y", m, n)?;
    let to = RawOutput { at: y.address(gpu), stride: y.stride(), dtype: O::DTYPE };
    let (a, b) = (a.raw(gpu), b.raw(gpu));
    let workspace = workspace.map(|memory| RawWorkspace { at: memory.address(gpu), bytes: memory.len() });
    if let Some(RawWorkspace { at, .. }) = workspace {
        expect_size(OP, "workspace", "bytes off 16", 0, (at % WORKSPACE_ALIGNMENT) as usize)?;
    }
    let product = RawProduct { dtype: T::DTYPE, m, n, k, a, b, y: to, addend: None, alpha, beta, workspace };
    let library = gpu.library().ok_or(CudaError::LibraryNotLoaded)?;
    // SAFETY: the shapes of the three views were checked against each other; y and the workspace are borrowed exclusively.
    unsafe { library.product(gpu, &product) }
}

/// Whether the library has products of `input` with this output.
pub(super) fn has_output(input: Dtype, output: Dtype) -> bool {
    output == input || output == Dtype::F32
}

#[derive(Debug, Clone, Copy)]
pub(super) struct RawFactor {
    pub at: u64,
    pub stride: usize,
    pub transposed: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct RawOutput {
    pub at: u64,
    pub stride: usize,
    pub dtype: Dtype,
}

/// A matrix of the output's size and type.
#[derive(Debug, Clone, Copy)]
pub(super) struct RawAddend {
    pub at: u64,
    pub stride: usize,
}

/// Memory of the caller's, on 16 bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct RawWorkspace {
    pub at: u64,
    pub bytes: usize,
}

impl RawWorkspace {
    /// Memory that would do better than the library's own; nothing else is worth a caller's.
    pub fn larger(gpu: &Gpu, memory: &DeviceMut<'_, f32>) -> Option<Self> {
        let (at, bytes) = (memory.address(gpu), memory.len() * size_of::<f32>());
        (bytes > WORKSPACE_BYTES && at.is_multiple_of(WORKSPACE_ALIGNMENT)).then_some(Self { at, bytes })
    }
}

/// `y = alpha a b + beta addend`: `a` `(m, k)`, `b` `(k, n)`, `y` and the addend `(m, n)`; without an addend it is `y`.
#[derive(Debug, Clone, Copy)]
pub(super) struct RawProduct {
    pub dtype: Dtype,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a: RawFactor,
    pub b: RawFactor,
    pub y: RawOutput,
    pub addend: Option<RawAddend>,
    pub alpha: f32,
    pub beta: f32,
    /// For this product alone; without it, that of its lane.
    pub workspace: Option<RawWorkspace>,
}

impl RawProduct {
    fn addend(&self) -> RawAddend {
        self.addend.unwrap_or(RawAddend { at: self.y.at, stride: self.y.stride })
    }
}

/// What an algorithm is chosen by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Shape {
    input: cudaDataType,
    output: cudaDataType,
    m: usize,
    n: usize,
    k: usize,
    a_transposed: bool,
    b_transposed: bool,
    /// Of a, b, y and the addend.
    strides: [usize; 4],
    alignments: [u32; 4],
    workspace_bytes: usize,
}

impl Shape {
    fn new(p: &RawProduct) -> Self {
        let addend = p.addend();
        Self {
            input: data_type(p.dtype),
            output: data_type(p.y.dtype),
            m: p.m,
            n: p.n,
            k: p.k,
            a_transposed: p.a.transposed,
            b_transposed: p.b.transposed,
            strides: [p.a.stride, p.b.stride, p.y.stride, addend.stride],
            alignments: [p.a.at, p.b.at, p.y.at, addend.at].map(|at| 1 << at.trailing_zeros().min(8)),
            workspace_bytes: p.workspace.map_or(WORKSPACE_BYTES, |workspace| workspace.bytes),
        }
    }

    /// The shape whose algorithm serves this one too: counts of rows that change from batch to batch fall into few
    /// classes. Only a size that no stride holds may grow.
    fn class(mut self) -> Self {
        let class = |rows: usize| rows.next_multiple_of((rows.next_power_of_two() / 16).max(64));
        if !self.a_transposed {
            self.m = class(self.m);
        } else if !self.b_transposed {
            self.k = class(self.k);
        }
        self
    }
}

fn data_type(dtype: Dtype) -> cudaDataType {
    match dtype {
        Dtype::Bf16 => cudaDataType::CUDA_R_16BF,
        Dtype::F16 => cudaDataType::CUDA_R_16F,
        Dtype::F32 => cudaDataType::CUDA_R_32F,
    }
}

fn refused(what: &'static str) -> impl Fn(CublasError) -> CudaError {
    move |source| CudaError::Library { what, source }
}

impl Library {
    /// Loads the library and allocates its workspace.
    pub(super) fn new(gpu: &Gpu) -> Result<Self> {
        present()?;
        gpu.bind()?;
        let handle = Handle(result::create_handle().map_err(refused("starting cuBLASLt"))?);
        let workspace = gpu.zeros::<u8>(LANES * WORKSPACE_BYTES)?;
        let workspace_address = gpu.read(&workspace).address(gpu);
        Ok(Self {
            handle,
            workspace,
            workspace_address,
            lanes: Lanes::new(gpu)?,
            launching: Mutex::default(),
            algorithms: Mutex::default(),
        })
    }

    /// Launches products that do not depend on each other, side by side: what one leaves idle at its end, the next takes.
    /// What follows on the stream of `gpu` waits for all.
    ///
    /// # Safety
    /// As [`Self::product`] for each; no two outputs overlap, and no two workspaces.
    pub(super) unsafe fn products(&self, gpu: &Gpu, products: &[RawProduct]) -> Result<()> {
        let lanes = &self.lanes;
        let side_by_side = products.len().min(LANES) - usize::from(!products.is_empty());
        if side_by_side == 0 {
            // SAFETY: by this function's own contract.
            return products.iter().try_for_each(|product| unsafe { self.product(gpu, product) });
        }
        // From fork to join, on the stream that waits for all of them.
        gpu.timed(TIMED, || {
            let _taken = lanes.taken.lock().unwrap_or_else(PoisonError::into_inner);
            let others = || lanes.streams.iter().zip(&lanes.done).take(side_by_side);
            let failed = || CudaError::driver("running products side by side");
            gpu.bind()?;
            let main = gpu.stream().cu_stream();
            // SAFETY: the streams and the events are live.
            unsafe {
                event::record(lanes.forked, main).map_err(failed())?;
                for (&stream, _) in others() {
                    stream::wait_event(stream, lanes.forked, CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT)
                        .map_err(failed())?;
                }
            }
            let launched = products.iter().enumerate().try_for_each(|(i, product)| {
                let lane = i % LANES;
                let stream = if lane == 0 { main } else { lanes.streams[lane - 1] };
                // SAFETY: by this function's own contract.
                unsafe { self.product_on(gpu, stream, lane, product) }
            });
            // The streams join, whatever was refused on them.
            for (&stream, &done) in others() {
                // SAFETY: as above.
                unsafe {
                    event::record(done, stream).map_err(failed())?;
                    stream::wait_event(main, done, CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT).map_err(failed())?;
                }
            }
            launched
        })
    }

    /// Launches a product; nothing for an empty `y`.
    ///
    /// # Safety
    /// The addresses cover the matrices of the product on this device and are live until the launch is on the stream of
    /// `gpu`, which is the one that this library was loaded for; y and the workspace, on 16 bytes, are borrowed exclusively.
    pub(super) unsafe fn product(&self, gpu: &Gpu, product: &RawProduct) -> Result<()> {
        // SAFETY: by this function's own contract; products in the first lane follow each other on one stream.
        gpu.timed(TIMED, || unsafe { self.product_on(gpu, gpu.stream().cu_stream(), 0, product) })
    }

    /// # Safety
    /// As [`Self::product`], on a stream whose products alone use the workspace of the lane.
    unsafe fn product_on(&self, gpu: &Gpu, stream: CUstream, lane: usize, product: &RawProduct) -> Result<()> {
        let p = product;
        if p.m == 0 || p.n == 0 {
            return Ok(());
        }
        if p.k == 0 {
            return Err(Error::Limit { op: OP, arg: "k", min: 1, max: usize::MAX, got: 0 }.into());
        }
        if !has_output(p.dtype, p.y.dtype) {
            let (expected, got) = (p.dtype.name(), p.y.dtype.name());
            return Err(CudaError::Dtype { op: OP, arg: "y", expected, got });
        }
        expect_own_views()?;
        gpu.bind()?;
        let exact = Shape::new(p);
        let descriptors = Descriptors::new(&exact)?;
        let own = RawWorkspace { at: self.workspace_address + (lane * WORKSPACE_BYTES) as u64, bytes: WORKSPACE_BYTES };
        let workspace = p.workspace.unwrap_or(own);
        let launch = |algorithm: cublasLtMatmulAlgo_t| {
            // A product may be several kernels with the workspace between them, where another thread's must not come.
            let _launching = self.launching.lock().unwrap_or_else(PoisonError::into_inner);
            // Column-major, as the library has it, y^T = op(b)^T op(a)^T: the factors change places.
            // SAFETY: by this function's own contract; the descriptors say what the product does.
            unsafe {
                result::matmul(
                    self.handle.0,
                    descriptors.product.0,
                    (&raw const p.alpha).cast(),
                    (&raw const p.beta).cast(),
                    p.b.at as *const c_void,
                    descriptors.b.0,
                    p.a.at as *const c_void,
                    descriptors.a.0,
                    p.addend().at as *const c_void,
                    descriptors.addend.0,
                    p.y.at as *mut c_void,
                    descriptors.y.0,
                    &algorithm,
                    workspace.at as *mut c_void,
                    workspace.bytes,
                    stream.cast(),
                )
            }
        };
        match self.algorithm(exact.class()).and_then(launch) {
            // The class has none that takes this shape: it gets its own.
            Err(CublasError(
                cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED | cublasStatus_t::CUBLAS_STATUS_INVALID_VALUE,
            )) if exact != exact.class() => self.algorithm(exact).and_then(launch),
            done => done,
        }
        .map_err(refused("a product of cuBLASLt"))
    }

    fn algorithm(&self, shape: Shape) -> std::result::Result<cublasLtMatmulAlgo_t, CublasError> {
        let mut algorithms = self.algorithms.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&algorithm) = algorithms.get(&shape) {
            return Ok(algorithm);
        }
        let algorithm = self.search(&shape)?;
        algorithms.insert(shape, algorithm);
        Ok(algorithm)
    }

    fn search(&self, shape: &Shape) -> std::result::Result<cublasLtMatmulAlgo_t, CublasError> {
        let descriptors = Descriptors::create(shape)?;
        let preference = Preference(result::create_matmul_pref()?);
        let [a, b, y, addend] = shape.alignments;
        preference.set(PreferenceAttribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, shape.workspace_bytes as u64)?;
        preference.set(PreferenceAttribute::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, REDUCTIONS)?;
        preference.set(PreferenceAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, b)?;
        preference.set(PreferenceAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, a)?;
        preference.set(PreferenceAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, addend)?;
        preference.set(PreferenceAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, y)?;
        // SAFETY: the handle, the descriptors and the preference are live.
        let found = unsafe {
            result::get_matmul_algo_heuristic(
                self.handle.0,
                descriptors.product.0,
                descriptors.b.0,
                descriptors.a.0,
                descriptors.addend.0,
                descriptors.y.0,
                preference.0,
            )
        };
        found.map(|found| found.algo)
    }
}

/// A product and its matrices as the library describes them, column-major.
struct Descriptors {
    product: Description,
    a: Layout,
    b: Layout,
    y: Layout,
    addend: Layout,
}

impl Descriptors {
    fn new(shape: &Shape) -> Result<Self> {
        Self::create(shape).map_err(refused("describing a product to cuBLASLt"))
    }

    fn create(shape: &Shape) -> std::result::Result<Self, CublasError> {
        let &Shape { m, n, k, a_transposed, b_transposed, strides, .. } = shape;
        let compute = cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let product = Description(result::create_matmul_desc(compute, cudaDataType::CUDA_R_32F)?);
        product.set(DescAttribute::CUBLASLT_MATMUL_DESC_TRANSA, b_transposed)?;
        product.set(DescAttribute::CUBLASLT_MATMUL_DESC_TRANSB, a_transposed)?;
        let (a_rows, a_width) = if a_transposed { (k, m) } else { (m, k) };
        let (b_rows, b_width) = if b_transposed { (n, k) } else { (k, n) };
        let a = Layout::create(shape.input, a_rows, a_width, strides[0])?;
        let b = Layout::create(shape.input, b_rows, b_width, strides[1])?;
        let y = Layout::create(shape.output, m, n, strides[2])?;
        let addend = Layout::create(shape.output, m, n, strides[3])?;
        Ok(Self { product, a, b, y, addend })
    }
}

struct Description(cublasLtMatmulDesc_t);

impl Description {
    fn set(&self, attribute: DescAttribute, transposed: bool) -> std::result::Result<(), CublasError> {
        // `cublasOperation_t`: CUBLAS_OP_N is 0, CUBLAS_OP_T is 1.
        let operation = i32::from(transposed);
        // SAFETY: the attribute is an operation, of four bytes.
        unsafe { result::set_matmul_desc_attribute(self.0, attribute, (&raw const operation).cast(), 4) }
    }
}

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: created by `Descriptors::create`, destroyed once.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

struct Layout(cublasLtMatrixLayout_t);

impl Layout {
    /// Of a row-major matrix.
    fn create(dtype: cudaDataType, rows: usize, width: usize, stride: usize) -> std::result::Result<Self, CublasError> {
        result::create_matrix_layout(dtype, width as u64, rows as u64, stride as i64).map(Self)
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: created by `Layout::create`, destroyed once.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

struct Preference(cublasLtMatmulPreference_t);

impl Preference {
    /// `T` is `u64` for bytes of workspace, else `u32`.
    fn set<T>(&self, attribute: PreferenceAttribute, value: T) -> std::result::Result<(), CublasError> {
        // SAFETY: the attribute has the size of the value, as the callers pass it.
        unsafe { result::set_matmul_pref_attribute(self.0, attribute, (&raw const value).cast(), size_of::<T>()) }
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: created by `Library::search`, destroyed once.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}

/// cudarc panics where it cannot load the library; this is asked first, with names of its list.
fn present() -> Result<()> {
    let (names, tried): (&[&str], _) = if cfg!(windows) {
        (&["cublasLt64_13.dll"], "cublasLt64_13.dll")
    } else {
        (&["libcublasLt.so", "libcublasLt.so.13"], "libcublasLt.so, libcublasLt.so.13")
    };
    // SAFETY: the library's initialisers are meant to run in any process.
    let found = names.iter().any(|name| unsafe { libloading::Library::new(*name) }.is_ok());
    if found { Ok(()) } else { Err(CudaError::NoLibrary { tried }) }
}
