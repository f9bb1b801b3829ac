//! Pictures and recordings of all kinds decode to what other decoders make of them, and damaged ones are refused.
#![allow(clippy::unwrap_used, reason = "a helper of a test may fail as the test does")]

mod damage;
mod elsewhere;
mod files;
#[path = "../common/formats.rs"]
mod formats;
mod pictures;
#[path = "../common/random.rs"]
mod random;
mod recordings;
mod resampling;
