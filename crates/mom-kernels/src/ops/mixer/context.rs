//! One sequence over several ranks (context parallel): what a mixer asks of those that have its other chunks.

use crate::error::Result;

/// The ranks that have the chunks of the same sequences, as one of them sees them.
///
/// Every rank of the group calls a mixer's functions in the same order, over plans of the same batch, and each with its own chunk
/// of every sequence. Chunks may differ in length; none is shorter than a conv's window, `d_conv - 1` positions.
pub trait Context: std::fmt::Debug + Send + Sync {
    /// Which chunk is this rank's, from the first in time on.
    fn index(&self) -> usize;

    /// Chunks of a sequence.
    fn n_chunks(&self) -> usize;

    /// What all ranks of the group say, in the order of their chunks, end to end; all say equally much. Values of f32 are exact in
    /// it too.
    ///
    /// # Errors
    /// [`Error::Exchange`](crate::Error::Exchange): a rank that failed, or that does not say as much.
    fn gather(&self, own: &[f64]) -> Result<Vec<f64>>;
}
