//! AdamW over many tensors in a launch, and the global norm of gradients (Loshchilov & Hutter, arXiv 1711.05101).
//!
//! Needs the feature `cuda`.
//!
//! ```text
//! g = grad min(1, max_norm / norm)
//! m = beta1 m + (1 - beta1) g                     v = beta2 v + (1 - beta2) g^2
//! w = w (1 - lr decay) - lr (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps)
//! ```
//!
//! Master weights and moments are f32 whatever the gradients are. Nothing comes to the host: the norm stays on the
//! device. A captured graph keeps an [`AdamWStep`] as it was and reads a [`StepRecord`] again at each launch.
//!
//! ```
//! use mom_kernels::cuda::{Gpu, adamw::{AdamWStep, AdamWTensor, adamw}};
//!
//! # fn main() -> mom_kernels::cuda::Result<()> {
//! let Ok(gpu) = Gpu::new(0) else { return Ok(()) }; // no GPU here
//! let grad = gpu.upload(&[2.0f32, -0.5])?;
//! let (mut master, mut first, mut second) = (gpu.upload(&[1.0f32, 1.0])?, gpu.zeros(2)?, gpu.zeros(2)?);
//! let tensor: AdamWTensor<'_, f32> =
//!     AdamWTensor::new(gpu.read(&grad), gpu.write(&mut master), gpu.write(&mut first), gpu.write(&mut second));
//! adamw(&gpu, &mut [tensor], AdamWStep::new(0.1, 1), None)?;
//! // The first step is as long as the learning rate, against the gradient's sign.
//! let master = gpu.download(&master)?;
//! assert!((master[0] - 0.9).abs() < 1e-5 && (master[1] - 1.1).abs() < 1e-5);
//! # Ok(())
//! # }
//! ```

mod abi;
mod norm;
mod params;
mod update;

pub use norm::{global_norm, global_norm_workspace_len, norm_of_squares, squares};
pub use params::{AdamWStep, AdamWTensor, Clip, Step, StepRecord};
pub use update::{adamw, adamw_if_finite};
