//! Products over the contiguous rows of each modality: a linear layer with its own weights for each.
//!
//! ```text
//! y_r = x_r W_m^T + b_m               m_grouped: one product per modality, rows of m        (forward)
//! dx_r = dy_r W_m                     m_grouped                                             (backward)
//! dW_m = sum_r dy_r^T x_r             k_grouped: the sum runs over the rows of m
//! db_m = sum_r dy_r
//! ```
//!
//! Weights are `(out_features, in_features)` as PyTorch's Linear has them. The products themselves are the `gemm`
//! crate's; a modality without rows costs nothing, and its gradients are zero. **Saved for backward:** x.
//!
//! ```
//! use mom_kernels::grouped_gemm::{self, GroupedGrads, GroupedWeights};
//! use mom_kernels::{ModalityOffsets, Rows, RowsMut};
//!
//! // Rows 0 and 1 are of modality 0, row 2 of modality 1; each modality has a 2 -> 1 weight of its own.
//! let offsets = ModalityOffsets::from_counts([2, 1]);
//! let x = [1.0f32, 0.0, 0.0, 1.0, 1.0, 1.0];
//! let weights = GroupedWeights::new(2, 1, vec![&[1.0, 2.0], &[30.0, 40.0]], None)?;
//! let mut y = [0.0; 3];
//! grouped_gemm::forward(&offsets, Rows::new("x", &x, 2)?, &weights, RowsMut::new("y", &mut y, 1)?)?;
//! assert_eq!(y, [1.0, 2.0, 70.0]);
//!
//! // The gradient of each weight sums over the rows of its modality.
//! let (mut of_0, mut of_1) = ([0.0; 2], [0.0; 2]);
//! let grads = GroupedGrads::new(vec![&mut of_0[..], &mut of_1[..]]);
//! let grad_y = Rows::new("grad_y", &[1.0, 10.0, 100.0], 1)?;
//! grouped_gemm::backward_weights(&offsets, Rows::new("x", &x, 2)?, grad_y, &weights, grads)?;
//! assert_eq!((of_0, of_1), ([1.0, 10.0], [100.0, 100.0]));
//! # Ok::<(), mom_kernels::Error>(())
//! ```

pub(crate) mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod params;

pub use cpu::{GroupedGrads, GroupedWeights, backward_input, backward_weights, forward};
pub use params::Into;
