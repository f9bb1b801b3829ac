//! The convolution on the CPU: vectors run over channels, tasks over sequences and blocks of channels.

mod args;
mod backward;
mod forward;
mod step;

pub use args::{ConvGrads, ConvInputs};
pub use backward::backward;
pub use forward::forward;
pub use step::step;
