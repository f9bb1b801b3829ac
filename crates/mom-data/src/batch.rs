//! What crosses from the data to a model: plain host arrays.

use serde::{Deserialize, Serialize};

/// Marks a position whose next token is not to be predicted.
pub const NO_TARGET: u32 = u32::MAX;

/// `batch` packed sequences of `seqlen` positions each.
///
/// Position p = b * seqlen + t. Every vector has `batch * seqlen` entries unless said otherwise.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Batch {
    /// Number of sequences.
    pub batch: usize,
    /// Positions of a sequence.
    pub seqlen: usize,
    /// Token at each position; 0 (pad) at padding and at continuous patches.
    pub tokens: Vec<u32>,
    /// The token that follows in the same document; at its end begin-of-document, so that a model learns where documents
    /// end; or [`NO_TARGET`]: at padding, at continuous patches, and where the next position is a patch. The last position
    /// of a sequence has its target too, though the token itself stands in the next sequence.
    pub targets: Vec<u32>,
    /// Modality of the position's own content: text 0, image 1, speech 2. Special tokens and padding are text.
    pub modality_ids: Vec<u8>,
    /// Modality of the target token; 0 where there is none.
    pub target_modality_ids: Vec<u8>,
    /// True where a document, the rest of a cut document, or padding begins. True at t = 0 of every sequence.
    pub document_starts: Vec<bool>,
    /// Values of one continuous patch; 0 without continuous images.
    pub patch_dim: usize,
    /// Continuous patches (n_patches, patch_dim), values in [-1, 1], in the order of `patch_positions`.
    pub patches: Vec<f32>,
    /// Position of each patch (n_patches), ascending.
    pub patch_positions: Vec<u32>,
    /// Image of each patch (n_patches), counted from 0 within this batch; the patches of an image are contiguous.
    pub patch_images: Vec<u32>,
}

impl Batch {
    /// An empty batch of `batch * seqlen` padding positions.
    pub(crate) fn padding(batch: usize, seqlen: usize, patch_dim: usize) -> Self {
        let n = batch * seqlen;
        Self {
            batch,
            seqlen,
            tokens: vec![crate::Special::Pad.token(); n],
            targets: vec![NO_TARGET; n],
            modality_ids: vec![0; n],
            target_modality_ids: vec![0; n],
            document_starts: vec![false; n],
            patch_dim,
            patches: Vec::new(),
            patch_positions: Vec::new(),
            patch_images: Vec::new(),
        }
    }

    /// Number of continuous patches.
    pub fn n_patches(&self) -> usize {
        self.patch_positions.len()
    }

    /// Number of continuous images.
    pub fn n_images(&self) -> usize {
        self.patch_images.last().map_or(0, |&image| image as usize + 1)
    }

    /// Number of positions that have a target.
    pub fn n_targets(&self) -> usize {
        self.targets.iter().filter(|&&target| target != NO_TARGET).count()
    }
}

/// Where a [`crate::Loader`] stands: the next sequence it will hand out. Saved in a checkpoint and restored by
/// [`crate::Loader::seek`]. The same for any number of ranks that share a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Windows of the mixture that are done.
    pub window: u64,
    /// Sequences of this window already handed out.
    pub sequence: u64,
}

/// The order in which documents are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Order {
    /// A new permutation, and new draws of each document's form, every epoch.
    Shuffled {
        /// Seed of permutations and draws.
        seed: u64,
    },
    /// One permutation and the same draws, always: for validation. A permutation, so that a few batches show all sources.
    Fixed,
}

/// Which sequences of a shared stream a loader hands out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Which of the ranks this is.
    pub rank: usize,
    /// Ranks that share the stream.
    pub of: usize,
}

impl Share {
    /// All of it.
    pub const WHOLE: Self = Self { rank: 0, of: 1 };
}
