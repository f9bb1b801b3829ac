//! Rows of a table by id on the GPU, and the gradient of the table.
//!
//! ```text
//! out_r = table[id_r],   grad_table[v] = sum over the rows r with id_r = v, in row order, of grad_out_r
//! ```
//!
//! A row without an id ([`NO_ID`]) is zero and reaches no gradient. Ids cannot be refused before a launch, being on the
//! device: one that names no row of the table counts as none and is told by [`check`].

mod abi;
mod backward;
mod gather;
mod sort;

use cudarc::driver::CudaSlice;

use super::ids;
use super::runtime::{Gpu, Result};
use crate::error::Error;
pub use crate::grouped_gemm::Into;

pub use backward::{backward, backward_workspace_len};
pub use gather::forward;

const OP: &str = "embedding";

/// The id of a row that has none.
pub const NO_ID: u32 = ids::NONE;

/// Largest vocabulary and number of rows.
const MAX: usize = 1 << 30;

/// As in kernels/embedding: elements of a vector, rows of a block that gathers or clears.
const VECTOR: usize = 8;
const WARPS: usize = 8;

/// Waits for the stream and tells whether every id named a row of the table, by what `out_of_range` has counted since
/// it was zero.
///
/// # Errors
/// Some did not: their number.
pub fn check(gpu: &Gpu, out_of_range: &CudaSlice<u32>) -> Result<()> {
    ids::check(gpu, OP, "ids", out_of_range)
}

fn limits(n_rows: usize, vocabulary: usize) -> Result<()> {
    for (arg, min, got) in [("n_rows", 0, n_rows), ("vocabulary", 1, vocabulary)] {
        if !(min..=MAX).contains(&got) {
            return Err(Error::Limit { op: OP, arg, min, max: MAX, got }.into());
        }
    }
    Ok(())
}

fn name(what: &str, dtypes: &[&str], aligned: bool) -> String {
    format!("embedding_{what}_{}{}", dtypes.join("_"), if aligned { "_aligned" } else { "" })
}
