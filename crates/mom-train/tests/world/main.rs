//! Several ranks against one: the same losses, the same order of samples, through stops, other numbers of ranks, and faults.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of a test may fail as the test does")]

#[path = "../common/mod.rs"]
mod common;
mod context;
mod faults;
#[cfg(feature = "cuda")]
mod gpus;
mod processes;
mod threads;
mod training;
