//! Media, decoded: one file's bytes become pixels or samples.
//!
//! What is damaged is refused, never shortened or filled up: containers are walked to their end before a decoder sees them.

pub mod audio;
pub mod image;
pub(crate) mod part;

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::readers::{Skip, SkipReason};

/// Runs a decoder. The decoders are others' crates and see damaged files: one that panics costs its sample, not the run.
fn guarded<T>(reason: SkipReason, decode: impl FnOnce() -> Result<T, Skip>) -> Result<T, Skip> {
    // Nothing outlives the call that a panic could leave half done.
    catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(|_| Err(Skip::new(reason, "the decoder gave up on it")))
}
