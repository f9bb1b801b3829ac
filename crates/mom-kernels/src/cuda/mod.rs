//! The operations on an NVIDIA GPU: the same forward / backward pairs over device memory.
//!
//! [`Gpu`] is one stream of one device with the kernels loaded into it. Arguments are views made by it ([`Gpu::read`],
//! [`Gpu::rows`], ...) from cudarc's slices; every function validates them, launches on that stream and returns: nothing
//! allocates device memory or synchronises (workspaces are asked for and passed in), so everything works inside of a
//! graph capture once the kernels are loaded ([`Gpu::preload`]). The stream of a capture cannot be the default one, and
//! cudarc's event tracking must be off in its context (`disable_event_tracking`): a capture must not wait for what was
//! recorded before it. `examples/gpu_graph.rs` shows one, replayed over other inputs.
//!
//! Activations are bf16, f16 or f32 ([`DeviceElement`]); arithmetic, states, reductions and the small weights (`A`, `D`,
//! biases, conv taps, norm weights) are f32. Reductions have a fixed order: two calls give the same bits.
//!
//! The kernels are PTX inside of this crate (`cargo xtask kernels` writes it from `kernels/`); building needs no toolkit.
//! Without a driver or a GPU, [`Gpu::new`] is an error and the CPU functions remain.

pub mod adamw;
pub mod causal_conv1d;
pub mod column_sums;
pub mod cross_entropy;
pub mod embedding;
mod error;
mod gpu;
pub mod grouped_gemm;
mod ids;
mod launch;
pub mod library;
mod memory;
pub mod mixer;
mod place;
pub mod plan;
mod profile;
mod ptx;
pub mod rms_norm;
pub mod selective_scan;
mod staging;
mod tensor_map;
pub mod weight_average;

pub use cudarc;
pub use error::{CudaError, Result};
pub use gpu::Gpu;
pub use half;
pub use memory::{DeviceElement, DeviceMut, DeviceRef, DeviceRows, DeviceRowsMut, Dtype, GradientOf};
pub use plan::{DeviceLayout, DeviceOffsets, DevicePlan};
pub use profile::{Detail, Time};
pub use ptx::Module;
