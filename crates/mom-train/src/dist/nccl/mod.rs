//! Sums and copies between GPUs, by NCCL.
//!
//! The first rank of a group makes its id, which the hub hands out. Everything is put on a stream and waits for nobody; where a rank fails, the
//! alarm of the watch aborts the group, so that a stream that waits for that rank goes on, and the next question finds the failure.

mod library;

use std::ffi::{c_int, c_void};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::thread;
use std::time::Duration;

use candle_core::DType;
use library::{Comm, Functions, IN_PROGRESS, SUCCESS, Settings, UniqueId};

use super::World;
use crate::error::require;
use crate::{Error, Result};

/// A group of ranks, one a GPU: all of a world, or some.
#[derive(Debug)]
pub(crate) struct Nccl {
    functions: Arc<Functions>,
    comm: Arc<Mutex<Group>>,
    world: Arc<World>,
    /// Ranks of the group.
    size: usize,
    /// The communicator's in [`World::order`].
    number: u64,
}

/// A communicator; null once it was aborted.
#[derive(Debug)]
struct Group(Comm);

// SAFETY: NCCL takes calls from any thread, one at a time: the lock sees to that.
unsafe impl Send for Group {}

/// Elements at an address of the GPU, and how many.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    pub address: u64,
    pub len: usize,
    pub dtype: DType,
}

impl Memory {
    /// `len` elements from the one at `start` on.
    pub fn part(self, start: usize, len: usize) -> Self {
        Self { address: self.address + (start * self.dtype.size_in_bytes()) as u64, len, ..self }
    }

    /// NCCL's number of the element type.
    fn kind(self) -> Result<c_int> {
        match self.dtype {
            DType::F32 => Ok(7),
            DType::BF16 => Ok(9),
            got => Err(crate::error::config("dtype", "bf16 or f32", got.as_str())),
        }
    }
}

/// How often, and how far apart, an alarm tries to get hold of a group that is in use.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(100);

/// NCCL's number of a sum.
const SUM: c_int = 0;

impl Nccl {
    /// Brings the ranks of a world together, each on the GPU that its thread's context is of, in groups of `size` ranks in a row. With so many
    /// thread blocks at once at most, where they are given. Waits for all ranks.
    ///
    /// # Errors
    /// No NCCL, or one that is too old; what NCCL reports, such as two ranks on one GPU.
    pub fn new(world: &Arc<World>, size: usize, max_ctas: Option<usize>) -> Result<Self> {
        let mut id = UniqueId([0; 128]);
        let index = world.rank() % size;
        let loaded = Functions::load().and_then(|functions| {
            if index == 0 {
                // SAFETY: writes one id.
                let status = unsafe { (functions.unique_id)(&raw mut id) };
                checked(&functions, status, std::ptr::null_mut(), "making an id")?;
            }
            Ok(Arc::new(functions))
        });
        let functions = world.agree("NCCL", loaded)?;
        let ids = world.gather("NCCL's id", id.0.to_vec())?;
        for (to, from) in id.0.iter_mut().zip(ids.into_iter().nth(world.rank() - index).unwrap_or_default()) {
            *to = from;
        }
        let (mut comm, mut settings) = (std::ptr::null_mut(), Settings::new(max_ctas));
        // SAFETY: all ranks of a group come here with the same id and size; the context of this thread is that of the rank's GPU.
        let status = world.waiting(|| unsafe {
            (functions.init_rank)(&raw mut comm, size as c_int, id, index as c_int, &raw mut settings)
        });
        checked(&functions, status, comm, "bringing ranks together")?;
        let group = Arc::new(Mutex::new(Group(comm)));
        let (alarmed, of_alarm) = (group.clone(), functions.clone());
        world.on_failure(move || {
            // Where a call to NCCL does not come back, this process is ended instead.
            let group = (0..TRIES).find_map(|_| {
                let group = alarmed.try_lock();
                if matches!(group, Err(TryLockError::WouldBlock)) {
                    thread::sleep(PAUSE);
                }
                match group {
                    Ok(group) => Some(group),
                    Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
                    Err(TryLockError::WouldBlock) => None,
                }
            });
            let Some(mut group) = group else { return };
            let comm = std::mem::replace(&mut group.0, std::ptr::null_mut());
            if !comm.is_null() {
                // SAFETY: nobody has the communicator any more; what it has on streams is ended by this.
                unsafe { (of_alarm.abort)(comm) };
            }
        });
        Ok(Self { functions, comm: group, world: world.clone(), size, number: world.order().communicator() })
    }

    /// The sums over all ranks of the group of each `all` of these pairs, of which each gets its stretch in `own`, in the order of the ranks.
    /// One launch, put on a stream.
    ///
    /// # Errors
    /// Lengths that do not fit; what NCCL reports; a rank that failed.
    pub fn reduce_scatter(&self, pairs: &[(Memory, Memory)], stream: *mut c_void) -> Result<()> {
        let kinds = self.kinds(pairs.iter().map(|&(all, own)| (own, all)))?;
        self.call("adding gradients", |functions, comm| {
            let each = pairs.iter().zip(kinds).map(|(&(all, own), kind)| {
                // SAFETY: `all` has as many elements as ranks have stretches, `own` one stretch, both on this GPU until the stream is
                // through.
                unsafe { (functions.reduce_scatter)(at(all), at(own), own.len, kind, SUM, comm, stream) }
            });
            together(functions, each)
        })
    }

