//! The arguments as views of host memory. The shapes stand in [`params`].

use crate::ops::attention::mask::AttentionMask;
use crate::ops::attention::params;
use crate::ops::plan::SequenceLayout;
use crate::rows::{Rows, RowsMut};

/// Inputs of attention.
pub type AttentionInputs<'a, T> = params::AttentionInputs<Rows<'a, T>, SequenceLayout<'a>, &'a AttentionMask>;

/// What the backward pass writes, all overwritten.
pub type AttentionGrads<'a, T> = params::AttentionGrads<RowsMut<'a, T>>;
