//! What a run tells: losses, time, memory, and its result.

mod downstream;
pub mod memory;
mod metrics;
pub(crate) mod peak;
mod result;
mod tensorboard;

pub use downstream::{Downstream, Figure, HEADLINES, WORD_ERROR_RATE};
pub use metrics::Pace;
pub(crate) use metrics::{Ends, Exhibit, Lengths, Metrics};
pub(crate) use result::best_step;
pub use result::{EvalPoint, ModalityInfo, RunResult};
