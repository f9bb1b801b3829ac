//! The mixer on the CPU.

mod args;
mod backward;
mod forward;

pub use args::{MixerState, MixerWeights};
pub use backward::{MixerGrads, ProjectionGrads, backward};
pub use forward::{MixerSaved, forward, forward_saving, step};
