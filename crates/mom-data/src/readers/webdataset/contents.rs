//! The table of contents of one tar archive: every header is read, and nothing between them.
//!
//! USTAR, PAX and GNU headers; archives one behind the other; zero blocks in the middle. Sizes are held against what is
//! there before anything is read or allocated by them.

use super::BLOCK_BYTES;
use super::extended::{self, Extended, Sparse};
use super::not_tar;
use super::source::{Source, Span};
use crate::readers::{escaped, printable};
use crate::{DataError, Result};

/// Data of an extended header; longer ones are taken for damage.
const MAX_EXTENDED_BYTES: u64 = 8 << 20;

/// One item of an archive.
#[derive(Debug)]
pub(super) struct Member {
    pub name: Vec<u8>,
    /// Which of the archives that stand one behind the other it belongs to, from 0.
    pub archive: u32,
    pub content: Content,
}

/// What a member is, and where its bytes are.
#[derive(Debug)]
pub(super) enum Content {
    Stored(Span),
    Sparse(Box<Sparse>),
    /// The bytes of another member, named from the archive's root.
    HardLink(Vec<u8>),
    /// The bytes of another member, named from the link's folder.
    SymbolicLink(Vec<u8>),
    Folder,
    /// A device, a pipe, or what only its writer knows.
    Special,
    /// In words that follow the name.
    Unreadable(&'static str),
}

/// What was found in an archive.
pub(super) struct Contents {
    pub members: Vec<Member>,
    /// An error if something is wrong behind the last of the members.
    pub end: Result<()>,
}

/// Reads the table of contents of an archive, as far as it can be read.
pub(super) fn contents(source: &mut Source) -> Contents {
    let mut scan = Scan { source, at: 0, zeros: 0, members: Vec::new(), archive: 0, global: Extended::default() };
    let end = scan.run();
    Contents { members: scan.members, end }
}

struct Scan<'a> {
    source: &'a mut Source,
    /// The next block.
    at: u64,
    /// Zero blocks right before it.
    zeros: u64,
    members: Vec<Member>,
    archive: u32,
    /// What holds for all members from here on.
    global: Extended,
}

