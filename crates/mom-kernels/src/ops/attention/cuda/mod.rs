//! Attention on the GPU; equation and meaning as [`crate::attention`].
//!
//! In bf16 on tensor cores (with wgmma on a card of 9.0), with heads of at most 64 features, a multiple of 8, and rows and first columns on 16 bytes; in f32,
//! for checks and small models, with heads of at most 64 features. Softmax, sums and `lse` are f32.
//!
//! The backward pass computes scores twice, once for the gradients of queries and once for those of keys and values, so that
//! every sum has one order: two calls give the same bits.

mod abi;
mod args;
mod launch;
mod select;

pub use args::{AttentionGrads, AttentionInputs, DeviceMask, MAX_HEAD_DIM, MaskView};
pub use launch::{backward, backward_workspace_len, forward};
