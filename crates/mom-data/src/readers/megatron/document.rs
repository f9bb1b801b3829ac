//! Documents of a token file, one at a time.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::ops::{ControlFlow, Range};
use std::path::PathBuf;

use super::damaged;
use super::index::{Column, Index};
use crate::Result;
use crate::error::IoContext;
use crate::readers::listing::Entry;
use crate::readers::{Outcome, Part, PartOrder, Place, Sample, Skip, SkipReason};
use crate::vocabulary::Modality;

/// Tokens of the longest document that is one sample.
const MAX_TOKENS: u64 = 4 << 20;

/// Reads documents, best in their order.
#[derive(Debug)]
pub(super) struct Documents<'a> {
    index: Index,
    lengths: Column<4>,
    pointers: Column<8>,
    documents: Column<8>,
    modes: Option<Column<1>>,
    tokens: BufReader<File>,
    /// Byte that `tokens` is at.
    at: u64,
    path: PathBuf,
    len_bytes: u64,
    /// Token bytes that may still be read: no more than there are, unless sequences lie over each other.
    left: u64,
    /// Name of the file without its ending, and with it.
    name: &'a str,
    file: &'a str,
    modality: Modality,
    modalities: &'a [Modality],
}

/// A document that is being given, in one sample or in several.
struct Draft {
    document: u64,
    parts: Vec<Part>,
    n_tokens: u64,
    n_given: u64,
}

impl<'a> Documents<'a> {
    /// Opens the tokens of an index.
    pub fn open(
        index: Index,
        tokens: &'a Entry,
        name: &'a str,
        modality: Modality,
        modalities: &'a [Modality],
    ) -> Result<Self> {
        let modes = if index.has_modes { Some(index.modes()?) } else { None };
        let (lengths, pointers, documents) = (index.lengths()?, index.pointers()?, index.documents()?);
        let file = File::open(&tokens.path).at("open", &tokens.path)?;
        Ok(Self {
            index,
            lengths,
            pointers,
            documents,
            modes,
            tokens: BufReader::with_capacity(1 << 16, file),
            at: 0,
            path: tokens.path.clone(),
            len_bytes: tokens.len_bytes,
            left: tokens.len_bytes,
            name,
            file: &tokens.name,
            modality,
            modalities,
        })
    }

    /// Gives a document.
    pub fn read(&mut self, document: u64, sink: &mut dyn FnMut(Outcome) -> ControlFlow<()>) -> Result<ControlFlow<()>> {
        let mut draft = Draft { document, parts: Vec::new(), n_tokens: 0, n_given: 0 };
        let read = match self.check(document)? {
            Ok(sequences) => self.sequences(sequences, &mut draft, sink)?,
            Err(skip) => Err(skip),
        };
        let outcome = match read {
            Ok(ControlFlow::Break(())) => return Ok(ControlFlow::Break(())),
            Ok(ControlFlow::Continue(())) if draft.n_tokens > 0 => self.sample(&mut draft, true),
            Ok(ControlFlow::Continue(())) if draft.n_given > 0 => return Ok(ControlFlow::Continue(())),
            Ok(ControlFlow::Continue(())) => self.skipped(&draft, Skip::new(SkipReason::NoPart, "it has no token")),
            Err(skip) => self.skipped(&draft, skip),
        };
        Ok(sink(outcome))
    }

    /// The sequences of a document, all of which lie in the file, each behind the one before it.
    fn check(&mut self, document: u64) -> Result<Result<Range<u64>, Skip>> {
        let broken = |detail: String| Ok(Err(Skip::new(SkipReason::BrokenRecord, detail)));
        let start = i64::from_le_bytes(self.documents.get(document)?);
        let end = i64::from_le_bytes(self.documents.get(document + 1)?);
        let sequences = match (u64::try_from(start), u64::try_from(end)) {
            // All sequences belong to a document.
            (Ok(start), Ok(end))
                if start <= end
                    && end <= self.index.n_sequences
                    && (start == 0 || document > 0)
                    && (end == self.index.n_sequences || document + 1 < self.index.n_documents()) =>
            {
                start..end
            }
            _ => {
                let n = self.index.n_sequences;
                return broken(format!("the index gives it sequences {start} to {end} of {n}"));
            }
        };
        let mut expected = None;
        for sequence in sequences.clone() {
            let length = i32::from_le_bytes(self.lengths.get(sequence)?);
            let pointer = i64::from_le_bytes(self.pointers.get(sequence)?);
            let bytes = u64::try_from(length).ok().map(|length| length * self.index.kind.width());
            let span =
                u64::try_from(pointer).ok().zip(bytes).and_then(|(from, len)| Some((from, from.checked_add(len)?)));
            match span {
                Some((from, to)) if to <= self.len_bytes && expected.is_none_or(|expected| expected == from) => {
                    expected = Some(to);
                }
                _ => {
                    return broken(format!(
                        "the index puts {length} tokens of sequence {sequence} at byte {pointer}, where they cannot be"
                    ));
                }
            }
            if let Some(modes) = &mut self.modes {
                let mode = i8::from_le_bytes(modes.get(sequence)?);
                if self.modality_of(mode).is_none() {
                    return Ok(Err(Skip::new(
                        SkipReason::UnknownToken,
                        format!("sequence {sequence} has mode {mode}"),
                    )));
                }
            }
        }
        // The next sequence begins where the document ends, or one of the two is wrong.
        if let Some(end) = expected {
            let next = match sequences.end < self.index.n_sequences {
                true => u64::try_from(i64::from_le_bytes(self.pointers.get(sequences.end)?)).ok(),
                false => Some(self.len_bytes),
            };
            if next != Some(end) {
                return broken(format!("it ends at byte {end}, and what follows does not begin there"));
            }
        }
        Ok(Ok(sequences))
    }

