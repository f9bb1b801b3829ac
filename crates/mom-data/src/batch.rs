//! What crosses from the data to a model: plain host arrays.

use std::ops::Range;

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

    /// Some of its sequences, as a batch of its own.
    ///
    /// # Panics
    /// Where it has fewer.
    pub fn sequences(&self, sequences: Range<usize>) -> Self {
        let positions = sequences.start * self.seqlen..sequences.end * self.seqlen;
        let patches = self.patches_of(&sequences);
        let first_image = self.patch_images.get(patches.start).copied().unwrap_or(0);
        Self {
            batch: sequences.len(),
            seqlen: self.seqlen,
            tokens: self.tokens[positions.clone()].to_vec(),
            targets: self.targets[positions.clone()].to_vec(),
            modality_ids: self.modality_ids[positions.clone()].to_vec(),
            target_modality_ids: self.target_modality_ids[positions.clone()].to_vec(),
            document_starts: self.document_starts[positions.clone()].to_vec(),
            patch_dim: self.patch_dim,
            patches: self.patches[patches.start * self.patch_dim..patches.end * self.patch_dim].to_vec(),
            patch_positions: self.patch_positions[patches.clone()].iter().map(|p| p - positions.start as u32).collect(),
            patch_images: self.patch_images[patches].iter().map(|image| image - first_image).collect(),
        }
    }

    /// Some positions of each of its sequences, as a batch of its own: a chunk of every sequence. Targets are those of the whole: that of
    /// a chunk's last position is the first token of the next chunk.
    ///
    /// # Panics
    /// Where sequences have fewer.
    pub fn chunk(&self, positions: Range<usize>) -> Chunk {
        let of_sequence =
            |sequence: usize| sequence * self.seqlen + positions.start..sequence * self.seqlen + positions.end;
        let in_chunk: Vec<usize> = (0..self.batch).flat_map(of_sequence).collect();
        let before = |position: usize| self.patch_positions.partition_point(|&p| (p as usize) < position);
        let patches: Vec<usize> = (0..self.batch)
            .flat_map(|sequence| before(of_sequence(sequence).start)..before(of_sequence(sequence).end))
            .collect();
        let mut images: Vec<usize> = patches.iter().map(|&patch| self.patch_images[patch] as usize).collect();
        images.dedup();
        let place = |patch: &usize| {
            let position = self.patch_positions[*patch] as usize;
            (position / self.seqlen * positions.len() + position % self.seqlen - positions.start) as u32
        };
        // An image that lies over a border has a part in both chunks.
        let image = |patch: &usize| images.partition_point(|&image| image < self.patch_images[*patch] as usize) as u32;
        let batch = Self {
            batch: self.batch,
            seqlen: positions.len(),
            tokens: of(&self.tokens, &in_chunk),
            targets: of(&self.targets, &in_chunk),
            modality_ids: of(&self.modality_ids, &in_chunk),
            target_modality_ids: of(&self.target_modality_ids, &in_chunk),
            document_starts: of(&self.document_starts, &in_chunk),
            patch_dim: self.patch_dim,
            patches: patches
                .iter()
                .flat_map(|patch| &self.patches[patch * self.patch_dim..][..self.patch_dim])
                .copied()
                .collect(),
            patch_positions: patches.iter().map(place).collect(),
            patch_images: patches.iter().map(image).collect(),
        };
        Chunk { batch, patches, images }
    }

    /// The continuous patches that lie in some of its sequences.
    pub fn patches_of(&self, sequences: &Range<usize>) -> Range<usize> {
        let before = |sequence: usize| self.patch_positions.partition_point(|&p| (p as usize) < sequence * self.seqlen);
        before(sequences.start)..before(sequences.end)
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

/// A chunk of each sequence of a batch, and what of the batch's continuous patches and images it has.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunk {
    /// The chunk.
    pub batch: Batch,
    /// Which patches of the whole batch are its own, in their order.
    pub patches: Vec<usize>,
    /// Which images of the whole batch it has patches of, in their order.
    pub images: Vec<usize>,
}

fn of<T: Copy>(values: &[T], indices: &[usize]) -> Vec<T> {
    indices.iter().map(|&index| values[index]).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequences_of_a_batch_are_batches() {
        let mut batch = Batch::padding(3, 4, 2);
        batch.tokens = (0..12).collect();
        // An image in each of the first two sequences, two in the last.
        batch.patch_positions = vec![1, 2, 6, 8, 10, 11];
        batch.patch_images = vec![0, 0, 1, 2, 3, 3];
        batch.patches = (0..12u8).map(f32::from).collect();
        let last = batch.sequences(1..3);
        assert_eq!((last.batch, last.tokens[0], last.n_images()), (2, 4, 3));
        assert_eq!(last.patch_positions, [2, 4, 6, 7]);
        assert_eq!(last.patch_images, [0, 1, 2, 2]);
        assert_eq!(last.patches, [4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0]);
        assert_eq!(batch.sequences(0..3), batch);
        assert_eq!(batch.sequences(1..1).n_patches(), 0);
    }

    #[test]
    fn a_chunk_of_each_sequence_is_a_batch() {
        let mut batch = Batch::padding(2, 6, 1);
        batch.tokens = (0..12).collect();
        batch.targets = (1..13).collect();
        // An image over the border of the first sequence, one behind it; one in each half of the second.
        batch.patch_positions = vec![1, 2, 3, 5, 6, 10, 11];
        batch.patch_images = vec![0, 0, 0, 1, 2, 3, 3];
        batch.patches = (0..7u8).map(f32::from).collect();
        let [first, second] = [0..3, 3..6].map(|positions| batch.chunk(positions));
        assert_eq!(
            (&first.batch.tokens[..], &first.batch.targets[..]),
            (&[0, 1, 2, 6, 7, 8][..], &[1, 2, 3, 7, 8, 9][..])
        );
        assert_eq!((&first.patches[..], &first.images[..]), (&[0, 1, 4][..], &[0, 2][..]));
        assert_eq!((&second.patches[..], &second.images[..]), (&[2, 3, 5, 6][..], &[0, 1, 3][..]));
        let places = |chunk: &Chunk| (chunk.batch.patch_positions.clone(), chunk.batch.patch_images.clone());
        assert_eq!(places(&first), (vec![1, 2, 3], vec![0, 0, 1]));
        assert_eq!(places(&second), (vec![0, 2, 4, 5], vec![0, 1, 2, 2]));
        assert_eq!(second.batch.patches, [2.0, 3.0, 5.0, 6.0]);
        let whole = batch.chunk(0..6);
        assert_eq!((whole.batch, whole.images), (batch, vec![0, 1, 2, 3]));
    }
}
