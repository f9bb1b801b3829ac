//! Work of a device that is captured once and replayed.

use candle_core::Device;
use mom_kernels::cuda::CudaError;
use mom_kernels::cuda::cudarc::driver::CudaGraph;
use mom_kernels::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};

use super::{OnGpu, driver_error};
use crate::{Error, Result};

/// A captured graph: launches over memory that stays where it was.
pub struct Captured(CudaGraph);

impl std::fmt::Debug for Captured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Captured")
    }
}

/// Records what `run` puts on the device's stream instead of running it.
///
/// `run` may allocate tensors and must have freed them when it returns. What it reads and writes beside them is memory that
/// outlives the graph, at the same addresses. It must not wait for the device, nor copy from or to the host; kernels are
/// loaded and algorithms of products chosen before, by a run that was not captured. What other threads put on the stream
/// meanwhile would become a part of the graph: none may use the device.
///
/// # Errors
/// Those of `run`; nothing is left of the capture then. What the driver does not capture.
pub fn capture<E: From<Error>>(
    device: &Device,
    run: impl FnOnce() -> std::result::Result<(), E>,
) -> std::result::Result<Captured, E> {
    let on = OnGpu::of(device)?;
    let stream = on.gpu.stream();
    let failed = |source| Error::from(CudaError::Driver { what: "capturing a graph", source });
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).map_err(failed)?;
    let result = run();
    let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = stream.end_capture(flags);
    result?;
    let graph = graph.map_err(failed)?;
    Ok(Captured(graph.ok_or(Error::Graph { expected: "at least one launch", got: "nothing was launched" })?))
}

impl Captured {
    /// Puts everything that was captured on the stream again.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn launch(&self) -> Result<()> {
        Ok(self.0.launch().map_err(driver_error("launching a graph"))?)
    }
}
