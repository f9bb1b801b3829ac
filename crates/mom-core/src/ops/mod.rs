//! The operations of the block alone, as differentiable functions of candle tensors.
//!
//! Each is one node of the tape. Activations are rows in modality order, see [`rows`]. Tensors are `f32` or `f64` on the
//! CPU, all of one type within a call.

mod causal_conv1d;
mod grouped_linear;
mod rms_norm;
pub mod rows;
mod selective_scan;

pub use causal_conv1d::causal_conv1d;
pub(crate) use grouped_linear::LinearHosts;
pub use grouped_linear::{GroupedLinear, grouped_linear};
pub use rms_norm::rms_norm;
pub use selective_scan::{SelectiveScan, selective_scan};
