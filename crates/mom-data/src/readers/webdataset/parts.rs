//! The parts of a sample, read from their members.

use bytes::Bytes;

use super::arrays;
use super::assemble::{Assembler, Named};
use super::contents::Content;
use super::extended::{MAX_MAP_BYTES, Sparse};
use super::group::Kind;
use super::source::Span;
use crate::Result;
use crate::readers::{Part, Picture, Skip, SkipReason, Sound, escaped, printable};

/// Larger members are not read.
const MAX_MEMBER_BYTES: u64 = 1 << 30;

/// Sparse members that are larger, with their holes, are not read.
const MAX_SPARSE_BYTES: u64 = 64 << 20;

impl Assembler<'_> {
    /// Reads one part.
    pub fn part(&mut self, member: &Named) -> Result<Result<Part, Skip>> {
        let bytes = match self.bytes(member.index, MAX_MEMBER_BYTES)? {
            Ok(bytes) => bytes,
            Err(skip) => return Ok(Err(skip)),
        };
        let name = member.ending.clone();
        Ok(match member.kind {
            Kind::Image => Ok(Part::Image(Picture::File { name, bytes })),
            Kind::Audio => Ok(Part::Audio(Sound::File { name, bytes })),
            Kind::Array(modality) => arrays::read(&name, &bytes, modality),
            Kind::Text | Kind::Sidecar | Kind::Other => text(&name, &bytes),
        })
    }

    /// The bytes of a member, through its links.
    pub fn bytes(&mut self, index: usize, max_bytes: u64) -> Result<Result<Bytes, Skip>> {
        let unreadable = |detail: String| Ok(Err(Skip::new(SkipReason::UnreadableMember, detail)));
        let at = match self.links.resolve(self.members, index) {
            Ok(at) => at,
            Err(skip) => return Ok(Err(skip)),
        };
        let name = printable(&escaped(&self.members[at].name), 100);
        match &self.members[at].content {
            Content::Stored(span) if span.len > max_bytes => {
                unreadable(format!("member {name} of {} bytes is larger than is read", span.len))
            }
            Content::Stored(span) => Ok(Ok(self.source.bytes(*span)?.into())),
            Content::Sparse(sparse) => match self.sparse(sparse)? {
                Some(bytes) => Ok(Ok(bytes.into())),
                None => unreadable(format!("sparse member {name}")),
            },
            Content::Unreadable(what) => unreadable(format!("member {name} {what}")),
            Content::Folder | Content::Special => unreadable(format!("a link leads to {name}, which is no file")),
            // `resolve` ends at what is no link.
            Content::HardLink(_) | Content::SymbolicLink(_) => unreadable(format!("link {name}")),
        }
    }

    /// A sparse member with its holes filled; `None` if it is too large, or its map does not fit.
    fn sparse(&mut self, sparse: &Sparse) -> Result<Option<Vec<u8>>> {
        if sparse.real > MAX_SPARSE_BYTES {
            return Ok(None);
        }
        let head = match sparse.map {
            Some(_) => Vec::new(),
            None => self.source.bytes(Span { offset: sparse.span.offset, len: sparse.span.len.min(MAX_MAP_BYTES) })?,
        };
        let Some((map, mut from)) = sparse.layout(&head) else { return Ok(None) };
        let mut bytes = vec![0; sparse.real as usize];
        for piece in map {
            let to = piece.offset as usize..(piece.offset + piece.len) as usize;
            self.source.read_at(from, &mut bytes[to])?;
            from += piece.len;
        }
        Ok(Some(bytes))
    }
}

/// A text without byte order mark, and without the line ends that editors and `echo` put behind it.
fn text(name: &str, bytes: &[u8]) -> Result<Part, Skip> {
    match std::str::from_utf8(bytes) {
        Ok(text) => {
            Ok(Part::Text(text.strip_prefix('\u{feff}').unwrap_or(text).trim_end_matches(['\r', '\n']).to_owned()))
        }
        Err(error) => {
            let detail = format!("{}, byte {}", printable(name, 80), error.valid_up_to());
            Err(Skip::new(SkipReason::BrokenText, detail))
        }
    }
}
