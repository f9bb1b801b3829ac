//! The mixer on the CPU.

mod args;
mod backward;
mod borders;
mod forward;

pub use args::{MixerState, MixerWeights};
pub use backward::{MixerGrads, ProjectionGrads, backward, backward_chunk};
pub use forward::{MixerSaved, forward, forward_chunk, forward_chunk_saving, forward_saving, step};
