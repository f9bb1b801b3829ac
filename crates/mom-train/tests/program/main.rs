//! The program from the outside: sweeps that are killed, and bad input, each with one message and nothing lost.
#![allow(clippy::unwrap_used, reason = "a helper of a test may fail as the test does")]

mod calls;
#[path = "../common/mod.rs"]
mod common;
#[cfg(unix)]
mod disk;
mod generated;
mod options;
mod runs;
#[cfg(unix)]
mod signals;
mod sweeps;
