//! The scan on the GPU against the CPU's in f64: every output, element type, option and odd size; poisoned memory; twice
//! the same bits.
#![allow(clippy::unwrap_used, reason = "a helper of a test may fail as the test does")]

mod chunks;
#[path = "../cuda_support/mod.rs"]
mod cuda_support;
mod in_place;
mod large;
mod refusals;
#[path = "../cuda_support/scan.rs"]
mod scan;
mod sizes;
mod steps;
