//! Text files, JSON lines and MMC4: every value of the samples, what goes wrong in such files, and damaged files.
#![allow(clippy::unwrap_used, reason = "a helper of a test may fail as the test does")]

mod damage;
mod documents;
#[path = "../common/formats.rs"]
mod formats;
mod given;
mod lines;
mod mmc4;
#[path = "../common/random.rs"]
mod random;
