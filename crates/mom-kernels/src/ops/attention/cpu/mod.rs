//! Attention on the CPU: a task has a head of a document, whose scores are formed in tiles.

mod args;
mod backward;
mod forward;
mod head;

pub use args::{AttentionGrads, AttentionInputs};
pub use backward::backward;
pub use forward::forward;
