//! Who works on the GPU, by thread.
//!
//! A step that is captured as a graph takes in whatever is put on the device's stream meanwhile, and another thread's work would be
//! replayed with it: wrong numbers, and no error. So several threads may work on one GPU as long as nobody captures there, and one
//! thread alone where somebody does.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use crate::error::require;
use crate::{DeviceKind, Result};

#[derive(Debug)]
struct Holder {
    id: u64,
    thread: ThreadId,
    captures: bool,
}

static HOLDERS: Mutex<Vec<Holder>> = Mutex::new(Vec::new());

fn holders() -> MutexGuard<'static, Vec<Holder>> {
    HOLDERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The right to work on the GPU, for as long as this lives. What lies there goes before it: a struct has it as its last field.
#[derive(Debug)]
pub(crate) struct Lease {
    id: u64,
}

impl Lease {
    /// [`Self::new`] where the device is the GPU.
    ///
    /// # Errors
    /// As there.
    pub fn on(device: DeviceKind, captures: bool) -> Result<Option<Self>> {
        (device == DeviceKind::Cuda).then(|| Self::new(captures)).transpose()
    }

    /// For the thread that calls, which captures steps or does not.
    ///
    /// # Errors
    /// Another thread has a lease, and one of the two captures.
    pub fn new(captures: bool) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let mut holders = holders();
        let holder = Holder { id: NEXT.fetch_add(1, Ordering::Relaxed), thread: thread::current().id(), captures };
        alone(&holders, &holder)?;
        let id = holder.id;
        holders.push(holder);
        Ok(Self { id })
    }

    /// From now on the thread that calls works with it.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn work(&self) -> Result<()> {
        let mut holders = holders();
        let Some(at) = holders.iter().position(|holder| holder.id == self.id) else { return Ok(()) };
        let holder = Holder { thread: thread::current().id(), ..holders[at] };
        alone(&holders, &holder)?;
        holders[at] = holder;
        Ok(())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        holders().retain(|holder| holder.id != self.id);
    }
}

fn alone(holders: &[Holder], holder: &Holder) -> Result<()> {
    let mut others = holders.iter().filter(|other| other.id != holder.id && other.thread != holder.thread);
    let meets = others.any(|other| other.captures || holder.captures);
    let expected = "\"never\" in every run of this process while several threads work on the GPU (a captured step would take in \
                    what another thread launches)";
    require(!meets, "train.graph", expected, "a run that captures its steps, and a second thread")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elsewhere<T: Send>(run: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| scope.spawn(run).join().unwrap())
    }

    #[test]
    fn one_thread_alone_works_where_steps_are_captured() {
        let _one = crate::ONE_ON_DEVICE.lock();
        let captures = Lease::new(true).unwrap();
        let plain = Lease::new(false).unwrap();
        let error = elsewhere(|| Lease::new(false).unwrap_err().to_string());
        assert!(error.contains("train.graph") && error.contains("second thread"), "{error}");
        assert!(elsewhere(|| captures.work()).is_err(), "the other one is this thread's");
        drop(plain);
        // It moves to the other thread, and this one has nothing to do there any more.
        elsewhere(|| captures.work()).unwrap();
        assert!(Lease::new(false).is_err());
        drop(captures);
        let first = Lease::new(false).unwrap();
        let second = elsewhere(|| Lease::new(false)).unwrap();
        assert!(first.work().is_ok() && elsewhere(|| second.work()).is_ok(), "nobody captures");
        assert!(Lease::new(true).is_err());
    }
}
