//! The functions of NCCL that are used, loaded at run time: a build needs no NCCL, and neither does one card.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::mem::{ManuallyDrop, offset_of};

use libloading::Library;

use crate::{Error, Result};

/// The oldest version that is known to do: 2.26.0, as NCCL counts.
const OLDEST: c_int = 22_600;

const FILE: &str = "libnccl.so.2";

/// What names a group of ranks that begin together.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct UniqueId(pub [u8; 128]);

/// How a communicator is made: `ncclConfig_t` of NCCL 2.26, which newer ones take as what it is.
#[repr(C)]
pub(super) struct Settings {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
    cga_cluster_size: c_int,
    min_ctas: c_int,
    max_ctas: c_int,
    net_name: *const c_char,
    split_share: c_int,
    traffic_class: c_int,
}
const _: () = assert!(size_of::<Settings>() == 48 && offset_of!(Settings, max_ctas) == 28);

impl Settings {
    /// What NCCL chooses but for the most thread blocks at once, where they are given.
    pub fn new(max_ctas: Option<usize>) -> Self {
        const UNDEFINED: c_int = c_int::MIN;
        Self {
            size: size_of::<Self>(),
            magic: 0xcafe_beef,
            version: OLDEST as c_uint,
            blocking: UNDEFINED,
            cga_cluster_size: UNDEFINED,
            min_ctas: UNDEFINED,
            max_ctas: max_ctas.map_or(UNDEFINED, |n| c_int::try_from(n).unwrap_or(c_int::MAX)),
            net_name: std::ptr::null(),
            split_share: UNDEFINED,
            traffic_class: UNDEFINED,
        }
    }
}

/// A communicator of NCCL's.
pub(super) type Comm = *mut c_void;

type Status = c_int;

pub(super) const SUCCESS: Status = 0;
/// Of a communicator that works on something: no error.
pub(super) const IN_PROGRESS: Status = 7;

macro_rules! functions {
    ($($field:ident = $name:literal: fn($($argument:ty),*) -> $result:ty;)*) => {
        /// Addresses of the functions.
        pub(super) struct Functions {
            $(pub $field: unsafe extern "C" fn($($argument),*) -> $result,)*
        }

        impl Functions {
            fn of(library: &Library) -> Result<Self, libloading::Error> {
                Ok(Self {
                    // SAFETY: these are the declarations of nccl.h, unchanged since the oldest version that is taken.
                    $($field: unsafe { *library.get($name)? },)*
                })
            }
        }
    };
}

functions! {
    version = b"ncclGetVersion\0": fn(*mut c_int) -> Status;
    unique_id = b"ncclGetUniqueId\0": fn(*mut UniqueId) -> Status;
    init_rank = b"ncclCommInitRankConfig\0": fn(*mut Comm, c_int, UniqueId, c_int, *mut Settings) -> Status;
    abort = b"ncclCommAbort\0": fn(Comm) -> Status;
    destroy = b"ncclCommDestroy\0": fn(Comm) -> Status;
    async_error = b"ncclCommGetAsyncError\0": fn(Comm, *mut Status) -> Status;
    error_string = b"ncclGetErrorString\0": fn(Status) -> *const c_char;
    last_error = b"ncclGetLastError\0": fn(Comm) -> *const c_char;
    reduce_scatter = b"ncclReduceScatter\0": fn(*const c_void, *mut c_void, usize, c_int, c_int, Comm, *mut c_void) -> Status;
    all_gather = b"ncclAllGather\0": fn(*const c_void, *mut c_void, usize, c_int, Comm, *mut c_void) -> Status;
    send = b"ncclSend\0": fn(*const c_void, usize, c_int, c_int, Comm, *mut c_void) -> Status;
    receive = b"ncclRecv\0": fn(*mut c_void, usize, c_int, c_int, Comm, *mut c_void) -> Status;
    group_start = b"ncclGroupStart\0": fn() -> Status;
    group_end = b"ncclGroupEnd\0": fn() -> Status;
}

impl std::fmt::Debug for Functions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Functions(libnccl)")
    }
}

impl Functions {
    /// Loads the library from where the system finds libraries.
    ///
    /// # Errors
    /// [`Error::World`]: it is not there, or too old.
    pub fn load() -> Result<Self> {
        let failed = |reason: String| Error::World { reason };
        // SAFETY: NCCL's library runs no code of consequence when it is loaded.
        let library = unsafe { Library::new(FILE) }.map_err(|error| {
            failed(format!(
                "several GPUs need NCCL 2.26 or newer, and {FILE} was not found ({error}); install it (Debian and Ubuntu: libnccl2, PyPI: \
                 nvidia-nccl-cu13) and let LD_LIBRARY_PATH name its folder"
            ))
        })?;
        // It stays loaded: its threads may outlive the last group of ranks, and the addresses live as long as it does.
        let library = ManuallyDrop::new(library);
        let functions = Self::of(&library).map_err(|error| failed(format!("{FILE} lacks a function: {error}")))?;
        let mut version = 0;
        // SAFETY: writes one number.
        let status = unsafe { (functions.version)(&raw mut version) };
        if status != SUCCESS || version < OLDEST {
            let words = |v: c_int| format!("{}.{}.{}", v / 10_000, v / 100 % 100, v % 100);
            return Err(failed(format!("NCCL {} or newer is needed, {FILE} is {}", words(OLDEST), words(version))));
        }
        Ok(functions)
    }

    /// What a status means, with what NCCL says of it.
    pub fn words(&self, status: Status, comm: Comm) -> String {
        // SAFETY: both give constant or thread-local text that ends in a zero; a null communicator is allowed.
        let (what, more) = unsafe { ((self.error_string)(status), (self.last_error)(comm)) };
        let text = |text: *const c_char| {
            // SAFETY: as above.
            if text.is_null() { String::new() } else { unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned() }
        };
        let (what, more) = (text(what), text(more));
        if more.is_empty() { what } else { format!("{what}: {more}") }
    }
}
