//! WebDataset shards: tar archives whose members are grouped into samples by their names.
//!
//! The key of a member is its path up to the first dot of the file name; the rest, in lower case, is the extension:
//! `.txt` a caption in UTF-8, `.png`, `.jpg`, `.jpeg` an image, `.wav` a waveform. Other members are ignored.

mod archive;
mod corpus;
mod media;
mod skip;

pub use corpus::{Corpus, Sample};
pub(crate) use media::decode_image;
pub use skip::{SkipReason, SkipReport};
