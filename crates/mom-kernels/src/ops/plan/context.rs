//! One sequence over several ranks (context parallel): what crosses the borders of their chunks.

#[cfg(feature = "cuda")]
use cudarc::driver::CudaSlice;

use crate::error::Result;
#[cfg(feature = "cuda")]
use crate::error::expect_size;
#[cfg(feature = "cuda")]
use crate::runtime::{CudaError, Gpu};

/// The ranks that have the chunks of the same sequences, as one of them sees them: what a [`mixer`](crate::mixer) asks for what its own
/// chunk does not hold.
///
/// Every rank of the group calls a mixer's functions in the same order, over plans of the same batch, and each with its own chunk
/// of every sequence. Chunks may differ in length; none is shorter than a conv's window, `d_conv - 1` positions.
pub trait Context: std::fmt::Debug + Send + Sync {
    /// Which chunk is this rank's, from the first in time on.
    fn index(&self) -> usize;

    /// Chunks of a sequence.
    fn n_chunks(&self) -> usize;

    /// What all ranks of the group say, in the order of their chunks, end to end; all say equally much. Values of f32 are exact in
    /// it too.
    ///
    /// # Errors
    /// [`Error::Exchange`](crate::Error::Exchange): a rank that failed, or that does not say as much.
    fn gather(&self, own: &[f64]) -> Result<Vec<f64>>;

    /// The same between GPUs, behind what is on the stream of `gpu`: `all` is overwritten, and holds as many times what `own` does as
    /// there are chunks. Unless an implementation has a better way, by the host, which waits for the stream.
    ///
    /// # Errors
    /// As [`Self::gather`]; those of the driver.
    #[cfg(feature = "cuda")]
    fn gather_on_device(
        &self,
        gpu: &Gpu,
        own: &CudaSlice<f32>,
        all: &mut CudaSlice<f32>,
    ) -> crate::runtime::Result<()> {
        let own: Vec<f64> = gpu.download(own)?.into_iter().map(f64::from).collect();
        let of_all: Vec<f32> = self.gather(&own)?.into_iter().map(|value| value as f32).collect();
        expect_size("context", "what chunks say", "values", all.len(), of_all.len())?;
        gpu.stream().memcpy_htod(&of_all, all).map_err(CudaError::driver("copying to the device"))
    }
}
