//! Steps and validations: the engine computes a step over batches, the trainer feeds it from the data.

#[cfg(feature = "cuda")]
mod captured;
mod engine;
mod feed;
mod gradients;
mod outcome;
mod snapshot;
mod tapes;
mod trainer;
mod validation;
mod work;

pub(crate) use engine::{Engine, StepControl};
pub use outcome::{Skipped, StepReport, Validation};
pub use trainer::Trainer;
pub(crate) use trainer::{Counters, Word};
pub(crate) use validation::{HeldOut, validate};
pub(crate) use work::{Content, Input, Mode, Work};
