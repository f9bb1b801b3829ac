//! Attention with a mask of intervals: causal inside of a document, in both directions inside of a span.
//!
//! ```text
//! s_ti = scale q_t . k_i           for the keys i that t meets
//! out_t = sum_i softmax_i(s_ti) v_i
//! ```
//!
//! Rows of q, k and v are `(n_heads, head_dim)`; each head is an attention of its own (Vaswani et al., arXiv 1706.03762). A
//! query meets the keys of its document up to itself, and inside of a *span* (a picture) up to the span's end, as
//! Transfusion has it (arXiv 2408.11039). So the keys of a query are an interval, whose ends never fall along a sequence:
//! [`AttentionMask`]. Scores are formed a tile at a time and never stored (FlashAttention, arXiv 2205.14135).
//!
//! **Saved for backward:** the output and the logarithm of each query's normaliser (`lse`).
//!
//! ```
//! use mom_kernels::attention::{self, AttentionInputs, AttentionMask};
//! use mom_kernels::{Rows, RowsMut, SequenceLayout};
//!
//! // One head of one feature. All keys are alike, so that a query gives the mean of the values that it meets: two positions
//! // of text, then a picture of two.
//! let layout = SequenceLayout::contiguous(1, 4, None)?;
//! let mask = AttentionMask::new(layout, &[2..4])?;
//! let (ones, v) = ([1.0f32; 4], [0.0f32, 2.0, 4.0, 6.0]);
//! let rows = |data| Rows::new("rows", data, 1);
//! let inputs = AttentionInputs::new(layout, &mask, 1, rows(&ones)?, rows(&ones)?, rows(&v)?);
//! let mut out = [0.0f32; 4];
//! attention::forward(&inputs, RowsMut::new("out", &mut out, 1)?, None)?;
//! assert_eq!(out, [0.0, 1.0, 3.0, 3.0]);
//! # Ok::<(), mom_kernels::Error>(())
//! ```

mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod mask;
pub mod params;

pub use cpu::{AttentionGrads, AttentionInputs, backward, forward};
pub use mask::AttentionMask;
