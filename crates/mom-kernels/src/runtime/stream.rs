//! One stream of one device: which launches follow each other, and how long they take.

use std::result::Result as Fallible;
use std::sync::{Arc, Mutex, OnceLock};

use cudarc::driver::CudaStream;

use super::error::{CudaError, Result};
use super::profile::{Detail, LAUNCHES, Profile, REGIONS, Time};
use super::staging::Staging;

/// A stream of a device. `Send` and `Sync`.
#[derive(Debug)]
pub struct Stream {
    stream: Arc<CudaStream>,
    pub(super) staging: OnceLock<Mutex<Staging>>,
    profile: Profile,
}

impl Stream {
    pub(super) fn new(stream: Arc<CudaStream>) -> Self {
        Self { stream, staging: OnceLock::new(), profile: Profile::default() }
    }

    /// The driver's stream.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Index of the device.
    pub fn ordinal(&self) -> usize {
        self.stream.context().ordinal()
    }

    /// Makes the device current on this thread, for calls that go past cudarc.
    pub(crate) fn bind(&self) -> Result<()> {
        self.stream.context().bind_to_thread().map_err(CudaError::driver("making the device current"))
    }

    /// Begins to time.
    pub fn start_profile(&self, detail: Detail) {
        self.profile.start(detail);
    }

    /// Waits for the stream, and for what was timed on others, and tells what took how long since [`Self::start_profile`], by name.
    ///
    /// # Errors
    /// What ran on the stream failed.
    pub fn end_profile(&self) -> Result<Vec<Time>> {
        self.profile.end(&self.stream)
    }

    /// Runs a part of a program, and times what it puts on the stream if [`Detail::Regions`] are asked for. Regions do not
    /// overlap: one within another would count twice.
    ///
    /// # Errors
    /// Those of `run`; the driver's, while somebody asks.
    pub fn region<R, E: From<CudaError>>(&self, name: &str, run: impl FnOnce() -> Fallible<R, E>) -> Fallible<R, E> {
        self.profile.timed_if(&self.stream, REGIONS, name, run)
    }

    /// Launches, and times it if [`Detail::Launches`] are asked for.
    pub(crate) fn timed(&self, name: &str, launch: impl FnOnce() -> Result<()>) -> Result<()> {
        self.timed_on(&self.stream, name, launch)
    }

    /// Puts something that is not this crate's on this stream or on one beside it, and times it if [`Detail::Launches`] are asked for.
    ///
    /// # Errors
    /// Those of `launch`; the driver's, while somebody asks.
    pub fn timed_on<R, E: From<CudaError>>(
        &self,
        stream: &Arc<CudaStream>,
        name: &str,
        launch: impl FnOnce() -> Fallible<R, E>,
    ) -> Fallible<R, E> {
        self.profile.timed_if(stream, LAUNCHES, name, launch)
    }
}

/// Two are the same where their launches follow each other.
impl PartialEq for Stream {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other) || self.stream == other.stream
    }
}
