//! Layers around the backbone, each one node of the tape; and what codecs and the U-Net compute on a GPU (`convolution`, `group_norm`),
//! off the tape.

#[cfg(feature = "cuda")]
pub(crate) mod convolution;
mod cross_entropy;
mod embedding;
#[cfg(feature = "cuda")]
pub(crate) mod group_norm;
mod ids;
mod linear;
mod squared_error;

pub use cross_entropy::{CrossEntropy, RowLosses, linear_cross_entropy};
pub use embedding::embedding;
pub use ids::Ids;
pub use linear::Linear;
pub use squared_error::squared_error;
