//! From sources to two splits of tokenised documents.
//!
//! [`Dataset::prepare`] tokenises what is not tokenised yet, into a folder, and opens it; where everything is there, it
//! reads no source. What is skipped or ignored on the way is counted by source ([`Tally`]).

mod encoder;
mod external;
mod pace;
mod prepare;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::mixture::{Documents, PatchShape, SourceDocuments, UnitRange};
use crate::needs::ImageNeed;
use crate::readers::Tally;
use crate::source::{self, SourceConfig, SplitRule};
use crate::split::hash_bound;
use crate::store::{Catalogue, UnitFiles, UnitSums};
use crate::tokenizers::{CodeKind, Tokenizers};
use crate::{DataError, Progress, Result, rng};

/// Both splits of all sources, tokenised.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Dataset {
    /// The training split.
    pub train: Arc<Documents>,
    /// The held-out split.
    pub held_out: Arc<Documents>,
    /// What became of everything that was found, by source.
    pub tallies: BTreeMap<String, Tally>,
    fingerprint: u64,
    text_tokens: u64,
    text_bytes: u64,
}

impl Dataset {
    /// Tokenises all sources into `folder`, and opens both splits. What lies there of the same samples and tokenizers is
    /// taken as it is, so that a call that was stopped goes on, a source that grew is only added to, and one that is complete
    /// is not read at all.
    ///
    /// # Errors
    /// [`DataError::Config`] for a source or a fraction out of range; [`DataError::Io`] and [`DataError::Damaged`] for
    /// files that cannot be read, unless the source says that they are to be skipped; [`DataError::Tokens`] for a folder
    /// that is damaged; [`DataError::AllSkipped`] and [`DataError::EmptySplit`] if too little is left.
    pub fn prepare(
        sources: &[SourceConfig],
        tokenizers: &Tokenizers,
        folder: &Path,
        progress: impl FnMut(Progress<'_>),
    ) -> Result<Self> {
        Self::prepare_splits(sources, tokenizers, folder, &["training", "held-out"], progress)
    }

    /// As [`Self::prepare`], with nothing to train on: every document is held out.
    ///
    /// # Errors
    /// As [`Self::prepare`].
    pub fn prepare_to_evaluate(
        sources: &[SourceConfig],
        tokenizers: &Tokenizers,
        folder: &Path,
        progress: impl FnMut(Progress<'_>),
    ) -> Result<Self> {
        let all = |source: &SourceConfig| SourceConfig { split: SplitRule::Validation, ..source.clone() };
        let sources: Vec<SourceConfig> = sources.iter().map(all).collect();
        Self::prepare_splits(&sources, tokenizers, folder, &["held-out"], progress)
    }

    /// `splits`: those that must have a document.
    fn prepare_splits(
        sources: &[SourceConfig],
        tokenizers: &Tokenizers,
        folder: &Path,
        splits: &[&str],
        mut progress: impl FnMut(Progress<'_>),
    ) -> Result<Self> {
        source::check(sources)?;
        let held_out = tokenizers.config().held_out;
        let mut catalogues = Vec::new();
        for source in sources {
            let store = prepare::store_of(source, tokenizers, folder)?;
            catalogues.push(prepare::source(source, tokenizers, &store, &mut progress)?);
        }
        Self::assemble(sources, tokenizers, held_out, &catalogues, splits)
    }

    /// [`Self::prepare`] in a temporary folder that goes with the documents: for examples and tests.
    ///
    /// # Errors
    /// As [`Self::prepare`].
    pub fn load(sources: &[SourceConfig], tokenizers: &Tokenizers) -> Result<Self> {
        let temporary =
            tempfile::tempdir().map_err(|source| DataError::Io { op: "create", path: std::env::temp_dir(), source })?;
        let mut dataset = Self::prepare(sources, tokenizers, temporary.path(), |_| {})?;
        let temporary = Arc::new(temporary);
        for split in [&mut dataset.train, &mut dataset.held_out] {
            let mut documents = (**split).clone();
            documents._temporary = Some(temporary.clone());
            *split = Arc::new(documents);
        }
        Ok(dataset)
    }

    /// The document of one sample of a source, or why it is skipped: what [`Self::prepare`] does to each.
    ///
    /// # Errors
    /// The [`crate::readers::Skip`] that would be counted. Media for external tokenizers, which take many at a time, are left
    /// out.
    pub fn document(
        sample: &crate::readers::Sample,
        source: &SourceConfig,
        tokenizers: &Tokenizers,
    ) -> Result<crate::Document, crate::readers::Skip> {
        encoder::Encoder { source, tokenizers }.encode(sample, |_| None).map(|(document, _)| document)
    }

    /// A hash of what all documents were made from and how they are mixed: a run goes on with the data that it began with.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Bytes of text that a text token stands for, on average over all documents whose text was tokenised here. `None` without text. (What
    /// some targets stand for: [`Tokenizers::target_bytes`].)
    pub fn bytes_per_text_token(&self) -> Option<f64> {
        (self.text_tokens > 0 && self.text_bytes > 0).then(|| self.text_bytes as f64 / self.text_tokens as f64)
    }

    fn assemble(
        sources: &[SourceConfig],
        tokenizers: &Tokenizers,
        held_out: f64,
        catalogues: &[(std::path::PathBuf, Catalogue)],
        splits: &[&str],
    ) -> Result<Self> {
        let empty = Documents {
            vocabulary: *tokenizers.vocabulary(),
            needs: tokenizers.needs(),
            patches: patch_shape(tokenizers),
            sources: Vec::new(),
            _temporary: None,
        };
        let (mut train, mut validation) = (empty.clone(), empty);
        let mut tallies = BTreeMap::new();
        let (mut all, mut skipped) = (UnitSums::default(), Tally::default());
        let mut words = format!("{:016x} {held_out}", tokenizers.fingerprint()?);
        for (source, (store, catalogue)) in sources.iter().zip(catalogues) {
            let (mut sums, mut tally) = (UnitSums::default(), catalogue.beside.clone());
            let paths = catalogue.units.iter().map(|entry| store.join(&entry.file)).collect();
            let files = Arc::new(UnitFiles::new(paths));
            let (mut trained, mut held) = (Ranges::default(), Ranges::default());
            for (index, entry) in catalogue.units.iter().enumerate() {
                sums.append(&entry.sums);
                tally.append(&entry.tally);
                let n = entry.sums.n_documents;
                let n_held = match source.split {
                    SplitRule::Train => 0,
                    SplitRule::Validation => n,
                    SplitRule::HeldOut if entry.held_out == held_out => entry.n_held_out,
                    SplitRule::HeldOut => files.get(index)?.n_below(hash_bound(held_out))?,
                };
                held.push(index, 0, n_held);
                trained.push(index, n_held, n - n_held);
                words.push_str(&format!("\n{} {} {n} {n_held}", entry.unit, entry.checksum));
            }
            words.push_str(&format!("\n{} {} {:?}", source.name(), source.weight, source.split));
            let mean_positions = sums.n_positions() as f64 / sums.n_documents.max(1) as f64;
            let of = |ranges: Ranges| SourceDocuments {
                name: source.name(),
                weight: source.weight,
                mean_positions,
                files: files.clone(),
                units: ranges.finish(),
            };
            train.sources.push(of(trained));
            validation.sources.push(of(held));
            skipped.append(&tally);
            all.append(&sums);
            tallies.insert(source.name(), tally);
        }
        if train.is_empty() && validation.is_empty() {
            return Err(DataError::AllSkipped { report: Box::new(skipped) });
        }
        for (split, set) in [("training", &train), ("held-out", &validation)] {
            if set.is_empty() && splits.contains(&split) {
                let n_samples = (train.len() + validation.len()) as usize;
                return Err(DataError::EmptySplit { split, n_samples, held_out, report: Box::new(skipped) });
            }
        }
        let fingerprint = rng::stable_hash(words.as_bytes());
        let (train, held_out) = (Arc::new(train), Arc::new(validation));
        Ok(Self { train, held_out, tallies, fingerprint, text_tokens: all.text_of_bytes, text_bytes: all.text_bytes })
    }
}

/// Ranges of ranks in units, those without a document left out.
#[derive(Default)]
struct Ranges {
    units: Vec<UnitRange>,
    n_documents: u64,
}

impl Ranges {
    fn push(&mut self, file: usize, first_rank: u64, n: u64) {
        if n > 0 {
            self.units.push(UnitRange { start: self.n_documents, first_rank, file: file as u32 });
            self.n_documents += n;
        }
    }

    fn finish(mut self) -> Vec<UnitRange> {
        self.units.push(UnitRange { start: self.n_documents, first_rank: 0, file: u32::MAX });
        self.units
    }
}

fn patch_shape(tokenizers: &Tokenizers) -> PatchShape {
    let image = &tokenizers.config().image;
    match tokenizers.needs().image {
        ImageNeed::Patches => {
            // Latents have sizes of their own.
            let image_size = if image.kind == CodeKind::Fitted { image.size } else { 0 };
            PatchShape { image_size, patch: image.patch, dim: image.patch_dim() }
        }
        ImageNeed::None | ImageNeed::Codes => PatchShape::default(),
    }
}
