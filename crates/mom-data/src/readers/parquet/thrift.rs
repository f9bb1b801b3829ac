//! Thrift's compact protocol, as far as page headers and the check of a footer need it.
//!
//! The `parquet` crate parses footers itself, but allocates by numbers in them and descends as deep as they say. So a
//! footer is walked here first ([`super::footer`]); page headers are read here alone, as that crate keeps them to itself.

/// Nesting that is followed; the format's own structs nest five deep.
const MAX_DEPTH: usize = 24;

/// Kinds of fields and list elements that are looked at.
pub(super) const TRUE: u8 = 1;
pub(super) const FALSE: u8 = 2;
pub(super) const I32: u8 = 5;
pub(super) const LIST: u8 = 9;
pub(super) const STRUCT: u8 = 12;

/// Why a value cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The bytes end before the value does.
    Short,
    /// It is none of the protocol.
    Bad,
}

/// A place in bytes of the protocol.
#[derive(Debug, Clone, Copy)]
pub(super) struct Compact<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Compact<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes that are read.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Bytes that are not read yet.
    pub fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub fn byte(&mut self) -> Result<u8, Fault> {
        let byte = *self.bytes.get(self.at).ok_or(Fault::Short)?;
        self.at += 1;
        Ok(byte)
    }

    pub fn varint(&mut self) -> Result<u64, Fault> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Fault::Bad)
    }

    pub fn zigzag(&mut self) -> Result<i64, Fault> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// An `i32` in its range.
    pub fn int(&mut self) -> Result<i32, Fault> {
        i32::try_from(self.zigzag()?).map_err(|_| Fault::Bad)
    }

    /// Steps over `n` bytes.
    pub fn step(&mut self, n: u64) -> Result<(), Fault> {
        if n > self.left() as u64 {
            return Err(Fault::Short);
        }
        self.at += n as usize;
        Ok(())
    }

    /// Number and kind of a struct's next field; `None` at its end.
    pub fn field(&mut self, last: &mut i16) -> Result<Option<(i16, u8)>, Fault> {
        let head = self.byte()?;
        let kind = head & 0x0f;
        if kind == 0 {
            return Ok(None);
        }
        let id = match head >> 4 {
            0 => i16::try_from(self.zigzag()?).map_err(|_| Fault::Bad)?,
            delta => last.checked_add(i16::from(delta)).ok_or(Fault::Bad)?,
        };
        *last = id;
        Ok(Some((id, kind)))
    }

    /// Kind and count of a list's elements. The count is not larger than the bytes that are left.
    pub fn list(&mut self) -> Result<(u8, u64), Fault> {
        let head = self.byte()?;
        let count = match head >> 4 {
            15 => self.varint()?,
            count => u64::from(count),
        };
        if count > self.left() as u64 {
            return Err(Fault::Short);
        }
        Ok((head & 0x0f, count))
    }

    /// Steps over a field's value.
    pub fn skip(&mut self, kind: u8) -> Result<(), Fault> {
        // In a field, the kind says a truth value.
        if matches!(kind, TRUE | FALSE) { Ok(()) } else { self.skip_element(kind, MAX_DEPTH) }
    }

    fn skip_element(&mut self, kind: u8, depth: usize) -> Result<(), Fault> {
        let depth = depth.checked_sub(1).ok_or(Fault::Bad)?;
        match kind {
            TRUE | FALSE | 3 => self.step(1),
            4..=6 => self.varint().map(|_| ()),
            7 => self.step(8),
            8 => {
                let len = self.varint()?;
                self.step(len)
            }
            LIST | 10 => {
                let (kind, count) = self.list()?;
                (0..count).try_for_each(|_| self.skip_element(kind, depth))
            }
            11 => {
                let count = self.varint()?;
                if count == 0 {
                    return Ok(());
                }
                let kinds = self.byte()?;
                (0..count).try_for_each(|_| {
                    self.skip_element(kinds >> 4, depth)?;
                    self.skip_element(kinds & 0x0f, depth)
                })
            }
            STRUCT => {
                let mut last = 0;
                while let Some((_, kind)) = self.field(&mut last)? {
                    if !matches!(kind, TRUE | FALSE) {
                        self.skip_element(kind, depth)?;
                    }
                }
                Ok(())
            }
            13 => self.step(16),
            _ => Err(Fault::Bad),
        }
    }
}
