//! The operations on an NVIDIA GPU: the same forward / backward pairs over device memory.
//!
//! [`Gpu`] is one stream of one device with the kernels loaded into it. Arguments are views made by it ([`Stream::read`],
//! [`Stream::rows`], ...) from cudarc's slices; every function validates them, launches on that stream and returns: nothing
//! allocates device memory or synchronises (workspaces are asked for and passed in), so everything works inside of a
//! graph capture once the kernels are loaded ([`Gpu::preload`]). The stream of a capture cannot be the default one, and
//! cudarc's event tracking must be off in its context (`disable_event_tracking`): a capture must not wait for what was
//! recorded before it. `examples/gpu_graph.rs` shows one, replayed over other inputs.
//!
//! Activations are bf16, f16 (with the feature `f16`) or f32 ([`DeviceElement`]); arithmetic, states, reductions and the
//! small weights (`A`, `D`, biases, conv taps, norm weights) are f32.
//!
//! **The same bits.** Reductions have an order that the sizes, the offsets and the card alone decide: two calls on cards of
//! one kind give the same bits. Between kinds of cards some sums are cut otherwise: gradients of weights (kernels for
//! compute capability 9.0, or tiles that fit another card's shared memory; cuBLASLt), of B, C, A, D and of biases in the
//! scan (blocks of 32 or 64 channels, by the number of multiprocessors), of the norm's weight (as many partial sums as
//! blocks fit the card).
//!
//! The kernels are fat binaries inside of this crate (`cargo xtask kernels` writes them from `kernels/`); building needs no
//! toolkit, and a driver of CUDA 12.4 (550) or newer takes them. Without a driver or a GPU, [`Gpu::new`] is an error and the
//! CPU functions remain.

pub mod adamw;
pub mod causal_conv1d;
pub mod column_sums;
pub mod cross_entropy;
pub mod embedding;
pub mod grouped_gemm;
mod ids;
pub mod library;
pub mod mixer;
pub mod plan;
pub mod rms_norm;
mod runtime;
pub mod selective_scan;
pub mod weight_average;

pub use cudarc;
pub use half;
pub use plan::{DeviceLayout, DeviceOffsets, DevicePlan};
pub use runtime::{
    CudaError, Detail, DeviceElement, DeviceMut, DeviceRef, DeviceRows, DeviceRowsMut, Dtype, Gpu, GradientOf, Module,
    Result, Stream, Time, expect_driver,
};