    /// Reads sequences that were checked; gives what is longer than a sample may be.
    fn sequences(
        &mut self,
        sequences: Range<u64>,
        draft: &mut Draft,
        sink: &mut dyn FnMut(Outcome) -> ControlFlow<()>,
    ) -> Result<Result<ControlFlow<()>, Skip>> {
        for sequence in sequences {
            let mut left = u64::try_from(i32::from_le_bytes(self.lengths.get(sequence)?)).unwrap_or(0);
            let from = u64::try_from(i64::from_le_bytes(self.pointers.get(sequence)?)).unwrap_or(0);
            let modality = match &mut self.modes {
                Some(modes) => {
                    let mode = i8::from_le_bytes(modes.get(sequence)?);
                    self.modality_of(mode).unwrap_or(self.modality)
                }
                None => self.modality,
            };
            self.seek(from)?;
            let mut is_new = self.index.has_modes;
            if draft.n_tokens > 0 && draft.n_tokens + left > MAX_TOKENS && sink(self.sample(draft, false)).is_break() {
                return Ok(Ok(ControlFlow::Break(())));
            }
            while left > 0 {
                let n = left.min(MAX_TOKENS - draft.n_tokens);
                match draft.parts.last_mut() {
                    Some(Part::Codes { values, .. }) if !is_new => {
                        if let Err(skip) = self.tokens(n, values)? {
                            return Ok(Err(skip));
                        }
                    }
                    _ => {
                        let mut values = Vec::new();
                        if let Err(skip) = self.tokens(n, &mut values)? {
                            return Ok(Err(skip));
                        }
                        draft.parts.push(Part::Codes { modality, shape: Vec::new(), values });
                    }
                }
                is_new = false;
                left -= n;
                draft.n_tokens += n;
                if left > 0 && sink(self.sample(draft, false)).is_break() {
                    return Ok(Ok(ControlFlow::Break(())));
                }
            }
        }
        Ok(Ok(ControlFlow::Continue(())))
    }

    /// Appends `n` tokens from where the file is.
    fn tokens(&mut self, n: u64, values: &mut Vec<u32>) -> Result<Result<(), Skip>> {
        let width = self.index.kind.width();
        self.left = self.left.checked_sub(n * width).ok_or_else(|| {
            let reason = "by its index, sequences lie over each other";
            damaged(&self.path, format!("at byte {}", self.at), reason)
        })?;
        let mut buffer = [0; 1 << 13];
        let mut left = n * width;
        while left > 0 {
            let bytes = &mut buffer[..left.min(1 << 13) as usize];
            self.tokens.read_exact(bytes).at("read", &self.path)?;
            left -= bytes.len() as u64;
            self.at += bytes.len() as u64;
            for token in bytes.chunks_exact(width as usize) {
                let value = self.index.kind.value(token);
                match u32::try_from(value) {
                    Ok(value) => values.push(value),
                    Err(_) => return Ok(Err(Skip::new(SkipReason::UnknownToken, format!("token {value}")))),
                }
            }
        }
        Ok(Ok(()))
    }

    fn seek(&mut self, to: u64) -> Result<()> {
        if to != self.at {
            self.tokens.seek(SeekFrom::Start(to)).at("read", &self.path)?;
            self.at = to;
        }
        Ok(())
    }

    fn modality_of(&self, mode: i8) -> Option<Modality> {
        self.modalities.get(usize::try_from(mode).ok()?).copied()
    }

    /// What was read of a document, as a sample; `last`: there is no more.
    fn sample(&self, draft: &mut Draft, last: bool) -> Outcome {
        let mut parts = std::mem::take(&mut draft.parts);
        for part in &mut parts {
            if let Part::Codes { shape, values, .. } = part {
                *shape = vec![values.len()];
            }
        }
        // Samples of one document stay on one side of a split.
        let whole = last && draft.n_given == 0;
        let group = (!whole).then(|| format!("{}:{}", self.name, draft.document));
        let order = if self.index.has_modes { PartOrder::Fixed } else { PartOrder::Free };
        let (key, place, items) = self.labels(draft);
        draft.n_tokens = 0;
        draft.n_given += 1;
        Outcome::Sample(Sample { key, place, group, order, parts, items })
    }

    fn skipped(&self, draft: &Draft, skip: Skip) -> Outcome {
        let (key, place, items) = self.labels(draft);
        Outcome::Skipped { key, place, items, skip }
    }

    /// Key, place and items; the first sample of a document stands for it.
    fn labels(&self, draft: &Draft) -> (String, Place, Vec<String>) {
        let mut key = format!("{}:{}", self.name, draft.document);
        if draft.n_given > 0 {
            key.push_str(&format!(":{}", draft.n_given));
        }
        let items = if draft.n_given == 0 { vec!["bin".to_owned()] } else { Vec::new() };
        (key, Place { file: self.file.to_owned(), row: Some(draft.document) }, items)
    }
}
