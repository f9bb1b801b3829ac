//! Runs over tokens that published networks make, with small random weights: each trains, goes on, draws, and is exported; what does
//! not fit is refused before anything is made.
#![allow(clippy::unwrap_used, reason = "a helper of a test may fail as the test does")]

mod bench;
#[path = "../common/mod.rs"]
mod common;
#[cfg(feature = "cuda")]
mod gpu;
mod refused;
mod runs;
mod weights;
