//! Files of bare tokens: nanoGPT's, llm.c's and LLM.Q's.
//!
//! | file | begins with | tokens | end-of-document token |
//! | --- | --- | --- | --- |
//! | nanoGPT | its tokens | u16 | 50256, behind each document |
//! | llm.c, GPT-2 | i32 20240520, 1, count; 1024 bytes in all | u16 | 50256, before each document |
//! | llm.c, Llama 3 | i32 20240801, 7, count; 1024 bytes in all | u32 | 128000, before each document |
//! | LLM.Q | `BIN.TOK\n`, i32 version 1 or 2, 4, count; 1024 bytes in all | i32 | not told: it must be named |
//!
//! All are little-endian. A sample is a document: what lies between two end-of-document tokens, without them. Two that
//! follow each other have no document between them. A document of more than 4 Mi tokens is given in several samples.
//! Files of more than 256 MiB are cut into units, each of the documents that begin in a stretch of bytes.

mod header;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::path::PathBuf;

use self::header::Header;
use super::listing::{Entry, Listing};
use super::text::pieces::{Counts, Piece, cut};
use super::{Format, Outcome, Part, PartOrder, Place, ReadOptions, Reader, Sample, Skip, SkipReason, Unit};
use crate::Result;
use crate::error::IoContext;
use crate::vocabulary::Modality;

/// Bytes of a unit; a multiple of all widths.
const UNIT_BYTES: u64 = 256 << 20;

/// Tokens of the longest document that is one sample.
const MAX_TOKENS: usize = 4 << 20;

/// Files of bare tokens.
#[derive(Debug)]
pub(super) struct TokenBin {
    files: Vec<Entry>,
    pieces: Vec<Piece>,
    /// Documents of the pieces.
    documents: Counts,
    units: Vec<Unit>,
    ignored: Vec<Outcome>,
    modality: Modality,
    end_of_document: Option<u32>,
    max_tokens: usize,
}

impl TokenBin {
    /// All `.bin` files of a source, or the one file that it is, whatever its ending.
    pub fn open(listing: Listing, options: &ReadOptions) -> Result<Self> {
        Ok(Self::cut(listing, options, UNIT_BYTES, MAX_TOKENS))
    }

    fn cut(listing: Listing, options: &ReadOptions, unit_bytes: u64, max_tokens: usize) -> Self {
        let named = listing.root.is_file();
        let (files, others): (Vec<_>, Vec<_>) =
            listing.entries.into_iter().partition(|entry| named || entry.ending() == "bin");
        let mut ignored = listing.ignored;
        ignored.extend(others.iter().map(Entry::ignored));
        let (pieces, units): (Vec<_>, Vec<_>) =
            files.iter().enumerate().flat_map(|(index, entry)| cut(index, entry, unit_bytes)).unzip();
        Self {
            documents: Counts::new(pieces.len()),
            files,
            pieces,
            units,
            ignored,
            modality: options.token_modality.unwrap_or(Modality::Text),
            end_of_document: options.end_of_document,
            max_tokens,
        }
    }

    /// Documents that begin in a piece.
    fn count(&self, piece: &Piece, header: &Header) -> Result<u64> {
        let mut tokens = Tokens::open(&self.files[piece.file], piece, header)?;
        let mut count = 0;
        let mut is_between = tokens.begins_document()?;
        while tokens.at < tokens.end {
            let piece_end = tokens.left_of_piece();
            let ahead = tokens.ahead()?;
            let n = ahead.len().min(piece_end);
            for &token in &ahead[..n] {
                let is_mark = token == header.mark;
                count += u64::from(is_between && !is_mark);
                is_between = is_mark;
            }
            if n == 0 {
                break;
            }
            tokens.pass(n);
        }
        Ok(count)
    }
}

impl Reader for TokenBin {
    fn format(&self) -> Format {
        Format::TokenBin
    }

    fn units(&self) -> &[Unit] {
        &self.units
    }

    fn ignored(&self) -> &[Outcome] {
        &self.ignored
    }

    fn read(&self, unit: usize, sink: &mut dyn FnMut(Outcome) -> ControlFlow<()>) -> Result<()> {
        let piece = &self.pieces[unit];
        let file = &self.files[piece.file];
        let header = Header::read(file, self.end_of_document)?;
        let first = self.documents.before(unit, &self.pieces, |piece| self.count(piece, &header))?;
        let mut tokens = Tokens::open(file, piece, &header)?;
        let mut draft = Draft { file, modality: self.modality, row: first, values: Vec::new(), n_given: 0, bad: None };
        let mut is_between = tokens.begins_document()?;
        // A document that began before is another unit's.
        let mut is_ours = is_between;
        loop {
            if is_between && tokens.at >= tokens.end {
                break;
            }
            let ahead = tokens.ahead()?;
            if ahead.is_empty() {
                break;
            }
            let n = ahead.iter().position(|&token| token == header.mark).unwrap_or(ahead.len());
            if n == 0 {
                tokens.pass(1);
                is_between = true;
                if is_ours && draft.finish(sink).is_break() {
                    return Ok(());
                }
                is_ours = true;
                continue;
            }
            is_between = false;
            if is_ours && draft.extend(&ahead[..n], self.max_tokens, sink).is_break() {
                return Ok(());
            }
            tokens.pass(n);
            if !is_ours && tokens.at >= tokens.end {
                break;
            }
        }
        if draft.finish(sink).is_continue() {
            self.documents.set(unit, draft.row - first);
        }
        Ok(())
    }
}

