//! The operations of the block alone, as differentiable functions of candle tensors.
//!
//! Each is one node of the tape. Activations are rows in modality order, see [`rows`]. On the CPU tensors are `f32` or `f64`,
//! all of one type within a call; on a GPU activations and weights of products are `bf16`, `f16` or `f32`, everything smaller
//! `f32` (see [`crate::Init::precise`]). Tensors of one call are on one device. On a GPU what has no rows is off the tape.

mod attention;
mod causal_conv1d;
mod elementwise;
mod grouped_linear;
mod rms_norm;
mod rotary_embedding;
mod row_ranges;
pub mod rows;
mod selective_scan;

pub use crate::linear::GroupedLinear;
pub use attention::attention;
pub use causal_conv1d::causal_conv1d;
pub use elementwise::{add, scaled, silu};
pub use grouped_linear::grouped_linear;
pub use rms_norm::rms_norm;
pub use rotary_embedding::{Rotary, rotary_embedding};
pub use row_ranges::{narrow_rows, stack_rows};
pub use selective_scan::{SelectiveScan, selective_scan};

#[cfg(feature = "cuda")]
pub(crate) use attention::OP as ATTENTION;
#[cfg(feature = "cuda")]
pub(crate) use elementwise::Combination;
#[cfg(feature = "cuda")]
pub(crate) use rotary_embedding::{OP as ROTARY, Turn};
#[cfg(feature = "cuda")]
pub(crate) use row_ranges::{Narrow, Stack};
