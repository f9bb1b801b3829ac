//! Work of a device that is captured once and replayed.

use std::sync::Arc;

use candle_core::Device;
use mom_kernels::cuda::CudaError;
use mom_kernels::cuda::cudarc::driver::result::graph::launch;
use mom_kernels::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use mom_kernels::cuda::cudarc::driver::{CudaGraph, CudaStream, DriverError};

use super::on_gpu::{OnGpu, driver_error};
use crate::{Error, Result};

/// A captured graph: launches over memory that stays where it was.
pub struct Captured {
    graph: CudaGraph,
    on: OnGpu,
}

// SAFETY: the driver takes a graph from any thread, and from one at a time: this is not `Sync`.
unsafe impl Send for Captured {}

impl std::fmt::Debug for Captured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Captured")
    }
}

impl Drop for Captured {
    fn drop(&mut self) {
        // The graph goes next, perhaps on another thread than it came from. What the driver answers helps nobody.
        let _ = self.on.gpu.stream().context().bind_to_thread();
    }
}

/// Ends a capture that was not ended, so that the stream goes on after a panic.
struct Capturing<'a>(Option<&'a Arc<CudaStream>>);

impl Capturing<'_> {
    fn end(mut self) -> Option<std::result::Result<Option<CudaGraph>, DriverError>> {
        self.0.take().map(|stream| stream.end_capture(FLAGS))
    }
}

impl Drop for Capturing<'_> {
    fn drop(&mut self) {
        if let Some(stream) = self.0.take() {
            let _ = stream.end_capture(FLAGS);
        }
    }
}

const FLAGS: CUgraphInstantiate_flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;

/// Records what `run` puts on the device's stream instead of running it.
///
/// `run` must not wait for the device, nor copy from or to the host; kernels are loaded and algorithms of products chosen
/// before, by a run that was not captured.
///
/// # Safety
/// Tensors that `run` allocates are freed when it returns. What it reads and writes beside them stays alive and where it is
/// for as long as the graph is launched. No other thread uses the device meanwhile: what it put on the stream would become a
/// part of the graph.
///
/// # Errors
/// Those of `run`; nothing is left of the capture then. What the driver does not capture.
pub unsafe fn capture<E: From<Error>>(
    device: &Device,
    run: impl FnOnce() -> std::result::Result<(), E>,
) -> std::result::Result<Captured, E> {
    let on = OnGpu::of(device)?;
    let stream = on.gpu.stream().clone();
    // SAFETY: by this function's own contract.
    unsafe { capture_on(&stream, on, run) }
}

/// [`capture`] on another stream of the device, which no other thread launches on: they may use the device meanwhile. The
/// graph is launched on the device's own stream.
///
/// # Safety
/// As [`capture`] but for other threads; `run` launches on that stream alone.
///
/// # Errors
/// As [`capture`].
pub(super) unsafe fn capture_on<E: From<Error>>(
    stream: &Arc<CudaStream>,
    on: OnGpu,
    run: impl FnOnce() -> std::result::Result<(), E>,
) -> std::result::Result<Captured, E> {
    let failed = |source| Error::from(CudaError::Driver { what: "capturing a graph", source });
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).map_err(failed)?;
    let capturing = Capturing(Some(stream));
    let result = run();
    let graph = capturing.end();
    result?;
    let graph = graph.transpose().map_err(failed)?.flatten();
    let graph = graph.ok_or(Error::Graph { expected: "at least one launch", got: "nothing was launched" })?;
    Ok(Captured { graph, on })
}

impl Captured {
    /// Puts everything that was captured on the stream again.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn launch(&self) -> Result<()> {
        let stream = self.on.gpu.stream();
        let failed = || driver_error("launching a graph");
        stream.context().bind_to_thread().map_err(failed())?;
        // SAFETY: both are alive, and this is not `Sync`: no other thread uses the graph.
        Ok(unsafe { launch(self.graph.cu_graph_exec(), stream.cu_stream()) }.map_err(failed())?)
    }
}
