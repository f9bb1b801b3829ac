//! What the loss checks before anything is computed, once for CPU and GPU.

use crate::error::{Error, Result, expect_size};
use crate::shape::{Elements, Matrix};

pub(crate) const OP: &str = "cross_entropy";

/// How many classes a side is written for, and the name that it gives their number.
pub(crate) type Classes = (&'static str, std::ops::RangeInclusive<usize>);

/// Rows and classes of `logits`, where their number is within the limits and there is a target for each row.
pub(crate) fn validate(
    logits: &impl Matrix,
    (arg, classes): Classes,
    targets: &impl Elements,
) -> Result<(usize, usize)> {
    let (n_rows, n_classes) = (logits.n_rows(), logits.width());
    if !classes.contains(&n_classes) {
        return Err(Error::Limit { op: OP, arg, min: *classes.start(), max: *classes.end(), got: n_classes });
    }
    expect_rows("targets", n_rows, targets)?;
    Ok((n_rows, n_classes))
}

/// Checks what has one element for each row.
pub(crate) fn expect_rows(arg: &'static str, n_rows: usize, of: &impl Elements) -> Result<()> {
    expect_size(OP, arg, "elements", n_rows, of.n_elements())
}
