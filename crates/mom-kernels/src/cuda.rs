//! The operations on an NVIDIA GPU, with the feature `cuda`: the same forward / backward pairs over device memory.
//!
//! [`Gpu`] is one stream of one device with the kernels loaded into it. Arguments are views made by it ([`Stream::read`],
//! [`Stream::rows`], ...) from cudarc's slices; every function validates them, launches on that stream and returns: nothing
//! allocates device memory or synchronises (workspaces are asked for and passed in), so everything works inside of a
//! graph capture once the kernels are loaded ([`Gpu::preload`]); but for a mixer over chunks of sequences, which asks other ranks on the
//! way ([`DevicePlan::with_context`]). The stream of a capture cannot be the default one, and
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
//!
//! ```
//! use mom_kernels::cuda::{Gpu, rms_norm};
//!
//! # fn main() -> mom_kernels::cuda::Result<()> {
//! let Ok(gpu) = Gpu::new(0) else {
//!     println!("no GPU here");
//!     return Ok(());
//! };
//! // The mean square of (1, 7) is 25.
//! let (x, weight) = (gpu.upload(&[1.0f32, 7.0])?, gpu.upload(&[10.0f32, 100.0])?);
//! let mut y = gpu.zeros::<f32>(2)?;
//! rms_norm::forward(&gpu, gpu.rows(&x, 2)?, None, gpu.read(&weight), 0.0, gpu.rows_mut(&mut y, 2)?)?;
//! let y = gpu.download(&y)?;
//! assert!((y[0] - 2.0).abs() < 1e-5 && (y[1] - 140.0).abs() < 1e-3);
//! # Ok(())
//! # }
//! ```
//!
//! `cudarc` (slices of device memory, streams) and `half` (bf16, f16) are re-exported because their types are arguments
//! here: their versions are a part of this crate's.

pub use cudarc;
pub use half;

pub use crate::ops::attention::cuda as attention;
pub use crate::ops::causal_conv1d::cuda as causal_conv1d;
pub use crate::ops::cross_entropy::cuda as cross_entropy;
pub use crate::ops::grouped_gemm::cuda as grouped_gemm;
pub use crate::ops::matmul as library;
pub use crate::ops::mixer::cuda as mixer;
pub use crate::ops::plan::cuda as plan;
pub use crate::ops::plan::cuda::{DeviceLayout, DeviceOffsets, DevicePlan, EqualGroups};
pub use crate::ops::rms_norm::cuda as rms_norm;
pub use crate::ops::rotary_embedding::cuda as rotary_embedding;
pub use crate::ops::selective_scan::cuda as selective_scan;
pub use crate::ops::{adamw, column_sums, elementwise, embedding, group_norm, multi_copy, unfold, weight_average};
pub use crate::runtime::{
    CudaError, Detail, DeviceElement, DeviceMut, DeviceRef, DeviceRows, DeviceRowsMut, Dtype, Gpu, GradientOf,
    LeftFree, Module, Result, Stream, Time, expect_driver,
};
