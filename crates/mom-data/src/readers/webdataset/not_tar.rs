//! What a file is that is called an archive and is none, in plain words.

use crate::readers::{escaped, printable};

/// First bytes of other kinds of files.
const MAGICS: [(&[u8], &str); 16] = [
    (b"version https://git-lfs.github.com/spec", "a Git LFS pointer, not the archive itself"),
    (b"PK\x03\x04", "a zip archive"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"BZh", "compressed with bzip2, which is not read"),
    (b"\xfd7zXZ\x00", "compressed with xz, which is not read"),
    (b"\x04\x22\x4d\x18", "compressed with lz4, which is not read"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a rar archive"),
    (b"\x1f\x8b", "compressed twice"),
    (b"\x28\xb5\x2f\xfd", "compressed twice"),
    (b"PAR1", "a Parquet file"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"RIFF", "a RIFF file (WAV or WebP)"),
    (b"%PDF", "a PDF document"),
];

/// Says what the first bytes of a file are that do not begin a tar archive.
pub(super) fn describe(head: &[u8]) -> String {
    if head.is_empty() {
        return "the file is empty".to_owned();
    }
    if let Some((_, what)) = MAGICS.iter().find(|(magic, _)| head.starts_with(magic)) {
        return (*what).to_owned();
    }
    let mut shown = printable(&escaped(&head[..head.len().min(60)]), 60);
    if head.len() > 60 && !shown.ends_with("...") {
        shown.push_str("...");
    }
    let what = match text(head) {
        Some(text) => {
            let text = text.trim_start_matches('\u{feff}').trim_start();
            let begins = |start: &str| text.get(..start.len()).is_some_and(|head| head.eq_ignore_ascii_case(start));
            if begins("<!doctype html") || begins("<html") || begins("<head") {
                "an HTML page, as servers send it in place of a file"
            } else if begins("<?xml") || begins("<error") {
                "an XML document, as servers send it in place of a file"
            } else if begins("{") || begins("[") {
                "JSON, not an archive"
            } else {
                "text, not an archive"
            }
        }
        None => "not a tar archive",
    };
    format!("{what}: \"{shown}\"")
}

/// The bytes as text, but for a character that is cut at their end.
fn text(head: &[u8]) -> Option<&str> {
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => std::str::from_utf8(&head[..error.valid_up_to()]).ok()?,
        Err(_) => return None,
    };
    (!text.contains('\0')).then_some(text)
}
