//! An optimiser whose state is split between ranks: each has an equal share of masters and moments, adds up the gradients of that share,
//! updates it, and gives the new weights to all (ZeRO, stages 1 and 2, arXiv 1910.02054).

#[cfg(feature = "cuda")]
mod device;
mod host;
mod layout;

#[cfg(feature = "cuda")]
pub(crate) use device::{BESIDE, ShardedOnDevice, Side};
pub(crate) use host::ShardedAdamW;
pub(crate) use layout::{Layout, Stretch};
