//! What both directions are written for, and check.

use cudarc::driver::CudaSlice;

use crate::error::{Error, Result as Checked};
use crate::runtime::{Gpu, Result, ids};

pub(super) const OP: &str = "embedding";

/// The id of a row that has none.
pub const NO_ID: u32 = ids::NONE;

/// Largest vocabulary and number of rows.
const MAX: usize = 1 << 30;

/// As in kernels/embedding: elements of a vector, rows of a block that gathers or clears.
pub(super) const VECTOR: usize = 8;
pub(super) const WARPS: usize = 8;

/// Waits for the stream and tells whether every id named a row of the table, by what `out_of_range` has counted since
/// it was zero.
///
/// # Errors
/// Some did not: their number.
pub fn check(gpu: &Gpu, out_of_range: &CudaSlice<u32>) -> Result<()> {
    ids::check(gpu, OP, "ids", out_of_range)
}

pub(super) fn limits(n_rows: usize, vocabulary: usize) -> Checked<()> {
    for (arg, min, got) in [("n_rows", 0, n_rows), ("vocabulary", 1, vocabulary)] {
        if !(min..=MAX).contains(&got) {
            return Err(Error::Limit { op: OP, arg, min, max: MAX, got });
        }
    }
    Ok(())
}

pub(super) fn name(what: &str, dtypes: &[&str], aligned: bool) -> String {
    format!("embedding_{what}_{}{}", dtypes.join("_"), if aligned { "_aligned" } else { "" })
}
