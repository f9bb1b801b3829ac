//! Placeholder head, replaced by the crate's own.

pub mod report;
