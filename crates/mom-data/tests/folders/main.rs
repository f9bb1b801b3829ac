//! The readers of folders, against what other programs read from the same files, and against damaged ones.
#![allow(clippy::unwrap_used, reason = "a helper of a test may fail as the test does")]

mod damage;
#[path = "../common/files.rs"]
mod files;
#[path = "../common/formats.rs"]
mod formats;
mod found;
mod librispeech;
mod loose;
mod metadata;
#[path = "../common/outcomes.rs"]
mod outcomes;
#[path = "../common/random.rs"]
mod random;
mod tuxpaint;
