//! The documents of one split of all sources.

use std::sync::Arc;

use crate::document::Document;
use crate::needs::{ImageNeed, Needs};
use crate::store::{Record, UnitFile, UnitFiles};
use crate::{Result, Vocabulary};

/// The documents of one split: those of each source, with its weight.
///
/// They lie on disk, and are read when their turn comes; in memory is a few dozen bytes for each unit of a source.
#[derive(Debug, Clone)]
pub struct Documents {
    pub(crate) vocabulary: Vocabulary,
    pub(crate) needs: Needs,
    pub(crate) patches: PatchShape,
    pub(crate) sources: Vec<SourceDocuments>,
    /// A temporary store goes with the last of its documents.
    pub(crate) _temporary: Option<Arc<tempfile::TempDir>>,
}

/// How pixels become continuous patches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct PatchShape {
    /// Side of the images in pixels.
    pub image_size: usize,
    /// Side of a patch.
    pub patch: usize,
    /// Values of a patch; 0 where there are no continuous patches.
    pub dim: usize,
}

/// The documents of one source in one split.
#[derive(Debug, Clone)]
pub(crate) struct SourceDocuments {
    pub name: String,
    /// Share of tokens, relative to the other sources.
    pub weight: f64,
    /// Positions of a document, on average.
    pub mean_positions: f64,
    pub files: Arc<UnitFiles>,
    pub units: Vec<UnitRange>,
}

/// The documents of a split in one unit: a range of ranks in the order of their hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UnitRange {
    /// Documents of the split before this unit.
    pub start: u64,
    pub first_rank: u64,
    /// Index of its file.
    pub file: u32,
}

impl SourceDocuments {
    /// Ranges end with one that is empty, which closes the last.
    pub fn n_documents(&self) -> u64 {
        self.units.last().map_or(0, |unit| unit.start)
    }

    /// The file of a document, and its rank there.
    pub fn locate(&self, document: u64) -> (usize, u64) {
        let at = self.units.partition_point(|unit| unit.start <= document) - 1;
        let unit = &self.units[at];
        (unit.file as usize, unit.first_rank + document - unit.start)
    }

    /// The record of a document, and the file that it lies in.
    pub fn record(&self, document: u64) -> Result<(UnitFile, Record)> {
        let (unit, rank) = self.locate(document);
        let file = self.files.get(unit)?;
        let record = file.record(rank)?;
        Ok((file, record))
    }
}

impl Documents {
    /// Documents of all sources.
    pub fn len(&self) -> u64 {
        self.sources.iter().map(SourceDocuments::n_documents).sum()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Positions of all documents with all of their parts, about.
    pub fn n_positions(&self) -> f64 {
        self.sources.iter().map(|source| source.n_documents() as f64 * source.mean_positions).sum()
    }

    /// Name and number of documents of each source.
    pub fn by_source(&self) -> impl Iterator<Item = (&str, u64)> {
        self.sources.iter().map(|source| (source.name.as_str(), source.n_documents()))
    }

    /// The token space.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// What was taken from each sample.
    pub fn needs(&self) -> Needs {
        self.needs
    }

    /// Values of a continuous patch; 0 where images are codes.
    pub fn patch_dim(&self) -> usize {
        if self.needs.image == ImageNeed::Patches { self.patches.dim } else { 0 }
    }

    /// A document as it was tokenised, by its place among all of the split: source by source, in the order of their hashes.
    ///
    /// # Errors
    /// [`crate::DataError::Io`] and [`crate::DataError::Tokens`] for a store that cannot be read or is damaged.
    ///
    /// # Panics
    /// If `index` is not below [`Self::len`].
    pub fn document(&self, index: u64) -> Result<Document> {
        assert!(index < self.len(), "document {index} of {}", self.len());
        let mut left = index;
        let mut sources = self.sources.iter();
        loop {
            let Some(source) = sources.next() else { unreachable!("the sources' documents add up") };
            if left < source.n_documents() {
                let (file, record) = source.record(left)?;
                return file.document(&record);
            }
            left -= source.n_documents();
        }
    }

    /// Keys of all documents, source by source: for tests and small sets.
    ///
    /// # Errors
    /// [`crate::DataError::Io`] and [`crate::DataError::Tokens`] for a store that cannot be read.
    pub fn keys(&self) -> Result<Vec<String>> {
        let all = self.sources.iter().flat_map(|source| (0..source.n_documents()).map(move |at| (source, at)));
        all.map(|(source, at)| source.record(at).and_then(|(file, record)| file.key(&record))).collect()
    }
}
