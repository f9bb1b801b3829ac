//! The header before each page, and what of it must hold before the page is decoded.

use parquet::basic::Encoding;

use super::thrift::{Compact, FALSE, Fault, I32, STRUCT, TRUE};

/// Kinds of pages.
pub(super) const DATA: i32 = 0;
pub(super) const INDEX: i32 = 1;
pub(super) const DICTIONARY: i32 = 2;
pub(super) const DATA_V2: i32 = 3;

/// A page's header. Of the fields of the three kinds, those of the page's own are set.
#[derive(Debug, Clone, Default)]
pub(super) struct Header {
    pub kind: i32,
    pub uncompressed: i32,
    pub compressed: i32,
    /// Of the page as it lies in the file.
    pub crc: Option<u32>,
    pub values: i32,
    pub encoding: i32,
    pub def_encoding: i32,
    pub rep_encoding: i32,
    pub nulls: i32,
    pub rows: i32,
    pub def_len: i32,
    pub rep_len: i32,
    /// Of the second version: values may lie there as they are.
    pub is_plain: bool,
}

impl Header {
    /// The header at the start of `bytes`, and its length.
    pub fn parse(bytes: &[u8]) -> Result<(Self, usize), Fault> {
        let mut at = Compact::new(bytes);
        let mut header = Self { kind: -1, uncompressed: -1, compressed: -1, ..Self::default() };
        let mut body = -1;
        let mut last = 0;
        while let Some((id, kind)) = at.field(&mut last)? {
            match (id, kind) {
                (1, I32) => header.kind = at.int()?,
                (2, I32) => header.uncompressed = at.int()?,
                (3, I32) => header.compressed = at.int()?,
                // Unsigned, written as if it had a sign; some write it without.
                (4, I32) => header.crc = Some(at.zigzag()? as u32),
                (5, STRUCT) => {
                    body = DATA;
                    header.data(&mut at)?;
                }
                (7, STRUCT) => {
                    body = DICTIONARY;
                    header.dictionary(&mut at)?;
                }
                (8, STRUCT) => {
                    body = DATA_V2;
                    header.data_v2(&mut at)?;
                }
                _ => at.skip(kind)?,
            }
        }
        let sizes = [
            header.uncompressed,
            header.compressed,
            header.values,
            header.nulls,
            header.rows,
            header.def_len,
            header.rep_len,
        ];
        let whole = header.kind == INDEX || header.kind == body;
        if !whole || sizes.iter().any(|&size| size < 0) || header.nulls > header.values {
            return Err(Fault::Bad);
        }
        Ok((header, at.at()))
    }

    fn data(&mut self, at: &mut Compact<'_>) -> Result<(), Fault> {
        let mut last = 0;
        while let Some((id, kind)) = at.field(&mut last)? {
            match (id, kind) {
                (1, I32) => self.values = at.int()?,
                (2, I32) => self.encoding = at.int()?,
                (3, I32) => self.def_encoding = at.int()?,
                (4, I32) => self.rep_encoding = at.int()?,
                _ => at.skip(kind)?,
            }
        }
        Ok(())
    }

    fn dictionary(&mut self, at: &mut Compact<'_>) -> Result<(), Fault> {
        let mut last = 0;
        while let Some((id, kind)) = at.field(&mut last)? {
            match (id, kind) {
                (1, I32) => self.values = at.int()?,
                (2, I32) => self.encoding = at.int()?,
                _ => at.skip(kind)?,
            }
        }
        Ok(())
    }

    fn data_v2(&mut self, at: &mut Compact<'_>) -> Result<(), Fault> {
        let mut last = 0;
        while let Some((id, kind)) = at.field(&mut last)? {
            match (id, kind) {
                (1, I32) => self.values = at.int()?,
                (2, I32) => self.nulls = at.int()?,
                (3, I32) => self.rows = at.int()?,
                (4, I32) => self.encoding = at.int()?,
                (5, I32) => self.def_len = at.int()?,
                (6, I32) => self.rep_len = at.int()?,
                (7, TRUE | FALSE) => self.is_plain = kind == FALSE,
                _ => at.skip(kind)?,
            }
        }
        Ok(())
    }

    /// Bytes of the levels before the values of a page whose contents are `page`, where they fit in it.
    pub fn levels_len(&self, page: &[u8], max_rep: i16, max_def: i16) -> Option<usize> {
        if self.kind == DATA_V2 {
            let len = (self.rep_len as usize).checked_add(self.def_len as usize)?;
            return (len <= page.len()).then_some(len);
        }
        let mut len = 0usize;
        for (max, encoding) in [(max_rep, self.rep_encoding), (max_def, self.def_encoding)] {
            if max == 0 {
                continue;
            }
            len = match self::encoding(encoding)? {
                Encoding::RLE => {
                    let said = page.get(len..)?.first_chunk::<4>()?;
                    len.checked_add(4)?.checked_add(u32::from_le_bytes(*said) as usize)?
                }
                // Before the run-length kind, levels were packed at their width.
                _ if encoding == 4 => {
                    let width = (16 - max.leading_zeros()) as usize;
                    len.checked_add((self.values as usize).checked_mul(width)?.div_ceil(8))?
                }
                _ => return None,
            };
            if len > page.len() {
                return None;
            }
        }
        Some(len)
    }
}

/// An encoding by its number in the format.
#[expect(deprecated, reason = "old files hold levels of this encoding")]
pub(super) fn encoding(number: i32) -> Option<Encoding> {
    Some(match number {
        0 => Encoding::PLAIN,
        2 => Encoding::PLAIN_DICTIONARY,
        3 => Encoding::RLE,
        4 => Encoding::BIT_PACKED,
        5 => Encoding::DELTA_BINARY_PACKED,
        6 => Encoding::DELTA_LENGTH_BYTE_ARRAY,
        7 => Encoding::DELTA_BYTE_ARRAY,
        8 => Encoding::RLE_DICTIONARY,
        9 => Encoding::BYTE_STREAM_SPLIT,
        _ => return None,
    })
}

/// Count and length of integers in the delta encoding, where they fit in `bytes`: the decoder reserves room by the count.
pub(super) fn deltas(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut at = Compact::new(bytes);
    let block = at.varint().ok()?;
    let parts = at.varint().ok()?;
    let count = at.varint().ok()?;
    at.varint().ok()?;
    if parts == 0 || block == 0 || block % parts != 0 || block > 1 << 31 {
        return None;
    }
    let part = block / parts;
    let mut left = count.saturating_sub(1);
    while left > 0 {
        at.varint().ok()?;
        let widths = at;
        at.step(parts).ok()?;
        for width in bytes.get(widths.at()..at.at())? {
            if left == 0 {
                break;
            }
            at.step(u64::from(*width).checked_mul(part)? / 8).ok()?;
            left = left.saturating_sub(part);
        }
    }
    Some((count, at.at()))
}
