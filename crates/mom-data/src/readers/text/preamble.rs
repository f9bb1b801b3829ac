//! Where a dictionary of dictd tells of itself rather than of words.
//!
//! Its first entries (`00-database-info`, `00-database-url`, ...; `00databaseinfo` in old ones) name the dictionary, its licence
//! and how it was made. The info of some runs over many paragraphs that look like entries, and the first word follows it without a
//! blank line: so the `.index` beside the dictionary, where there is one, says which bytes are theirs. Its lines are headword,
//! offset and length, the numbers in base 64 with the most significant digit first.

use std::ops::Range;
use std::path::Path;

/// How headwords of a dictionary's own entries begin.
const HEADS: [&str; 2] = ["00-database", "00database"];
const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
/// Bytes of the largest index that is read.
const MAX_INDEX_BYTES: u64 = 1 << 30;

/// Whether an entry of this headword tells of the dictionary.
pub(super) fn is_of_preamble(headword: &str) -> bool {
    let head = headword.trim_start().to_ascii_lowercase();
    HEADS.iter().any(|known| head.starts_with(known))
}

/// Headwords and bytes of the dictionary's own entries, as the index beside it has them, in the order of their bytes. None where
/// there is no index, or none that can be read: it is not needed for anything else.
pub(super) fn of_index(dictionary: &Path) -> Vec<(String, Range<u64>)> {
    let name = dictionary.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let stem = name.strip_suffix(".dz").unwrap_or(&name);
    let index = dictionary.with_file_name(format!("{}.index", stem.strip_suffix(".dict").unwrap_or(stem)));
    let fits = std::fs::metadata(&index).is_ok_and(|meta| meta.is_file() && meta.len() <= MAX_INDEX_BYTES);
    let bytes = if fits { std::fs::read(&index).unwrap_or_default() } else { Vec::new() };
    let mut entries: Vec<(String, Range<u64>)> = bytes.split(|&byte| byte == b'\n').filter_map(entry).collect();
    entries.sort_by_key(|(_, range)| (range.start, range.end));
    // One entry may have several headwords.
    entries.dedup_by(|(_, next), (_, range)| next.start < range.end);
    entries
}

/// A line of an index, if it is of the preamble.
fn entry(line: &[u8]) -> Option<(String, Range<u64>)> {
    let mut fields = line.split(|&byte| byte == b'\t');
    let (headword, start, length) = (fields.next()?, number(fields.next()?)?, number(fields.next()?)?);
    let headword = String::from_utf8_lossy(headword).into_owned();
    let end = start.checked_add(length)?;
    (is_of_preamble(&headword) && length > 0).then_some((headword, start..end))
}

fn number(digits: &[u8]) -> Option<u64> {
    let digit = |sum: u64, byte: &u8| {
        let value = DIGITS.iter().position(|digit| digit == byte)? as u64;
        sum.checked_mul(64)?.checked_add(value)
    };
    (!digits.is_empty()).then(|| digits.iter().try_fold(0, digit)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_headwords() {
        assert_eq!((number(b"A"), number(b"BA"), number(b"Kj")), (Some(0), Some(64), Some(10 * 64 + 35)));
        assert_eq!((number(b""), number(b"B-"), number(&[b'/'; 12])), (None, None, None));
        for (headword, expected) in [
            ("00-database-info", true),
            ("00databaseshort", true),
            ("00-Database-Url", true),
            ("00", false),
            ("database", false),
        ] {
            assert_eq!(is_of_preamble(headword), expected, "{headword}");
        }
        assert!(of_index(Path::new("/nowhere/at.dict.dz")).is_empty());
    }
}
