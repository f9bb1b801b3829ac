//! Where the time of a stream goes: events around every launch, or around whole parts of a program, while somebody asks.

use std::collections::BTreeMap;
use std::result::Result as Fallible;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use cudarc::driver::CudaEvent;
use cudarc::driver::sys::CUevent_flags;

use super::error::{CudaError, Result};
use super::stream::Stream;

/// What a profile times: launches that happen while it runs. None must be captured meanwhile, and replays are not taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// Every launch through the [`Gpu`](super::Gpu), by the kernel's name. Each costs two events more, a few microseconds of the host
    /// and of the device, and no launch overlaps another: the sum is more than the same work takes unobserved.
    Launches,
    /// What [`Stream::region`] encloses, by the region's name: few events, which change next to nothing. A region ends when
    /// the device is through with it, so that its own waits for the host count too.
    Regions,
}

/// Nobody asks; then as [`Detail`].
const OFF: u8 = 0;
const LAUNCHES: u8 = 1;
const REGIONS: u8 = 2;

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

impl Stream {
    /// Begins to time.
    pub fn start_profile(&self, detail: Detail) {
        self.profile.timed.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.profile.detail.store(if detail == Detail::Launches { LAUNCHES } else { REGIONS }, Relaxed);
    }

    /// Waits for the stream and tells what took how long since [`Self::start_profile`], by name.
    ///
    /// # Errors
    /// What ran on the stream failed.
    pub fn end_profile(&self) -> Result<Vec<Time>> {
        self.profile.detail.store(OFF, Relaxed);
        self.stream().synchronize().map_err(CudaError::driver("waiting for the stream"))?;
        let mut by_name = BTreeMap::<String, (usize, f32)>::new();
        for Timed { name, start, end } in self.profile.timed.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let ms = start.elapsed_ms(&end).map_err(CudaError::driver("reading an event"))?;
            let of_name = by_name.entry(name).or_default();
            *of_name = (of_name.0 + 1, of_name.1 + ms);
        }
        Ok(by_name.into_iter().map(|(name, (count, ms))| Time { name, count, ms }).collect())
    }

    /// Runs a part of a program, and times what it puts on the stream if [`Detail::Regions`] are asked for. Regions do not
    /// overlap: one within another would count twice.
    ///
    /// # Errors
    /// Those of `run`; the driver's, while somebody asks.
    pub fn region<R, E: From<CudaError>>(&self, name: &str, run: impl FnOnce() -> Fallible<R, E>) -> Fallible<R, E> {
        self.timed_if(REGIONS, name, run)
    }

    /// Launches, and times it if [`Detail::Launches`] are asked for.
    pub(crate) fn timed(&self, name: &str, launch: impl FnOnce() -> Result<()>) -> Result<()> {
        self.timed_if(LAUNCHES, name, launch)
    }

    fn timed_if<R, E: From<CudaError>>(
        &self,
        detail: u8,
        name: &str,
        run: impl FnOnce() -> Fallible<R, E>,
    ) -> Fallible<R, E> {
        if self.profile.detail.load(Relaxed) != detail {
            return run();
        }
        let event = || {
            let event = self.stream().record_event(Some(CUevent_flags::CU_EVENT_DEFAULT));
            event.map_err(CudaError::driver("recording an event"))
        };
        let start = event()?;
        let result = run()?;
        let timed = Timed { name: name.to_owned(), start, end: event()? };
        self.profile.timed.lock().unwrap_or_else(PoisonError::into_inner).push(timed);
        Ok(result)
    }
}
