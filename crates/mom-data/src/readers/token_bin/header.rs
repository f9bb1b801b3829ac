//! What the first bytes of a token file say.

use crate::readers::listing::Entry;
use crate::readers::text::pieces::head;
use crate::{DataError, Result};

/// Bytes of the headers of llm.c and LLM.Q.
const HEADER_BYTES: u64 = 1024;

/// End-of-document tokens of GPT-2 and Llama 3.
const END_GPT2: u32 = 50256;
const END_LLAMA3: u32 = 128_000;

/// How a file is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// Bytes of a token.
    pub width: usize,
    /// First byte of the tokens.
    pub start: u64,
    /// One past their last byte.
    pub end: u64,
    /// The end-of-document token.
    pub mark: u32,
}

impl Header {
    /// Reads the header of a file and checks that its count fits. `mark`, where given, is its end-of-document token.
    pub fn read(entry: &Entry, mark: Option<u32>) -> Result<Self> {
        let bytes = head::<32>(&entry.path)?;
        let damaged = |place: &str, reason: String| DataError::Damaged {
            path: entry.path.clone(),
            place: place.to_owned(),
            reason,
        };
        let number = |at: usize| -> Result<i32> {
            let field = bytes.get(at..at + 4).and_then(|field| field.try_into().ok());
            field.map(i32::from_le_bytes).ok_or_else(|| damaged("at byte 0", "the header is cut off".to_owned()))
        };
        // A field of 4 bytes that is not there is no magic number.
        let magic = number(0).unwrap_or(0);
        let (width, count, mark) = if bytes.starts_with(b"BIN.TOK\n") {
            let (version, width) = (number(8)?, number(12)?);
            if !matches!(version, 1 | 2) || width != 4 {
                let reason = format!("LLM.Q's version {version} with {width} bytes a token; known are 1 and 2 with 4");
                return Err(damaged("at byte 8", reason));
            }
            if version == 2 && number(24)? != 0 {
                return Err(damaged(
                    "at byte 24",
                    "LLM.Q's files with masks (prompts and answers) are not read".to_owned(),
                ));
            }
            let mark = mark.ok_or_else(|| {
                damaged("at byte 0", "LLM.Q's files do not tell their end-of-document token: name it".to_owned())
            })?;
            (4, Some(number(16)?), mark)
        } else if magic == 20_240_520 || magic == 20_240_801 {
            let (known, width, end) = if magic == 20_240_520 { (1, 2, END_GPT2) } else { (7, 4, END_LLAMA3) };
            let version = number(4)?;
            if version != known {
                return Err(damaged(
                    "at byte 4",
                    format!("llm.c's {magic} of version {version}, only {known} is known"),
                ));
            }
            (width, Some(number(8)?), mark.unwrap_or(end))
        } else {
            let foreign = match bytes[..] {
                [b'P', b'K', 3, 4, ..] => "a zip archive (as PyTorch saves weights)",
                [0x1f, 0x8b, 8, 0..=0x1f, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..] => "compressed",
                _ => "",
            };
            if !foreign.is_empty() {
                return Err(damaged("at byte 0", format!("these are no tokens but {foreign}")));
            }
            (2, None, mark.unwrap_or(END_GPT2))
        };
        let len = entry.len_bytes;
        let start = if count.is_some() { HEADER_BYTES } else { 0 };
        let expected = match count {
            // In 64 bits no count of 31 bits overflows.
            Some(count) => u64::try_from(count).ok().map(|count| start + count * width as u64),
            None => Some(len / 2 * 2),
        };
        if expected != Some(len) {
            let reason = match count {
                Some(count) => format!("{count} tokens by its header do not fit its {len} bytes"),
                None => "an odd number of bytes cannot be tokens of 16 bits".to_owned(),
            };
            return Err(damaged(&format!("at byte {len}"), reason));
        }
        if width == 2 && mark > u32::from(u16::MAX) {
            let reason = format!("its tokens have 16 bits, the end-of-document token {mark} is none of them");
            return Err(damaged("at byte 0", reason));
        }
        Ok(Self { width, start, end: len, mark })
    }
}
