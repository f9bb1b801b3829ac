//! Megatron-LM's token files: `NAME.bin` holds the tokens, `NAME.idx` says where each sequence and each document lies.
//!
//! A sample is a document, its sequences in order. Where the index has modes, each sequence is a part with the modality of
//! its mode, in their order; otherwise all sequences together are one part. Tokens are given as they stand in the file,
//! whatever offset a vocabulary adds to them. A document of more than 4 Mi tokens is given in several samples, cut between
//! its sequences where that is possible.
//!
//! The index is read in stretches. Its counts must fit its length, and the tokens must end where it says; of a document,
//! each sequence must begin where the one before it ends, or it is skipped.

mod document;
mod index;

use std::collections::HashMap;
use std::ops::{ControlFlow, Range};
use std::path::Path;

use self::document::Documents;
use self::index::Index;
use super::listing::{Entry, Listing};
use super::{Format, Outcome, ReadOptions, Reader, Unit};
use crate::vocabulary::Modality;
use crate::{DataError, Result, rng};

/// Tokens of a unit, in bytes.
const UNIT_BYTES: u64 = 64 << 20;

/// Documents of a unit.
const UNIT_DOCUMENTS: u64 = 1 << 20;

/// Token files with their indices.
#[derive(Debug)]
pub(super) struct Megatron {
    pairs: Vec<Pair>,
    /// Pair and documents of each unit.
    stretches: Vec<(usize, Range<u64>)>,
    units: Vec<Unit>,
    ignored: Vec<Outcome>,
    /// Of sequences without a mode.
    modality: Modality,
    /// By mode.
    modalities: Vec<Modality>,
}

/// A token file and its index.
#[derive(Debug)]
struct Pair {
    /// Path without ending.
    name: String,
    index: Entry,
    /// `None`: it is not there.
    tokens: Option<Entry>,
}

impl Megatron {
    /// All pairs of a source; of a single file, the other one is looked up beside it.
    pub fn open(listing: Listing, options: &ReadOptions) -> Result<Self> {
        let mut entries = listing.entries;
        if let ([file], true) = (&entries[..], listing.root.is_file()) {
            entries.extend(other_of(file, &listing.root));
            entries.sort_by(|a, b| a.name.cmp(&b.name));
        }
        let modalities = if options.mode_modalities.is_empty() { &Modality::ALL[..] } else { &options.mode_modalities };
        let mut reader = Self {
            pairs: Vec::new(),
            stretches: Vec::new(),
            units: Vec::new(),
            ignored: listing.ignored,
            modality: options.token_modality.unwrap_or(Modality::Text),
            modalities: modalities.to_vec(),
        };
        let (tokens, others): (Vec<_>, Vec<_>) = entries.into_iter().partition(|entry| entry.ending() == "bin");
        let mut has_index = vec![false; tokens.len()];
        let by_stem: HashMap<&str, usize> = tokens.iter().enumerate().map(|(at, entry)| (stem(entry), at)).collect();
        for entry in others {
            if entry.ending() != "idx" {
                reader.ignored.push(entry.ignored());
                continue;
            }
            let name = stem(&entry).to_owned();
            let at = by_stem.get(name.as_str()).copied();
            at.into_iter().for_each(|at| has_index[at] = true);
            reader.add(Pair { name, index: entry, tokens: at.map(|at| tokens[at].clone()) });
        }
        for (entry, _) in tokens.iter().zip(has_index).filter(|(_, has_index)| !has_index) {
            let name = format!("{} (no {}.idx beside it)", entry.name, stem(entry));
            reader.ignored.push(Outcome::Ignored { ending: entry.ending(), name });
        }
        Ok(reader)
    }

    /// Cuts a pair into units. One that is damaged is one unit, and says so when it is read.
    fn add(&mut self, pair: Pair) {
        let n_documents = Index::open(&pair.index).map_or(0, |index| index.n_documents());
        let len_bytes = pair.tokens.as_ref().map_or(0, |tokens| tokens.len_bytes);
        let n_units = len_bytes.div_ceil(UNIT_BYTES).max(n_documents.div_ceil(UNIT_DOCUMENTS)).min(n_documents).max(1);
        let stamps = [pair.index.stamp, pair.tokens.as_ref().map_or(0, |tokens| tokens.stamp)];
        let stamp = rng::stable_hash(&stamps.map(u64::to_le_bytes).concat());
        // In 128 bits, so that no product overflows.
        let share = |of: u64, unit: u64| (u128::from(of) * u128::from(unit) / u128::from(n_units)) as u64;
        for unit in 0..n_units {
            let documents = share(n_documents, unit)..share(n_documents, unit + 1);
            let name = match n_units {
                1 => pair.name.clone(),
                _ => format!("{}#documents {}-{}", pair.name, documents.start, documents.end),
            };
            let bytes = len_bytes.saturating_add(pair.index.len_bytes);
            self.units.push(Unit { name, len_bytes: share(bytes, unit + 1) - share(bytes, unit), stamp });
            self.stretches.push((self.pairs.len(), documents));
        }
        self.pairs.push(pair);
    }
}

impl Reader for Megatron {
    fn format(&self) -> Format {
        Format::Megatron
    }

    fn units(&self) -> &[Unit] {
        &self.units
    }

    fn ignored(&self) -> &[Outcome] {
        &self.ignored
    }

    fn read(&self, unit: usize, sink: &mut dyn FnMut(Outcome) -> ControlFlow<()>) -> Result<()> {
        let (pair, documents) = &self.stretches[unit];
        let pair = &self.pairs[*pair];
        let Some(tokens) = &pair.tokens else {
            let reason = format!("the tokens, {}.bin, are not there", pair.name);
            return Err(damaged(&pair.index.path, "at byte 0", reason));
        };
        let index = Index::open(&pair.index)?;
        index.check_tokens(tokens)?;
        let mut documents_read = Documents::open(index, tokens, &pair.name, self.modality, &self.modalities)?;
        for document in documents.clone() {
            if documents_read.read(document, sink)?.is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// The path without `.bin` or `.idx`.
fn stem(entry: &Entry) -> &str {
    entry.name.rsplit_once('.').map_or(&entry.name, |(stem, _)| stem)
}

/// The file beside `file` that makes a pair with it.
fn other_of(file: &Entry, path: &Path) -> Option<Entry> {
    let ending = match file.ending().as_str() {
        "bin" => "idx",
        "idx" => "bin",
        _ => return None,
    };
    let path = path.with_extension(ending);
    if !path.is_file() {
        return None;
    }
    Listing::of(&path).ok()?.entries.into_iter().next()
}

fn damaged(path: &Path, place: impl Into<String>, reason: impl Into<String>) -> DataError {
    DataError::Damaged { path: path.to_path_buf(), place: place.into(), reason: reason.into() }
}
