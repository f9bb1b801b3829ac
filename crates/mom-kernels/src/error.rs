//! What the operations refuse, and why.

/// Result of an operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// An argument that an operation refuses. Nothing was computed and no output was touched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A slice or matrix has the wrong size.
    #[error("{op}: {arg} has {got} {unit}, expected {expected}")]
    Shape {
        /// Operation that was called.
        op: &'static str,
        /// Argument at fault.
        arg: &'static str,
        /// What is counted: elements, rows, columns, groups.
        unit: &'static str,
        /// Size that the other arguments ask for.
        expected: usize,
        /// Size found.
        got: usize,
    },
    /// A size is outside of what the operation is written for.
    #[error("{op}: {arg} = {got} is outside {min}..={max}")]
    Limit {
        /// Operation that was called.
        op: &'static str,
        /// Argument at fault.
        arg: &'static str,
        /// Smallest value taken.
        min: usize,
        /// Largest value taken.
        max: usize,
        /// Value found.
        got: usize,
    },
    /// A modality id names a modality that does not exist.
    #[error("modality_ids[{position}] = {got}, but there are {n_modalities} modalities (ids 0..{n_modalities})")]
    ModalityId {
        /// Flat position, batch index * seqlen + t.
        position: usize,
        /// Id found.
        got: u32,
        /// Number of modalities.
        n_modalities: usize,
    },
    /// Ids that a kernel has met name nothing; it computed as if they were absent.
    #[error("{op}: {count} of {arg} are out of range")]
    OutOfRange {
        /// Operation that met them.
        op: &'static str,
        /// What holds them.
        arg: &'static str,
        /// How many were met.
        count: usize,
    },
    /// A gradient or an option is asked for whose input is absent, or the other way round.
    #[error("{op}: {arg} is {got}, expected {expected}")]
    Presence {
        /// Operation that was called.
        op: &'static str,
        /// Argument at fault.
        arg: &'static str,
        /// `present` or `absent`.
        expected: &'static str,
        /// `present` or `absent`.
        got: &'static str,
    },
    /// The ranks that have the other chunks of a sequence could not be asked.
    #[error("between the chunks of a sequence: {reason}")]
    Exchange {
        /// What went wrong.
        reason: String,
    },
    /// What is written overlaps what is read, and is not the same rows.
    #[error("{op}: {arg} overlaps {with}, expected the same rows exactly or none of their memory")]
    Overlap {
        /// Operation that was called.
        op: &'static str,
        /// Argument that is written.
        arg: &'static str,
        /// Argument that is read.
        with: &'static str,
    },
}

/// Checks a size; the one place where shape errors are made.
pub(crate) fn expect_size(
    op: &'static str,
    arg: &'static str,
    unit: &'static str,
    expected: usize,
    got: usize,
) -> Result<()> {
    if expected == got { Ok(()) } else { Err(Error::Shape { op, arg, unit, expected, got }) }
}

/// Largest width or count taken: what fits 32 bits, so that the product of two of them fits a `usize`.
pub(crate) const MAX_SIZE: usize = u32::MAX as usize;

/// Checks a size that nothing else fixes.
pub(crate) fn expect_limit(op: &'static str, arg: &'static str, max: usize, got: usize) -> Result<()> {
    if (1..=max).contains(&got) { Ok(()) } else { Err(Error::Limit { op, arg, min: 1, max, got }) }
}

/// Checks that a gradient is asked for exactly where its input is present.
pub(crate) fn expect_presence(op: &'static str, arg: &'static str, expected: bool, got: bool) -> Result<()> {
    let word = |present| if present { "present" } else { "absent" };
    if expected == got { Ok(()) } else { Err(Error::Presence { op, arg, expected: word(expected), got: word(got) }) }
}
