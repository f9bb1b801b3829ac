//! WebDataset shards of several writers, whole and damaged.
//!
//! `cases/webdataset` holds small archives of GNU tar 1.34 and Python's tarfile; `formats` real ones with their values.
#![allow(clippy::unwrap_used, reason = "a helper of a test may fail as the test does")]

mod archive;
mod damage;
#[path = "../common/formats.rs"]
mod formats;
mod given;
mod members;
mod mutations;
#[path = "../common/outcomes.rs"]
mod outcomes;
#[path = "../common/random.rs"]
mod random;
mod samples;
mod writers;
