//! The plan on the host: a stable counting sort, and the views that operations take of it.

use std::ops::Range;

use super::params::{MAX_MODALITIES, OP, positions};
use crate::error::{Error, Result, expect_limit, expect_size};
use crate::shape::{Groups, Sequences};

/// Borders of the modalities in row order: modality m owns rows `offsets[m]..offsets[m + 1]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModalityOffsets(Vec<usize>);

impl ModalityOffsets {
    /// One group over all rows: what a shared projection uses.
    pub fn single(n_rows: usize) -> Self {
        Self(vec![0, n_rows])
    }

    /// Offsets from the number of rows of each modality.
    pub fn from_counts(counts: impl IntoIterator<Item = usize>) -> Self {
        let mut offsets = vec![0];
        let mut end = 0;
        for count in counts {
            // A sum past the end of usize fits no matrix: the operations refuse it, none wraps around.
            end = usize::saturating_add(end, count);
            offsets.push(end);
        }
        Self(offsets)
    }

    /// Number of modalities.
    pub fn n_modalities(&self) -> usize {
        self.0.len() - 1
    }

    /// Number of rows of all modalities together.
    pub fn n_rows(&self) -> usize {
        self.0[self.0.len() - 1]
    }

    /// Rows of one modality; empty where it is absent. Panics on a modality that does not exist.
    pub fn rows(&self, modality: usize) -> Range<usize> {
        self.0[modality]..self.0[modality + 1]
    }

    /// The exclusive prefix sums, `n_modalities + 1` of them.
    pub fn as_slice(&self) -> &[usize] {
        &self.0
    }

    /// Modality of a row. Panics on a row that no modality owns.
    #[inline]
    pub fn modality_of_row(&self, row: usize) -> usize {
        let mut modality = 0;
        while row >= self.0[modality + 1] {
            modality += 1;
        }
        modality
    }
}

/// Rows in modality order, and document borders, of one batch of sequences.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModalityPlan {
    batch: usize,
    seqlen: usize,
    row_of_position: Vec<u32>,
    position_of_row: Vec<u32>,
    modality_offsets: ModalityOffsets,
    document_starts: Option<Vec<bool>>,
}

impl ModalityPlan {
    /// Sorts the positions of a batch by modality.
    ///
    /// * `modality_ids`: `(batch, seqlen)`, each below `n_modalities`.
    /// * `document_starts`: `(batch, seqlen)`, true where a document begins: conv window and state are reset there.
    ///   `None` means that every sequence continues (or starts from zero) as a whole.
    ///
    /// # Errors
    /// A wrong length, an id out of range (named with its position), more than 2^32 - 1 positions, more than 256
    /// modalities.
    pub fn new(
        batch: usize,
        seqlen: usize,
        n_modalities: usize,
        modality_ids: &[u8],
        document_starts: Option<&[bool]>,
    ) -> Result<Self> {
        let n = positions(OP, batch, seqlen)?;
        expect_limit(OP, "n_modalities", MAX_MODALITIES, n_modalities)?;
        expect_size(OP, "modality_ids", "elements", n, modality_ids.len())?;
        if let Some(starts) = document_starts {
            expect_size(OP, "document_starts", "elements", n, starts.len())?;
        }
        let mut counts = vec![0usize; n_modalities];
        for (position, &id) in modality_ids.iter().enumerate() {
            match counts.get_mut(usize::from(id)) {
                Some(count) => *count += 1,
                None => return Err(Error::ModalityId { position, got: u32::from(id), n_modalities }),
            }
        }
        let modality_offsets = ModalityOffsets::from_counts(counts);
        let mut next: Vec<usize> = modality_offsets.as_slice().to_vec();
        let mut row_of_position = vec![0; n];
        let mut position_of_row = vec![0; n];
        for (position, &id) in modality_ids.iter().enumerate() {
            let row = next[usize::from(id)];
            next[usize::from(id)] += 1;
            row_of_position[position] = row as u32;
            position_of_row[row] = position as u32;
        }
        let document_starts = document_starts.map(<[bool]>::to_vec);
        Ok(Self { batch, seqlen, row_of_position, position_of_row, modality_offsets, document_starts })
    }

