//! Streams on which products run side by side.

use std::sync::{Arc, Mutex};

use cudarc::driver::CudaContext;
use cudarc::driver::result::{event, stream};
use cudarc::driver::sys::{CUevent, CUevent_flags, CUstream};

use crate::runtime::error::{CudaError, Result};
use crate::runtime::stream::Stream;

/// Products that may run side by side.
pub(super) const LANES: usize = 3;

/// Streams beside that of the caller, which the first lane is; each begins behind a fork and ends before a join.
pub(super) struct Lanes {
    pub(super) context: Arc<CudaContext>,
    pub(super) streams: [CUstream; LANES - 1],
    pub(super) forked: CUevent,
    pub(super) done: [CUevent; LANES - 1],
    /// Of two calls at once, the second would fork from where the first has.
    pub(super) taken: Mutex<()>,
}

// SAFETY: streams and events may be used from any thread.
unsafe impl Send for Lanes {}
// SAFETY: as above; calls that use them hold `taken`.
unsafe impl Sync for Lanes {}

impl Lanes {
    pub(super) fn new(on: &Stream) -> Result<Self> {
        let stream = || stream::create(stream::StreamKind::NonBlocking).map_err(CudaError::driver("creating a stream"));
        let flags = CUevent_flags::CU_EVENT_DISABLE_TIMING;
        let event = || event::create(flags).map_err(CudaError::driver("creating an event"));
        let context = on.stream().context().clone();
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