impl Scan<'_> {
    fn run(&mut self) -> Result<()> {
        while let Some(header) = self.next_header()? {
            self.member(header)?;
        }
        if let Some(damage) = self.source.damage() {
            return Err(damage);
        }
        if self.zeros == 0 {
            return self.fail(self.at, "no end-of-archive block: the file is cut, or its writer was stopped");
        }
        Ok(())
    }

    /// Reads headers of all kinds up to the one of a member, and that member.
    fn member(&mut self, mut header: tar::Header) -> Result<()> {
        let mut local: Option<Extended> = None;
        let first = self.at - BLOCK_BYTES;
        loop {
            match header.as_old().linkflag[0] {
                b'g' => {
                    let data = self.extended_data(&header)?;
                    let parsed = self.global.read(&data);
                    self.parsed(parsed)?;
                }
                b'x' | b'X' => {
                    let data = self.extended_data(&header)?;
                    let parsed = local.get_or_insert_with(|| self.global.clone()).read(&data);
                    self.parsed(parsed)?;
                }
                b'L' => {
                    let name = until_zero(self.extended_data(&header)?);
                    local.get_or_insert_with(|| self.global.clone()).path = Some(name);
                }
                b'K' => {
                    let name = until_zero(self.extended_data(&header)?);
                    local.get_or_insert_with(|| self.global.clone()).link_path = Some(name);
                }
                _ => {
                    let extended = local.unwrap_or_else(|| self.global.clone());
                    return self.plain(&header, extended);
                }
            }
            let global = local.is_none();
            match self.next_header()? {
                // An archive may end behind a header that speaks of all members.
                None if global => return Ok(()),
                Some(next) if self.zeros == 0 => header = next,
                Some(next) if global => header = next,
                _ => return self.fail(first, "an extended header without the member it speaks of"),
            }
        }
    }

    fn parsed(&mut self, parsed: Result<(), String>) -> Result<()> {
        parsed.or_else(|reason| self.fail(self.at, &reason))
    }

    /// Adds the member of a header, and goes on behind its data.
    fn plain(&mut self, header: &tar::Header, mut extended: Extended) -> Result<()> {
        let name = extended.name().cloned().unwrap_or_else(|| header.path_bytes().into_owned());
        let flag = header.as_old().linkflag[0];
        let mut link = || {
            let in_header = || header.link_name_bytes().map(|name| name.into_owned()).unwrap_or_default();
            extended.link_path.take().unwrap_or_else(in_header)
        };
        let content = match flag {
            b'1' => {
                let target = link();
                self.skip_linked_data(header, &extended)?;
                Content::HardLink(target)
            }
            b'2' => Content::SymbolicLink(link()),
            b'3' | b'4' | b'6' | b'V' => Content::Special,
            b'5' => Content::Folder,
            _ => return self.with_data(header, extended, name),
        };
        self.push(name, content);
        Ok(())
    }

    fn with_data(&mut self, header: &tar::Header, mut extended: Extended, name: Vec<u8>) -> Result<()> {
        let flag = header.as_old().linkflag[0];
        // GNU's map goes on in blocks between the header and the data.
        let gnu = if flag == b'S' { Some(self.gnu_sparse(header)?) } else { None };
        let len = match extended.size.map_or_else(|| header.entry_size(), Ok) {
            Ok(len) => len,
            Err(_) => {
                let reason = format!("the size of member {} does not parse", shown(&name));
                return self.fail(self.at - BLOCK_BYTES, &reason);
            }
        };
        let span = Span { offset: self.at, len };
        let behind = span.offset.checked_add(len);
        let whole = behind.is_some_and(|behind| behind <= self.source.len);
        let content = match flag {
            _ if !whole => Content::Unreadable("is cut off"),
            b'D' => Content::Folder,
            b'M' => Content::Unreadable("is the rest of a member of another archive"),
            b'S' => match gnu {
                Some(Some(mut sparse)) => {
                    sparse.span = span;
                    Content::Sparse(Box::new(sparse))
                }
                _ => Content::Unreadable("is sparse in a way that is not read"),
            },
            b'A'..=b'Z' => Content::Special,
            _ if name.ends_with(b"/") => Content::Folder,
            _ => match extended.sparse(span) {
                Some(sparse) => Content::Sparse(Box::new(sparse)),
                None => Content::Stored(span),
            },
        };
        let reason = (!whole).then(|| {
            let end = behind.map_or_else(|| "an impossible byte".to_owned(), |behind| format!("byte {behind}"));
            format!("member {} goes on to {end}, but the file ends at byte {}", shown(&name), self.source.len)
        });
        self.push(name, content);
        if let Some(reason) = reason {
            return self.fail(span.offset, &reason);
        }
        // The last member's padding may be missing: then the end-of-archive block is, too.
        self.at = (span.offset + len).next_multiple_of(BLOCK_BYTES).min(self.source.len);
        Ok(())
    }

    fn push(&mut self, name: Vec<u8>, content: Content) {
        self.members.push(Member { name, archive: self.archive, content });
    }

    /// A map that does not parse makes the member unreadable (`None`), not the archive.
    fn gnu_sparse(&mut self, header: &tar::Header) -> Result<Option<Sparse>> {
        let Some(gnu) = header.as_gnu() else { return Ok(None) };
        let mut map = Vec::new();
        let mut parsed = extended::gnu_pieces(&gnu.sparse, &mut map);
        let mut more = gnu.is_extended();
        while more {
            if self.at + BLOCK_BYTES > self.source.len {
                return self.fail(self.at, "the map of a sparse member is cut");
            }
            let mut block = tar::GnuExtSparseHeader::new();
            self.source.read_at(self.at, block.as_mut_bytes())?;
            self.at += BLOCK_BYTES;
            parsed = parsed.and_then(|()| extended::gnu_pieces(block.sparse(), &mut map));
            more = block.is_extended();
        }
        let span = Span { offset: 0, len: 0 };
        let real = gnu.real_size().ok();
        Ok(real.filter(|_| parsed.is_ok()).map(|real| Sparse { span, real, map: Some(map) }))
    }

    /// Hard links have no data. Some writers state the size of what they lead to all the same, and a few store it again:
    /// it is there if no header follows at once.
    fn skip_linked_data(&mut self, header: &tar::Header, extended: &Extended) -> Result<()> {
        let len = extended.size.or_else(|| header.entry_size().ok()).unwrap_or(0);
        let behind = self.at.checked_add(len).map(|behind| behind.next_multiple_of(BLOCK_BYTES));
        let Some(behind) = behind.filter(|&behind| len > 0 && behind <= self.source.len) else { return Ok(()) };
        let mut block = [0; BLOCK_BYTES as usize];
        self.source.read_at(self.at, &mut block)?;
        if block != [0; BLOCK_BYTES as usize] && !is_header(tar::Header::from_byte_slice(&block)) {
            self.at = behind;
        }
        Ok(())
    }

    fn extended_data(&mut self, header: &tar::Header) -> Result<Vec<u8>> {
        let len = header.entry_size().ok().filter(|&len| len <= MAX_EXTENDED_BYTES);
        let Some(len) = len else {
            return self.fail(self.at - BLOCK_BYTES, "an extended header of a size that none has");
        };
        if self.at + len > self.source.len {
            return self.fail(self.at, "an extended header is cut");
        }
        let data = self.source.bytes(Span { offset: self.at, len })?;
        self.at = (self.at + len).next_multiple_of(BLOCK_BYTES).min(self.source.len);
        Ok(data)
    }

    /// The next header, behind zero blocks if there are any; `None` at the end of the file.
    fn next_header(&mut self) -> Result<Option<tar::Header>> {
        if self.at < self.source.len {
            self.zeros = 0;
        }
        loop {
            let mut block = [0; BLOCK_BYTES as usize];
            let n = BLOCK_BYTES.min(self.source.len - self.at) as usize;
            if n > 0 {
                self.source.read_at(self.at, &mut block[..n])?;
            }
            let is_zero = block == [0; BLOCK_BYTES as usize];
            if n < block.len() {
                // A few zeros behind the end do no harm.
                if is_zero && self.source.len > 0 {
                    self.at = self.source.len;
                    return Ok(None);
                }
                let reason = if self.at == 0 { not_tar::describe(&block[..n]) } else { "a header is cut".to_owned() };
                return self.fail(self.at, &reason);
            }
            if is_zero {
                self.zeros += 1;
                self.at += BLOCK_BYTES;
                continue;
            }
            let header = tar::Header::from_byte_slice(&block);
            if !is_header(header) {
                let reason = match (self.at, self.zeros) {
                    (0, _) => not_tar::describe(&block),
                    (_, 0) => "no header is here, or it is damaged".to_owned(),
                    _ => "what follows the end of the archive is no archive".to_owned(),
                };
                return self.fail(self.at, &reason);
            }
            self.at += BLOCK_BYTES;
            // Whether one or two zero blocks end an archive depends on its writer.
            if self.zeros > 0 && !self.members.is_empty() {
                self.archive += 1;
                self.global = Extended::default();
            }
            return Ok(Some(header.clone()));
        }
    }

    fn fail<T>(&mut self, at: u64, reason: &str) -> Result<T> {
        Err::<T, DataError>(self.source.damaged(at, reason))
    }
}

/// Whether the checksum is right, by unsigned or (some old writers) signed bytes.
fn is_header(header: &tar::Header) -> bool {
    let Ok(stated) = header.cksum() else { return false };
    let field = 148..156;
    let (mut unsigned, mut signed) = (0u32, 0i32);
    for (at, &byte) in header.as_bytes().iter().enumerate() {
        let byte = if field.contains(&at) { b' ' } else { byte };
        unsigned += u32::from(byte);
        signed += i32::from(byte as i8);
    }
    stated == unsigned || i32::try_from(stated) == Ok(signed)
}

fn until_zero(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|&byte| byte == 0) {
        bytes.truncate(end);
    }
    bytes
}

fn shown(name: &[u8]) -> String {
    printable(&escaped(name), 120)
}
