//! Hands out batches of packed sequences, epoch after epoch.
//!
//! Sequences form one endless stream: those of epoch 0 in order, then those of epoch 1, and so on. A batch is the next
//! `batch` of them, so that the last batch of an epoch is completed from the next epoch and no sequence is lost. A
//! [`Position`] names the next sequence; seeking to it packs that epoch anew (a pure function of the seed) and goes on as
//! if there had been no interruption.

use std::sync::Arc;

use crate::batch::{Batch, NO_TARGET, Order, Position};
use crate::documents::DocumentSet;
use crate::error::require;
use crate::packing::{Element, EpochIndex, Packer};
use crate::recipe::Recipe;
use crate::{DataError, Result, Special, pixels};

/// An endless stream of batches over the documents of one split.
pub struct Loader {
    documents: Arc<DocumentSet>,
    recipe: Recipe,
    batch: usize,
    seqlen: usize,
    order: Order,
    n_patches: usize,
    index: EpochIndex,
    sequence: usize,
}

impl std::fmt::Debug for Loader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loader")
            .field("n_documents", &self.documents.len())
            .field("recipe", &self.recipe)
            .field("batch", &self.batch)
            .field("seqlen", &self.seqlen)
            .field("order", &self.order)
            .field("position", &self.position())
            .finish_non_exhaustive()
    }
}

impl Loader {
    /// A loader at the start of epoch 0.
    ///
    /// # Errors
    /// [`DataError::Config`] for a size of zero, an invalid recipe, or a patch that does not divide the image size;
    /// [`DataError::Missing`] if the documents lack what the recipe needs; [`DataError::ImageTooLong`] if an image of
    /// continuous patches with its two markers is longer than `seqlen`.
    pub fn new(documents: Arc<DocumentSet>, recipe: Recipe, batch: usize, seqlen: usize, order: Order) -> Result<Self> {
        recipe.validate()?;
        require(batch > 0, "batch", "at least 1", batch)?;
        require(seqlen > 0, "seqlen", "at least 1", seqlen)?;
        let fits = batch.checked_mul(seqlen).is_some_and(|n| u32::try_from(n).is_ok_and(|n| n < NO_TARGET));
        require(fits, "batch * seqlen", "below 2^32 - 1", format!("{batch} * {seqlen}"))?;
        documents.require(recipe.needs())?;
        let n_patches = match recipe.patch() {
            Some(patch) => pixels::n_patches(documents.image_size(), patch)?,
            None => 0,
        };
        if n_patches > 0 && n_patches + 2 > seqlen {
            return Err(DataError::ImageTooLong { n_positions: n_patches + 2, seqlen });
        }
        let index = Packer { documents: &documents, recipe: &recipe, order, seqlen, n_patches }.index(0);
        Ok(Self { documents, recipe, batch, seqlen, order, n_patches, index, sequence: 0 })
    }

    /// The next `batch` sequences.
    ///
    /// # Errors
    /// None of this version's recipes can fail here; the errors of making patches are handed on.
    pub fn next_batch(&mut self) -> Result<Batch> {
        let patch_dim = self.recipe.patch().map_or(0, pixels::patch_dim);
        let mut batch = Batch::padding(self.batch, self.seqlen, patch_dim);
        for b in 0..self.batch {
            self.fill(&mut batch, b)?;
            self.advance(1);
        }
        Ok(batch)
    }

    /// Passes over `n_sequences` sequences without making them: with several readers of one stream, each takes its own
    /// batches and skips those of the others.
    pub fn skip(&mut self, n_sequences: usize) {
        let mut left = n_sequences;
        while left > 0 {
            let step = left.min(self.index.n_sequences() - self.sequence);
            self.advance(step);
            left -= step;
        }
    }

    /// The next sequence to be handed out.
    pub fn position(&self) -> Position {
        Position { epoch: self.index.epoch(), sequence: self.sequence as u64 }
    }

    /// Goes to a position, so that the next batch is the one that followed it.
    ///
    /// # Errors
    /// [`DataError::Position`] if the epoch has no such sequence; the loader then stays where it was.
    pub fn seek(&mut self, position: Position) -> Result<()> {
        let index = if position.epoch == self.index.epoch() { None } else { Some(self.packer().index(position.epoch)) };
        let n_sequences = index.as_ref().unwrap_or(&self.index).n_sequences();
        match usize::try_from(position.sequence) {
            Ok(sequence) if sequence < n_sequences => {
                self.sequence = sequence;
                if let Some(index) = index {
                    self.index = index;
                }
                Ok(())
            }
            _ => Err(DataError::Position { epoch: position.epoch, sequence: position.sequence, n_sequences }),
        }
    }

    /// Sequences of the current epoch: the one [`Self::position`] lies in.
    pub fn n_sequences(&self) -> usize {
        self.index.n_sequences()
    }

    /// Sequences in a batch.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Positions in a sequence.
    pub fn seqlen(&self) -> usize {
        self.seqlen
    }

    /// The documents that are read.
    pub fn documents(&self) -> &Arc<DocumentSet> {
        &self.documents
    }

    fn packer(&self) -> Packer<'_> {
        Packer {
            documents: &self.documents,
            recipe: &self.recipe,
            order: self.order,
            seqlen: self.seqlen,
            n_patches: self.n_patches,
        }
    }

    /// Goes `step` sequences ahead, at most to the end of the epoch; the end of an epoch is the start of the next.
    fn advance(&mut self, step: usize) {
        self.sequence += step;
        if self.sequence >= self.index.n_sequences() {
            self.index = self.packer().index(self.index.epoch() + 1);
            self.sequence = 0;
        }
    }

    /// Writes the current sequence into row `b` of a batch of padding.
    fn fill(&self, batch: &mut Batch, b: usize) -> Result<()> {
        let packer = self.packer();
        let row = b * self.seqlen;
        let mut t = 0;
        for piece in packer.pieces(&self.index, self.sequence) {
            batch.document_starts[row + t] = true;
            let elements = packer.elements(piece.document, &piece.form);
            for at in piece.offset..piece.offset + piece.len {
                let p = row + t;
                let element = elements[at];
                batch.modality_ids[p] = packer.modality(element).id();
                match element {
                    Element::Patch(patch) => {
                        if patch == 0 {
                            let image = batch.n_images() as u32;
                            batch.patch_images.extend(std::iter::repeat_n(image, self.n_patches));
                            self.documents.write_patches(piece.document, &self.recipe, &mut batch.patches)?;
                        }
                        batch.patch_positions.push(p as u32);
                    }
                    Element::Token(token) => {
                        batch.tokens[p] = token;
                        // A document ends where the next one would begin.
                        let next = elements.get(at + 1).copied().unwrap_or(Element::BEGIN_DOCUMENT);
                        if next.target() != NO_TARGET {
                            batch.targets[p] = next.target();
                            batch.target_modality_ids[p] = packer.modality(next).id();
                        }
                    }
                }
                t += 1;
            }
        }
        if t < self.seqlen {
            debug_assert_eq!(batch.tokens[row + t], Special::Pad.token());
            batch.document_starts[row + t] = true;
        }
        Ok(())
    }
}
