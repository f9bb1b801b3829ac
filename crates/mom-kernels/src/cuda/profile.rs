//! Where the time of a stream goes: events around every launch, while somebody asks.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;

use cudarc::driver::CudaEvent;
use cudarc::driver::sys::CUevent_flags;

use super::Gpu;
use super::error::{CudaError, Result};

/// A launch that was timed.
#[derive(Debug)]
pub(super) struct Timed {
    name: String,
    start: CudaEvent,
    end: CudaEvent,
}

/// All launches of a kernel, or of a library's product.
#[derive(Debug, Clone, PartialEq)]
pub struct KernelTime {
    /// Name of the kernel.
    pub name: String,
    /// Number of launches.
    pub launches: usize,
    /// Milliseconds of all of them together.
    pub ms: f32,
}

impl Gpu {
    /// Begins to time every launch through this `Gpu`. Each costs two events more, a few microseconds of the host's time.
    pub fn start_profile(&self) {
        self.profile.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.profiling.store(true, Relaxed);
    }

    /// Waits for the stream and tells what was launched since [`Self::start_profile`], by name.
    ///
    /// # Errors
    /// What ran on the stream failed.
    pub fn end_profile(&self) -> Result<Vec<KernelTime>> {
        self.profiling.store(false, Relaxed);
        self.stream().synchronize().map_err(CudaError::driver("waiting for the stream"))?;
        let mut by_name = BTreeMap::<String, (usize, f32)>::new();
        for Timed { name, start, end } in self.profile.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let ms = start.elapsed_ms(&end).map_err(CudaError::driver("reading an event"))?;
            let of_name = by_name.entry(name).or_default();
            *of_name = (of_name.0 + 1, of_name.1 + ms);
        }
        Ok(by_name.into_iter().map(|(name, (launches, ms))| KernelTime { name, launches, ms }).collect())
    }

    /// Launches, and times it if somebody asks.
    pub(super) fn timed(&self, name: &str, launch: impl FnOnce() -> Result<()>) -> Result<()> {
        if !self.profiling.load(Relaxed) {
            return launch();
        }
        let event = || {
            let event = self.stream().record_event(Some(CUevent_flags::CU_EVENT_DEFAULT));
            event.map_err(CudaError::driver("recording an event"))
        };
        let start = event()?;
        launch()?;
        let timed = Timed { name: name.to_owned(), start, end: event()? };
        self.profile.lock().unwrap_or_else(PoisonError::into_inner).push(timed);
        Ok(())
    }
}
