//! Single runs: the same bytes every time, whole or stopped and resumed; and what ends one.
#![allow(clippy::unwrap_used, reason = "a helper of a test may fail as the test does")]

mod bytes;
mod checkpoints;
#[path = "../common/mod.rs"]
mod common;
mod folder;
mod gradients;
mod horizons;
mod killed;
mod losses;
mod weights;
