//! Products over the contiguous rows of each modality, on the GPU: [`crate::grouped_gemm`] there.
//!
//! Needs the feature `cuda`.
//!
//! ```text
//! y_r = x_r W_m^T + b_m               m_grouped: one product per modality, rows of m        (forward)
//! dx_r = dy_r W_m                     m_grouped                                             (backward)
//! dW_m = sum_r dy_r^T x_r             k_grouped: the sum runs over the rows of m
//! db_m = sum_r dy_r
//! ```
//!
//! One launch serves all modalities: blocks find theirs from the offsets on the device, so that a captured graph holds
//! for any counts. Where cuBLASLt is loaded ([`Gpu::load_library`](crate::cuda::Gpu::load_library)) and the host knows the
//! offsets ([`DevicePlan::upload`](crate::cuda::DevicePlan::upload), not [`sort`](crate::cuda::DevicePlan::sort), nor a plan
//! [`for_any_counts`](crate::cuda::DevicePlan::for_any_counts)), wide products without biases are one launch of it for each
//! modality where that is faster: of a single modality, of few rows, on other cards than those of compute capability 9.0.
//! [`engine`] tells. bf16 and f16 run on tensor cores with f32 sums, f32 on multiply-adds. A modality without rows costs
//! nothing, and its gradients are zero. The order of every sum is fixed by the sizes and the offsets. **Saved for
//! backward:** x.

mod abi;
mod args;
mod backward;
mod cublaslt;
mod engine;
mod forward;
mod portable;
mod product;
mod select;
mod sm90;

pub use args::{GroupedGrads, GroupedWeights};
pub use backward::{backward_input, backward_weights, backward_weights_workspace_len};
pub use engine::{Engine, Product, engine};
pub use forward::{forward, forward_add};

pub use crate::ops::grouped_gemm::params::Into;
