//! A mixture of sources: whose document comes when.
//!
//! Each source is an endless stream of its documents, epoch after epoch, each epoch in a new order. The mixture takes from
//! the streams in windows; how far window k reaches into each stream is a product of k and a fixed rate, so that every
//! window can be made on its own, from its number and the seed alone.

mod documents;
mod forms;
mod order;

pub use documents::Documents;
pub(crate) use documents::{PatchShape, SourceDocuments, UnitRange};
pub(crate) use forms::Form;
pub use forms::{FormWeights, Forms};
pub(crate) use order::{Draw, Schedule};
