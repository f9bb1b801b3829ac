//! Which row a position has: tokens sorted by modality, stably, once per batch.
//!
//! A position is `p = batch_index * seqlen + t`. Its row is its place after a stable counting sort by modality id, so that
//! the rows of one modality are contiguous and in time order:
//!
//! ```text
//! row_of_position[p] = #{q : id_q < id_p} + #{q < p : id_q = id_p}
//! modality m owns rows offsets[m]..offsets[m + 1]
//! ```
//!
//! With the feature `cuda` the same plan on the device is `cuda::DevicePlan`.
//!
//! ```
//! use mom_kernels::ModalityPlan;
//!
//! // A sequence of four tokens: text, image, image, text.
//! let plan = ModalityPlan::new(1, 4, 2, &[0, 1, 1, 0], None)?;
//! assert_eq!(plan.row_of_position(), &[0, 2, 3, 1]);
//! assert_eq!(plan.modality_offsets().rows(1), 2..4);
//! # Ok::<(), mom_kernels::Error>(())
//! ```

mod context;
mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod params;

pub use context::Context;
pub use cpu::{ModalityOffsets, ModalityPlan, SequenceLayout};
pub(crate) use params::MAX_MODALITIES;
