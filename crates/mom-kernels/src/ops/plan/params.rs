//! What the plans of host and device check alike.

use crate::error::{Error, MAX_SIZE, Result};

pub(super) const OP: &str = "modality_plan";

/// As many modalities as a plan may have: an id is a byte.
pub(crate) const MAX_MODALITIES: usize = 256;

/// Number of positions, which must fit the 32 bits of a row.
pub(super) fn positions(op: &'static str, batch: usize, seqlen: usize) -> Result<usize> {
    let max = MAX_SIZE;
    for (arg, got) in [("batch", batch), ("seqlen", seqlen)] {
        if got > max {
            return Err(Error::Limit { op, arg, min: 0, max, got });
        }
    }
    match batch.checked_mul(seqlen) {
        Some(n) if n <= max => Ok(n),
        n => Err(Error::Limit { op, arg: "batch * seqlen", min: 0, max, got: n.unwrap_or(usize::MAX) }),
    }
}
