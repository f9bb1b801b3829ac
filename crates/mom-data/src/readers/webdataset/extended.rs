//! PAX extended headers, and the maps of sparse members.

use super::source::Span;
use crate::readers::webdataset::BLOCK_BYTES;

/// Pieces of one sparse member; more are not read.
const MAX_PIECES: usize = 1 << 16;

/// Bytes at the start of a sparse member's data in which its map must end (PAX format 1.0).
pub(super) const MAX_MAP_BYTES: u64 = 1 << 20;

/// What extended headers say about the member behind them.
#[derive(Debug, Clone, Default)]
pub(super) struct Extended {
    pub path: Option<Vec<u8>>,
    pub link_path: Option<Vec<u8>>,
    pub size: Option<u64>,
    sparse: SparseRecords,
}

#[derive(Debug, Clone, Default)]
struct SparseRecords {
    any: bool,
    major: u64,
    name: Option<Vec<u8>>,
    real: Option<u64>,
    map: Vec<Piece>,
    offset: u64,
}

/// A stretch of a sparse member that is stored; all between is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub offset: u64,
    pub len: u64,
}

/// A member of which only the pieces that are not zero are stored.
#[derive(Debug, Clone)]
pub(super) struct Sparse {
    /// What is stored.
    pub span: Span,
    /// Bytes of the member.
    pub real: u64,
    /// `None`: it stands at the start of the span.
    pub map: Option<Vec<Piece>>,
}

impl Extended {
    /// Takes over the records of one header; an empty value takes an earlier one back.
    pub fn read(&mut self, data: &[u8]) -> Result<(), String> {
        let mut rest = data;
        // Some writers fill up with zeros.
        while !rest.is_empty() && rest[0] != 0 {
            let (key, value, behind) = record(rest).ok_or("an extended header does not parse")?;
            self.take(key, value)?;
            rest = behind;
        }
        Ok(())
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let bytes = (!value.is_empty()).then(|| value.to_vec());
        match key {
            b"path" => self.path = bytes,
            b"linkpath" => self.link_path = bytes,
            b"size" if value.is_empty() => self.size = None,
            b"size" => self.size = Some(number(value)?),
            _ => {
                if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.any = true;
                    self.sparse.take(key, value)?;
                }
            }
        }
        Ok(())
    }

    /// The member's name, where one is given.
    pub fn name(&self) -> Option<&Vec<u8>> {
        self.sparse.name.as_ref().or(self.path.as_ref())
    }

    /// The sparse member that the records speak of, if they do.
    pub fn sparse(&mut self, span: Span) -> Option<Sparse> {
        if !self.sparse.any {
            return None;
        }
        let map = (self.sparse.major == 0).then(|| std::mem::take(&mut self.sparse.map));
        Some(Sparse { span, real: self.sparse.real.unwrap_or(u64::MAX), map })
    }
}

impl SparseRecords {
    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        match key {
            b"major" => self.major = number(value)?,
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.real = Some(number(value)?),
            // Format 0.0: pairs of records. Format 0.1: one list.
            b"offset" => self.offset = number(value)?,
            b"numbytes" => self.push(self.offset, number(value)?),
            b"map" => {
                let numbers: Vec<u64> = value.split(|&byte| byte == b',').map(number).collect::<Result<_, _>>()?;
                numbers.chunks(2).for_each(|pair| self.push(pair[0], pair.get(1).copied().unwrap_or(u64::MAX)));
            }
            _ => {}
        }
        Ok(())
    }

    fn push(&mut self, offset: u64, len: u64) {
        // One too many makes the map invalid, see `Sparse::layout`.
        if self.map.len() <= MAX_PIECES {
            self.map.push(Piece { offset, len });
        }
    }
}

