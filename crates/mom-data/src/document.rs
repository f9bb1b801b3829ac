//! A sample after tokenisation.

use crate::readers::PartOrder;

/// A tokenised sample. Tokens are codes of their modality, from 0; [`crate::Vocabulary::token`] moves them into the token
/// space, so that tokens on disk do not depend on the sizes of other modalities' vocabularies.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Key of the sample.
    pub key: String,
    /// Decides the split: a hash of the sample's group, or of its key.
    pub hash: u64,
    /// Whether the order of the parts says something.
    pub order: PartOrder,
    /// The parts; of a free order at most one of a modality, in the order of their ids.
    pub parts: Vec<Content>,
}

/// One part of a document.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// Text tokens.
    Text(Vec<u32>),
    /// Image codes.
    ImageCodes(Vec<u32>),
    /// Speech units.
    Speech(Vec<u32>),
    /// Pixels of a square image, (size, size, 3), for continuous patches.
    Pixels(Vec<u8>),
    /// Continuous patches as they are, (n_patches, patch_dim).
    Patches(Vec<f32>),
}
