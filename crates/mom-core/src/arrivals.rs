//! Weights that are still on their way when a forward pass begins.

use std::fmt::Debug;

/// Parts of a model, in the order in which a forward pass comes to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// What stands before the blocks: embedding, and the way in of patches.
    First,
    /// A block, by its number.
    Block(usize),
    /// What stands behind them: norm, head, and the way out of patches.
    Last,
}

/// Who brings a model's weights to its device while other things run there: ranks that share an optimiser send each other the
/// new weights of a step while the next step begins.
///
/// A forward pass asks before it reads weights of a part. They come in the order of the parts: with one all before it are there.
pub trait Arrivals: Debug + Send + Sync {
    /// Has all that is launched from now on, on the device's own stream, run behind the arrival of a part's weights. Does not
    /// wait itself. What the device refuses, its next call reports.
    fn wait_for(&self, part: Part);
}
