//! Where the time of a stream goes: events around every launch, or around whole parts of a program, while somebody asks.

use std::collections::BTreeMap;
use std::result::Result as Fallible;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::sys::CUevent_flags;
use cudarc::driver::{CudaEvent, CudaStream};

use super::error::{CudaError, Result};

/// What a profile times: launches that happen while it runs. None must be captured meanwhile, and replays are not taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// Every launch through the [`Gpu`](super::Gpu), by the kernel's name, and what [`Stream::timed_on`](super::Stream::timed_on)
    /// encloses. Each costs two events more, a few microseconds of the host and of the device, and no launch of a stream overlaps
    /// another: their sum is more than the same work takes unobserved.
    Launches,
    /// What [`Stream::region`](super::Stream::region) encloses, by the region's name: few events, which change next to nothing. A region ends when
    /// the device is through with it, so that its own waits for the host count too.
    Regions,
}

/// Nobody asks; then as [`Detail`].
const OFF: u8 = 0;
pub(super) const LAUNCHES: u8 = 1;
pub(super) const REGIONS: u8 = 2;

/// What is timed now, and what was.
#[derive(Debug, Default)]
pub(super) struct Profile {
    detail: AtomicU8,
    timed: Mutex<Vec<Timed>>,
}

/// A launch or region that was timed.
#[derive(Debug)]
struct Timed {
    name: String,
    start: CudaEvent,
    end: CudaEvent,
}

/// All launches of a kernel or of a library's product, or all passes through a region.
#[derive(Debug, Clone, PartialEq)]
pub struct Time {
    /// Name of the kernel or region.
    pub name: String,
    /// Number of launches or passes.
    pub count: usize,
    /// Milliseconds of all of them together.
    pub ms: f32,
}

impl Profile {
    pub fn start(&self, detail: Detail) {
        self.timed.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.detail.store(if detail == Detail::Launches { LAUNCHES } else { REGIONS }, Relaxed);
    }

    pub fn end(&self, stream: &CudaStream) -> Result<Vec<Time>> {
        self.detail.store(OFF, Relaxed);
        stream.synchronize().map_err(CudaError::driver("waiting for the stream"))?;
        let mut by_name = BTreeMap::<String, (usize, f32)>::new();
        for Timed { name, start, end } in self.timed.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // Where it is on another stream.
            end.synchronize().map_err(CudaError::driver("waiting for an event"))?;
            let ms = start.elapsed_ms(&end).map_err(CudaError::driver("reading an event"))?;
            let of_name = by_name.entry(name).or_default();
            *of_name = (of_name.0 + 1, of_name.1 + ms);
        }
        Ok(by_name.into_iter().map(|(name, (count, ms))| Time { name, count, ms }).collect())
    }

    /// Runs something that puts work on the stream, and times it if that is asked for.
    pub fn timed_if<R, E: From<CudaError>>(
        &self,
        stream: &Arc<CudaStream>,
        detail: u8,
        name: &str,
        run: impl FnOnce() -> Fallible<R, E>,
    ) -> Fallible<R, E> {
        if self.detail.load(Relaxed) != detail {
            return run();
        }
        let event = || {
            let event = stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT));
            event.map_err(CudaError::driver("recording an event"))
        };
        let start = event()?;
        let result = run()?;
        let timed = Timed { name: name.to_owned(), start, end: event()? };
        self.timed.lock().unwrap_or_else(PoisonError::into_inner).push(timed);
        Ok(result)
    }
}