    /// A plan of one modality: rows are positions.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn dense(batch: usize, seqlen: usize, document_starts: Option<&[bool]>) -> Result<Self> {
        let n = positions(OP, batch, seqlen)?;
        Self::new(batch, seqlen, 1, &vec![0; n], document_starts)
    }

    /// Number of sequences.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Positions in a sequence.
    pub fn seqlen(&self) -> usize {
        self.seqlen
    }

    /// Number of positions, which is the number of rows.
    pub fn n_rows(&self) -> usize {
        self.row_of_position.len()
    }

    /// Number of modalities.
    pub fn n_modalities(&self) -> usize {
        self.modality_offsets.n_modalities()
    }

    /// Row of each position.
    pub fn row_of_position(&self) -> &[u32] {
        &self.row_of_position
    }

    /// Position of each row: the inverse of [`Self::row_of_position`].
    pub fn position_of_row(&self) -> &[u32] {
        &self.position_of_row
    }

    /// Row range of each modality.
    pub fn modality_offsets(&self) -> &ModalityOffsets {
        &self.modality_offsets
    }

    /// Where documents begin, by position.
    pub fn document_starts(&self) -> Option<&[bool]> {
        self.document_starts.as_deref()
    }

    /// How conv and scan walk the rows.
    pub fn layout(&self) -> SequenceLayout<'_> {
        SequenceLayout {
            batch: self.batch,
            seqlen: self.seqlen,
            row_of_position: Some(&self.row_of_position),
            document_starts: self.document_starts.as_deref(),
        }
    }
}

/// How time runs through the rows: `(batch, seqlen)`, the row of each position and the document borders.
///
/// Made by [`ModalityPlan::layout`], whose rows are a permutation by construction, or by [`SequenceLayout::contiguous`]
/// where rows are positions; so the kernels need not check rows again, and two positions never share one.
#[derive(Debug, Clone, Copy)]
pub struct SequenceLayout<'a> {
    batch: usize,
    seqlen: usize,
    row_of_position: Option<&'a [u32]>,
    document_starts: Option<&'a [bool]>,
}

impl<'a> SequenceLayout<'a> {
    /// Rows are positions. `document_starts` as in [`ModalityPlan::new`].
    ///
    /// # Errors
    /// A wrong number of document starts, more than 2^32 - 1 positions.
    pub fn contiguous(batch: usize, seqlen: usize, document_starts: Option<&'a [bool]>) -> Result<Self> {
        let n = positions("sequence_layout", batch, seqlen)?;
        if let Some(starts) = document_starts {
            expect_size("sequence_layout", "document_starts", "elements", n, starts.len())?;
        }
        Ok(Self { batch, seqlen, row_of_position: None, document_starts })
    }

    /// Number of sequences.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Positions in a sequence.
    pub fn seqlen(&self) -> usize {
        self.seqlen
    }

    /// Number of positions.
    pub fn n_rows(&self) -> usize {
        self.batch * self.seqlen
    }

    /// Row of a position.
    #[inline(always)]
    pub fn row(&self, position: usize) -> usize {
        match self.row_of_position {
            Some(rows) => rows[position] as usize,
            None => position,
        }
    }

    /// Whether a document begins at a position.
    #[inline(always)]
    pub fn starts_document(&self, position: usize) -> bool {
        self.document_starts.is_some_and(|starts| starts[position])
    }
}

impl Groups for ModalityOffsets {
    fn n_groups(&self) -> usize {
        self.n_modalities()
    }

    fn n_rows(&self) -> usize {
        ModalityOffsets::n_rows(self)
    }
}

impl Sequences for SequenceLayout<'_> {
    fn batch(&self) -> usize {
        self.batch
    }

    fn seqlen(&self) -> usize {
        self.seqlen
    }
}
