//! Which format a source has, by the names of its files.

use super::listing::{Entry, Listing, is_audio, is_image};
use super::{Format, mmc4, text};
use crate::{DataError, Result};

/// The format that the names speak for.
///
/// # Errors
/// [`DataError::UnknownFormat`], naming what was found.
pub(super) fn guess(listing: &Listing) -> Result<Format> {
    let has = |wanted: &[&str]| listing.entries.iter().any(|entry| wanted.contains(&entry.ending().as_str()));
    let named = |test: &dyn Fn(&str) -> bool| listing.entries.iter().any(|entry| test(entry.base()));
    if has(&["tar", "tar.gz", "tgz", "tar.zst"]) {
        return Ok(Format::Webdataset);
    }
    if named(&|base| base == "metadata.jsonl" || base == "metadata.csv") {
        return Ok(Format::Metadata);
    }
    if named(&|base| base.ends_with(".trans.txt")) {
        return Ok(Format::Librispeech);
    }
    if named(&|base| base.contains("_desc") && base.ends_with(".ogg")) {
        return Ok(Format::Tuxpaint);
    }
    if has(&["parquet"]) {
        return Ok(Format::Parquet);
    }
    if has(&["idx"]) {
        return Ok(Format::Megatron);
    }
    if has(&["bin"]) {
        return Ok(Format::TokenBin);
    }
    let media = listing.entries.iter().any(|entry| is_image(&entry.ending()) || is_audio(&entry.ending()));
    if has(&["jsonl", "jsonl.gz", "jsonl.zst", "ndjson", "json.gz"]) {
        if mmc4::looks_like(listing)? {
            return Ok(Format::Mmc4);
        }
        // Among pictures and recordings a file of records that names none of them is no list of samples.
        if !media || text::names_media(listing)? {
            return Ok(Format::Jsonl);
        }
    }
    if media {
        return Ok(Format::Loose);
    }
    if has(&["txt", "txt.gz", "txt.zst", "text", "md"]) {
        return Ok(Format::Text);
    }
    if has(&["dict", "dz"]) {
        return Ok(Format::Dictd);
    }
    let mut endings: Vec<String> = listing.entries.iter().map(Entry::ending).collect();
    endings.sort();
    endings.dedup();
    endings.truncate(12);
    Err(DataError::UnknownFormat { path: listing.root.clone(), endings: endings.join(", ") })
}
