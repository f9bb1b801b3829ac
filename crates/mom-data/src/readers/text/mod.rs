//! Plain text: one document a file, one a line of JSON, or one an entry of a dictionary.
//!
//! [`records`] reads files of one JSON record a line for [`Jsonl`] and for MMC4, [`media`] finds the files that records
//! name, [`pieces`] cuts long files into units (of token files too).

mod dictionary;
mod json_lines;
mod lines;
pub(super) mod media;
mod paragraphs;
pub(super) mod pieces;
mod preamble;
pub(super) mod records;
mod whole;

pub(super) use dictionary::Dictionary;
pub(super) use lines::Jsonl;
pub(super) use whole::Text;

use super::listing::Listing;
use crate::Result;

/// Whether the first record of the first file of records names an image or a recording as a file.
pub(super) fn names_media(listing: &Listing) -> Result<bool> {
    let Some(record) = records::first_record(listing)? else { return Ok(false) };
    let named =
        |value: &serde_json::Value| value.as_str().is_some_and(|name| media::is_media(&super::listing::ending(name)));
    let names = |field: &&str| match record.get(*field) {
        Some(serde_json::Value::Array(list)) => list.iter().any(named),
        Some(value) => named(value),
        None => false,
    };
    Ok(lines::FILE_FIELDS.iter().any(names))
}
