//! What a long work tells while it goes on.

/// How far a long work is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress<'a> {
    /// What is done: "tokenising cc3m".
    pub what: &'a str,
    /// How much of it, in units of the work's own: bytes or samples.
    pub done: u64,
    /// Of how much; 0 where it is not known.
    pub total: u64,
}
