//! cuBLASLt, NVIDIA's library of dense products, which is loaded at run time and only where it is asked for.
//!
//! Algorithms are asked for once for a shape and kept: a call with a shape that was seen before does nothing but launch,
//! inside of a graph capture too. Algorithms that add in an order that is not fixed are not taken: two calls give the same
//! bits.

mod descriptors;
mod lanes;
mod product;

use std::collections::HashMap;
use std::ffi::c_void;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use cudarc::cublaslt::result;
use cudarc::cublaslt::result::CublasError;
use cudarc::cublaslt::sys::{
    cublasLtHandle_t, cublasLtMatmulAlgo_t, cublasLtMatmulPreferenceAttributes_t as PreferenceAttribute, cublasStatus_t,
};
use cudarc::driver::CudaSlice;
use cudarc::driver::result::{event, stream};
use cudarc::driver::sys::{CUevent_wait_flags, CUstream};

use super::error::{CudaError, Result};
use super::stream::Stream;
use crate::error::Error;

use descriptors::{Descriptors, Preference, refused};
use lanes::{LANES, Lanes};
pub(crate) use product::{RawAddend, RawFactor, RawOutput, RawProduct, RawWorkspace, WORKSPACE_ALIGNMENT};
use product::{Shape, WORKSPACE_BYTES, has_output};

const OP: &str = "matmul";

/// Bytes that the library recommends for compute capability 9.0, for callers who bring their own.
pub const RECOMMENDED_WORKSPACE_BYTES: usize = 32 << 20;

/// Partial sums go to the workspace and are added there in order, in the type of the sums: not in place, which is atomic.
const REDUCTIONS: u32 = 2;

/// As profiles name the library's products.
const TIMED: &str = "cublasLt";

/// cuBLASLt on the stream of a [`Gpu`](super::Gpu): 12 MiB of workspace on the device, 4 for each of three products that may
/// run side by side, and the algorithms for the shapes seen.
pub struct Library {
    handle: Handle,
    workspace: CudaSlice<u8>,
    workspace_address: u64,
    lanes: Lanes,
    launching: Mutex<()>,
    algorithms: Mutex<HashMap<Shape, cublasLtMatmulAlgo_t>>,
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

impl Library {
    /// Loads the library and allocates its workspace.
    pub(crate) fn new(on: &Stream) -> Result<Self> {
        present()?;
        on.bind()?;
        let handle = Handle(result::create_handle().map_err(refused("starting cuBLASLt"))?);
        let workspace = on.zeros::<u8>(LANES * WORKSPACE_BYTES)?;
        let workspace_address = on.read(&workspace).address(on)?;
        Ok(Self {
            handle,
            workspace,
            workspace_address,
            lanes: Lanes::new(on)?,
            launching: Mutex::default(),
            algorithms: Mutex::default(),
        })
    }

    /// Launches products that do not depend on each other, side by side: what one leaves idle at its end, the next takes.
    /// What follows on the stream of `on` waits for all.
    ///
    /// # Safety
    /// As [`Self::product`] for each; no two outputs overlap, and no two workspaces.
    pub(crate) unsafe fn products(&self, on: &Stream, products: &[RawProduct]) -> Result<()> {
        let lanes = &self.lanes;
        let side_by_side = products.len().min(LANES) - usize::from(!products.is_empty());
        if side_by_side == 0 {
            // SAFETY: by this function's own contract.
            return products.iter().try_for_each(|product| unsafe { self.product(on, product) });
        }
        // From fork to join, on the stream that waits for all of them.
        on.timed(TIMED, || {
            let _taken = lanes.taken.lock().unwrap_or_else(PoisonError::into_inner);
            let others = || lanes.streams.iter().zip(&lanes.done).take(side_by_side);
            let failed = || CudaError::driver("running products side by side");
            on.bind()?;
            let main = on.stream().cu_stream();
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
                unsafe { self.product_on(on, stream, lane, product) }
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
    pub(crate) unsafe fn product(&self, on: &Stream, product: &RawProduct) -> Result<()> {
        // SAFETY: by this function's own contract; products in the first lane follow each other on one stream.
        on.timed(TIMED, || unsafe { self.product_on(on, on.stream().cu_stream(), 0, product) })
    }

    /// # Safety
    /// As [`Self::product`], on a stream whose products alone use the workspace of the lane.
    unsafe fn product_on(&self, on: &Stream, stream: CUstream, lane: usize, product: &RawProduct) -> Result<()> {
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
        on.bind()?;
        let exact = Shape::new(p);
        let descriptors = Descriptors::new(&exact)?;
        if let Some(bias) = p.bias {
            descriptors.product.set_bias(bias)?;
        }
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
