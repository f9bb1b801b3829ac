//! What codecs are made of. They are frozen: no operation here keeps anything for a backward pass.

mod attention;
mod conv;
#[cfg(feature = "cuda")]
mod gpu;
mod linear;
mod map;
mod nearest;
mod norm;
mod options;

pub(super) use attention::attend;
pub(super) use conv::{Conv1d, Conv2d, Transposed1d};
pub(super) use linear::Linear;
pub(super) use map::Map;
pub(super) use nearest::Nearest;
pub(super) use norm::{GroupNorm, LayerNorm};
pub(super) use options::{Activation, Heads};
