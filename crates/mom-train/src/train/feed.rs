//! The batches of a rank, step by step.

use mom_data::{Batch, Loader, Position, Share};
use mom_models::diffusion::{Noise, Timesteps};

use super::validation::noise;
use super::work::Input;
use crate::Result;
use crate::dist::{Piece, Pieces};

/// A stream of sequences that all ranks walk through together, and what this one takes of it.
///
/// The order of sequences and the noise of each batch are functions of the step alone, so that any number of ranks sees what one does.
#[derive(Debug)]
pub(super) struct Feed {
    loader: Loader,
    pieces: Pieces,
    chunk: Share,
    /// Batches of the current step that the loader is behind.
    passed: usize,
    /// The last batch, where several pieces are of one.
    last: Option<(usize, Batch)>,
    seed: u64,
}

impl Feed {
    /// From where the loader stands. `chunk`: which part of each sequence.
    pub fn new(loader: Loader, pieces: Pieces, chunk: Share, seed: u64) -> Self {
        Self { loader, pieces, chunk, passed: 0, last: None, seed }
    }

    /// Pieces of a step.
    pub fn n_pieces(&self) -> usize {
        self.pieces.own.len()
    }

    /// Where the next step begins, between two of them.
    pub fn position(&self) -> Position {
        self.loader.position()
    }

    /// Goes to where a step begins.
    ///
    /// # Errors
    /// A position that the data do not have.
    pub fn seek(&mut self, position: Position) -> Result<()> {
        (self.passed, self.last) = (0, None);
        Ok(self.loader.seek(position)?)
    }

    /// Piece `index` of a step, counted from 1: they are asked for in their order, all of them.
    ///
    /// # Errors
    /// Data that cannot be read.
    pub fn piece(&mut self, step: u64, index: usize) -> Result<Input> {
        let piece = self.pieces.own[index].clone();
        let whole = match self.last.take().filter(|(number, _)| *number == piece.batch) {
            Some((_, batch)) => batch,
            None => {
                self.pass_to(piece.batch)?;
                self.passed += 1;
                self.loader.next_batch()?
            }
        };
        let number = (step - 1) * self.pieces.n_batches as u64 + piece.batch as u64;
        let noise = noise(&whole, self.seed, number, Timesteps::Independent);
        let input = part(&whole, noise.as_ref(), &piece).chunk(self.chunk);
        self.last = Some((piece.batch, whole));
        if index + 1 == self.n_pieces() {
            self.pass_to(self.pieces.n_batches)?;
            (self.passed, self.last) = (0, None);
        }
        Ok(input)
    }

    /// Keys of the documents in this rank's batches of the next step, as `source:key`. The feed goes on behind the step.
    ///
    /// # Errors
    /// As [`Self::piece`].
    pub fn keys(&mut self) -> Result<Vec<String>> {
        let mut keys = Vec::new();
        for batch in self.pieces.own.clone().iter().map(|piece| piece.batch) {
            if batch >= self.passed {
                self.pass_to(batch)?;
                keys.extend(self.loader.next_keys()?);
                self.passed += 1;
            }
        }
        self.pass_to(self.pieces.n_batches)?;
        self.passed = 0;
        Ok(keys)
    }

    /// Passes over batches of other ranks.
    fn pass_to(&mut self, batch: usize) -> Result<()> {
        self.loader.skip((batch - self.passed) * self.pieces.batch)?;
        self.passed = batch;
        Ok(())
    }
}

/// A piece of a batch, with its part of the batch's noise.
fn part(batch: &Batch, noise: Option<&Noise>, Piece { sequences, .. }: &Piece) -> Input {
    let part = batch.sequences(sequences.clone());
    let patches = batch.patches_of(sequences);
    let noise = noise.filter(|_| !patches.is_empty()).map(|noise| {
        let first = batch.patch_images[patches.start] as usize;
        let images = first..first + part.n_images();
        noise.images(images, patches.start * batch.patch_dim..patches.end * batch.patch_dim)
    });
    Input { batch: part, noise }
}