    /// The stretches of all ranks, in their order, in `all`, of each of these pairs of `own` and `all`. One launch, put on a stream.
    ///
    /// # Errors
    /// As [`Self::reduce_scatter`].
    pub fn all_gather(&self, pairs: &[(Memory, Memory)], stream: *mut c_void) -> Result<()> {
        let kinds = self.kinds(pairs.iter().copied())?;
        self.call("gathering", |functions, comm| {
            let each = pairs.iter().zip(kinds).map(|(&(own, all), kind)| {
                // SAFETY: as above.
                unsafe { (functions.all_gather)(at(own), at(all), own.len, kind, comm, stream) }
            });
            together(functions, each)
        })
    }

    /// Of each of these pairs, gives each rank its stretch of `from`, and takes this rank's stretch of each into `to`, in the order of the
    /// ranks. One launch, put on a stream.
    ///
    /// # Errors
    /// As [`Self::reduce_scatter`].
    pub fn all_to_all(&self, pairs: &[(Memory, Memory)], stream: *mut c_void) -> Result<()> {
        let size = self.size;
        let mut stretches = Vec::with_capacity(pairs.len() * size);
        for &(from, to) in pairs {
            require(from.len == to.len, "elements", &from.len.to_string(), to.len)?;
            let (share, kind) = (from.len / size, from.kind()?);
            stretches.extend((0..size).map(|rank| {
                let of_rank = |memory: Memory| memory.part(rank * share, share);
                (rank as c_int, of_rank(from), of_rank(to), kind)
            }));
        }
        self.call("exchanging gradients", |functions, comm| {
            let each = stretches.into_iter().map(|(peer, from, to, kind)| {
                // SAFETY: both have a stretch for each rank, on this GPU until the stream is through.
                unsafe {
                    let sent = (functions.send)(at(from), from.len, kind, peer, comm, stream);
                    sent.max((functions.receive)(at(to), to.len, kind, peer, comm, stream))
                }
            });
            together(functions, each)
        })
    }

    /// NCCL's number of the element type of each of these pairs of a stretch and all ranks' stretches, which must fit.
    fn kinds(&self, pairs: impl Iterator<Item = (Memory, Memory)>) -> Result<Vec<c_int>> {
        let kind = |(own, all): (Memory, Memory)| {
            let expected = own.len * self.size;
            require(all.len == expected && all.dtype == own.dtype, "elements", &expected.to_string(), all.len)?;
            own.kind()
        };
        pairs.map(kind).collect()
    }

    /// One call, unless a rank failed; asks NCCL for what failed since the last one.
    fn call(&self, what: &str, call: impl FnOnce(&Functions, Comm) -> c_int) -> Result<()> {
        let called = self.try_call(what, call);
        // NCCL may see a connection end before the word comes that a rank has ended, which says more. (Not while the group is
        // held, which who hears that word aborts.)
        called.map_err(|error| self.world.news().unwrap_or(error))
    }

    fn try_call(&self, what: &str, call: impl FnOnce(&Functions, Comm) -> c_int) -> Result<()> {
        let group = self.comm.lock().unwrap_or_else(PoisonError::into_inner);
        if group.0.is_null() {
            return Err(Error::World { reason: "NCCL's group of ranks was aborted".to_owned() });
        }
        let mut failed = SUCCESS;
        // SAFETY: writes one number; the communicator is alive.
        let asked = unsafe { (self.functions.async_error)(group.0, &raw mut failed) };
        let status = if asked != SUCCESS { asked } else { failed };
        if status != SUCCESS && status != IN_PROGRESS {
            return checked(&self.functions, status, group.0, what);
        }
        self.world.order().launched(self.number);
        let status = call(&self.functions, group.0);
        checked(&self.functions, status, group.0, what)
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        let mut group = self.comm.lock().unwrap_or_else(PoisonError::into_inner);
        let comm = std::mem::replace(&mut group.0, std::ptr::null_mut());
        if !comm.is_null() {
            let end = if self.world.is_done() { self.functions.destroy } else { self.functions.abort };
            // SAFETY: nobody has the communicator any more. Where all ranks came to the end, what is on streams comes to its own; else it is
            // ended.
            unsafe { end(comm) };
        }
    }
}

/// Calls that NCCL makes one launch of; the worst of what they report.
fn together(functions: &Functions, calls: impl Iterator<Item = c_int>) -> c_int {
    // SAFETY: marks of this thread, one for the other whatever the calls report.
    let began = unsafe { (functions.group_start)() };
    let status = calls.fold(began, c_int::max);
    // SAFETY: as above.
    status.max(unsafe { (functions.group_end)() })
}

fn at(memory: Memory) -> *mut c_void {
    memory.address as *mut c_void
}

fn checked(functions: &Functions, status: c_int, comm: Comm, what: &str) -> Result<()> {
    if status == SUCCESS {
        return Ok(());
    }
    Err(Error::World { reason: format!("NCCL, {what}: {}", functions.words(status, comm)) })
}
