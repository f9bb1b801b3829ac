//! The products on the CPU, by the `gemm` crate.

mod args;
mod backward;
mod forward;
pub(crate) mod product;

pub use args::{GroupedGrads, GroupedWeights};
pub use backward::{backward_input, backward_weights};
pub use forward::forward;