impl Sparse {
    /// The pieces and where the first one's bytes lie, if all of them fit what is stored. `head` holds the first
    /// [`MAX_MAP_BYTES`] of the span where the map stands there.
    pub fn layout(&self, head: &[u8]) -> Option<(Vec<Piece>, u64)> {
        let (map, skipped) = match &self.map {
            Some(map) => (map.clone(), 0),
            None => leading_map(head)?,
        };
        let stored = self.span.len.checked_sub(skipped)?;
        let mut sum = 0u64;
        for piece in &map {
            sum = sum.checked_add(piece.len)?;
            if piece.offset.checked_add(piece.len)? > self.real || sum > stored {
                return None;
            }
        }
        (map.len() <= MAX_PIECES).then_some((map, self.span.offset + skipped))
    }
}

/// A map of decimal numbers, one a line: how many pieces, then offset and length of each; filled up to a block.
fn leading_map(head: &[u8]) -> Option<(Vec<Piece>, u64)> {
    let mut at = 0;
    let mut next = || {
        let end = at + head.get(at..)?.iter().take(24).position(|&byte| byte == b'\n')?;
        let value = number(&head[at..end]).ok()?;
        at = end + 1;
        Some(value)
    };
    let count = next()?;
    let mut map = Vec::new();
    for _ in 0..count.min(MAX_PIECES as u64 + 1) {
        map.push(Piece { offset: next()?, len: next()? });
    }
    Some((map, (at as u64).next_multiple_of(BLOCK_BYTES)))
}

/// `LEN KEY=VALUE\n`, where LEN counts all of it; and what stands behind.
fn record(data: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let blank = data.iter().take(20).position(|&byte| byte == b' ')?;
    let len = usize::try_from(number(&data[..blank]).ok()?).ok()?;
    let (line, behind) = data.split_at_checked(len)?;
    let body = line.get(blank + 1..)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|&byte| byte == b'=')?;
    Some((&body[..equals], &body[equals + 1..], behind))
}

fn number(digits: &[u8]) -> Result<u64, String> {
    let text = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    text.and_then(|text| text.parse().ok()).ok_or_else(|| "a number of an extended header does not parse".to_owned())
}

/// Pieces of a sparse member in GNU's own format: 4 in the header, 21 in each block behind it.
pub(super) fn gnu_pieces(headers: &[tar::GnuSparseHeader], map: &mut Vec<Piece>) -> Result<(), String> {
    for header in headers.iter().filter(|header| !header.is_empty()) {
        let field =
            |value: std::io::Result<u64>| value.map_err(|_| "a map of a sparse member does not parse".to_owned());
        let piece = Piece { offset: field(header.offset())?, len: field(header.length())? };
        if map.len() <= MAX_PIECES {
            map.push(piece);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_may_hold_line_ends_and_take_values_back() {
        let mut extended = Extended::default();
        extended.read(b"16 path=a\nb.txt\n10 size=7\n").unwrap();
        assert_eq!(extended.name().unwrap(), b"a\nb.txt");
        assert_eq!(extended.size, Some(7));
        extended.read(b"8 path=\n").unwrap();
        assert_eq!(extended.path, None);
        assert!(extended.read(b"99 path=x\n").is_err());
        assert!(extended.read(b"10 size=x\n").is_err());
    }

    #[test]
    fn maps_that_do_not_fit_are_refused() {
        let span = Span { offset: 1024, len: 600 };
        let sparse = |real, map| Sparse { span, real, map };
        let piece = |offset, len| Piece { offset, len };
        assert!(sparse(1000, Some(vec![piece(0, 300), piece(700, 300)])).layout(&[]).is_some());
        assert!(sparse(1000, Some(vec![piece(0, 300), piece(700, 301)])).layout(&[]).is_none());
        assert!(sparse(u64::MAX, Some(vec![piece(u64::MAX, 2)])).layout(&[]).is_none());
        let (map, at) = sparse(1000, None).layout(b"1\n900\n88\n").unwrap();
        assert_eq!((map, at), (vec![piece(900, 88)], 1536));
        assert!(sparse(1000, None).layout(b"2\n900\n88\n").is_none());
    }
}