/// The tokens of a file from a piece on, some of them at a time.
struct Tokens {
    file: File,
    path: PathBuf,
    width: usize,
    mark: u32,
    /// Byte of the next token.
    at: u64,
    /// Where the piece ends.
    end: u64,
    /// Where the tokens of the file end.
    file_end: u64,
    is_first: bool,
    /// Tokens that were read, and how many of them were passed.
    block: Vec<u32>,
    passed: usize,
    bytes: Vec<u8>,
}

impl Tokens {
    /// Bytes of a block.
    const BLOCK: usize = 1 << 16;

    fn open(entry: &Entry, piece: &Piece, header: &Header) -> Result<Self> {
        let mut file = File::open(&entry.path).at("open", &entry.path)?;
        let is_first = piece.start <= header.start;
        // Further pieces begin with the token before them, which tells whether a document begins there.
        let at = if is_first { header.start } else { piece.start - header.width as u64 };
        file.seek(SeekFrom::Start(at)).at("read", &entry.path)?;
        Ok(Self {
            file,
            path: entry.path.clone(),
            width: header.width,
            mark: header.mark,
            at,
            end: piece.end.min(header.end),
            file_end: header.end,
            is_first,
            block: Vec::new(),
            passed: 0,
            bytes: Vec::new(),
        })
    }

    /// Whether a document may begin at the start of the piece; called once, before its first token is read.
    fn begins_document(&mut self) -> Result<bool> {
        if self.is_first {
            return Ok(true);
        }
        let before = self.ahead()?.first().copied();
        self.pass(usize::from(before.is_some()));
        Ok(before == Some(self.mark))
    }

    /// The next tokens; none at the end of the file.
    fn ahead(&mut self) -> Result<&[u32]> {
        if self.passed == self.block.len() {
            let n_bytes = (self.file_end - self.at).min(Self::BLOCK as u64) as usize / self.width * self.width;
            self.bytes.resize(n_bytes, 0);
            self.file.read_exact(&mut self.bytes).at("read", &self.path)?;
            self.block.clear();
            if self.width == 2 {
                self.block.extend(self.bytes.chunks_exact(2).map(|b| u32::from(u16::from_le_bytes([b[0], b[1]]))));
            } else {
                self.block.extend(self.bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])));
            }
            self.passed = 0;
        }
        Ok(&self.block[self.passed..])
    }

    /// Passes tokens of [`Self::ahead`].
    fn pass(&mut self, n: usize) {
        self.passed += n;
        self.at += (n * self.width) as u64;
    }

    /// Tokens of the piece that are not passed yet.
    fn left_of_piece(&self) -> usize {
        (self.end.saturating_sub(self.at) as usize).div_ceil(self.width)
    }
}

/// A document that is being read.
struct Draft<'a> {
    file: &'a Entry,
    modality: Modality,
    row: u64,
    values: Vec<u32>,
    n_given: u64,
    /// A token that cannot be one.
    bad: Option<u32>,
}

impl Draft<'_> {
    /// Adds tokens, and gives a sample whenever it has as many as one may have. Those that are negative in i32 are none.
    fn extend(
        &mut self,
        tokens: &[u32],
        max_tokens: usize,
        sink: &mut dyn FnMut(Outcome) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let mut tokens = tokens;
        while !tokens.is_empty() && self.bad.is_none() {
            if self.values.len() == max_tokens {
                sink(self.sample(false))?;
            }
            let (now, later) = tokens.split_at(tokens.len().min(max_tokens - self.values.len()));
            self.bad = now.iter().copied().find(|&token| i32::try_from(token).is_err());
            self.values.extend_from_slice(now);
            tokens = later;
        }
        ControlFlow::Continue(())
    }

    /// Gives what is left of the document, and begins the next one.
    fn finish(&mut self, sink: &mut dyn FnMut(Outcome) -> ControlFlow<()>) -> ControlFlow<()> {
        let flow = if let Some(token) = self.bad.take() {
            self.values.clear();
            let (key, place, items) = self.labels();
            let skip = Skip::new(SkipReason::UnknownToken, format!("token {}", token as i32));
            sink(Outcome::Skipped { key, place, items, skip })
        } else if self.values.is_empty() {
            // Nothing lies between two marks; what was cut has no rest.
            self.row += u64::from(self.n_given > 0);
            self.n_given = 0;
            return ControlFlow::Continue(());
        } else {
            let outcome = self.sample(true);
            sink(outcome)
        };
        self.row += 1;
        self.n_given = 0;
        flow
    }

    /// The tokens so far, as a sample; `last`: the document has no more.
    fn sample(&mut self, last: bool) -> Outcome {
        let (key, place, items) = self.labels();
        // Samples of one document stay on one side of a split.
        let group = (!last || self.n_given > 0).then(|| self.document());
        self.n_given += 1;
        let values = std::mem::take(&mut self.values);
        let parts = vec![Part::Codes { modality: self.modality, shape: vec![values.len()], values }];
        Outcome::Sample(Sample { key, place, group, order: PartOrder::Free, parts, items })
    }

    fn document(&self) -> String {
        let name = self.file.name.rsplit_once('.').map_or(self.file.name.as_str(), |(stem, _)| stem);
        format!("{name}:{}", self.row)
    }

    /// Key, place and items; the first sample of a document stands for it.
    fn labels(&self) -> (String, Place, Vec<String>) {
        let mut key = self.document();
        if self.n_given > 0 {
            key.push_str(&format!(":{}", self.n_given));
        }
        let items = if self.n_given == 0 { vec!["bin".to_owned()] } else { Vec::new() };
        (key, Place { file: self.file.name.clone(), row: Some(self.row) }, items)
    }
}

#[cfg(test)]
mod tests;
