//! Layers around the backbone, each one node of the tape.

mod cross_entropy;
mod embedding;
mod linear;

pub use cross_entropy::{CrossEntropy, linear_cross_entropy};
pub use embedding::embedding;
pub use linear::Linear;
