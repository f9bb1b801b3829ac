//! Ogg: Vorbis, FLAC and Opus.
//!
//! symphonia goes on behind a page that is damaged or missing. So all pages are walked here first: checksums must match,
//! sequence numbers must follow one another, and the recording's last page must be there.

use std::collections::HashMap;

use symphonia::core::checksum::Crc32;
use symphonia::core::io::Monitor;

use super::packets::{self, Ask};
use super::{Recording, broken};
use crate::readers::Skip;

/// A page.
#[derive(Debug, Clone, Copy)]
pub(super) struct Page<'a> {
    /// The first of its stream.
    begins: bool,
    /// The last of its stream.
    pub ends: bool,
    /// Samples of the stream up to the end of the last packet that ends here; `None` if none ends.
    #[cfg_attr(not(feature = "opus"), expect(dead_code, reason = "symphonia reads it by itself"))]
    pub granule: Option<u64>,
    serial: u32,
    sequence: u32,
    /// Lengths of the pieces of packets in `body`; one of 255 is continued by the next.
    #[cfg_attr(not(feature = "opus"), expect(dead_code, reason = "symphonia cuts the packets by itself"))]
    pub lacing: &'a [u8],
    /// The pieces.
    pub body: &'a [u8],
}

pub(super) fn decode(bytes: &[u8]) -> Result<Recording, Skip> {
    let pages = pages(bytes)?;
    let kinds: [(&[u8], &str); 4] =
        [(b"\x01vorbis", "Vorbis"), (b"\x7fFLAC", "FLAC"), (b"OpusHead", "Opus"), (b"Speex   ", "Speex")];
    let audio = pages.iter().take_while(|page| page.begins).find_map(|page| {
        let (_, kind) = kinds.iter().find(|(magic, _)| page.body.starts_with(magic))?;
        Some((page.serial, *kind))
    });
    let (serial, kind) = audio.ok_or_else(|| broken("Ogg without Vorbis, FLAC or Opus"))?;
    check(&pages, serial)?;
    match kind {
        "Speex" => Err(broken("Speex is not read")),
        "Opus" => opus(&pages, serial),
        // Vorbis, whose packets the decoder trims by the granules, and FLAC.
        _ => packets::decode(bytes, Ask { gapless: true, seekable: true, ..Ask::default() })?.mono.finish(0, u64::MAX),
    }
}

#[cfg(feature = "opus")]
fn opus(pages: &[Page<'_>], serial: u32) -> Result<Recording, Skip> {
    super::opus::decode(pages.iter().filter(|page| page.serial == serial))
}

#[cfg(not(feature = "opus"))]
fn opus(_pages: &[Page<'_>], _serial: u32) -> Result<Recording, Skip> {
    Err(broken("Opus needs the feature opus"))
}

/// All pages, whose checksums match.
fn pages(bytes: &[u8]) -> Result<Vec<Page<'_>>, Skip> {
    let mut pages: Vec<Page<'_>> = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        match page(&bytes[at..]) {
            Some((page, len)) => {
                pages.push(page);
                at += len;
            }
            // What follows the last page belongs to nothing.
            None if pages.last().is_some_and(|page| page.ends) => break,
            None => return Err(broken(format!("damaged or truncated: no whole Ogg page at byte {at}"))),
        }
    }
    Ok(pages)
}

/// The page at the beginning, and its length.
fn page(bytes: &[u8]) -> Option<(Page<'_>, usize)> {
    let (head, rest) = bytes.split_at_checked(27)?;
    if !head.starts_with(b"OggS\0") {
        return None;
    }
    let (lacing, rest) = rest.split_at_checked(usize::from(head[26]))?;
    let len = lacing.iter().map(|&len| usize::from(len)).sum();
    let body = rest.get(..len)?;
    let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let mut crc = Crc32::new(0);
    // The checksum is taken with zeros in its own place.
    [&head[..22], &[0; 4], &head[26..], lacing, body].iter().for_each(|part| crc.process_buf_bytes(part));
    if crc.crc() != word(22) {
        return None;
    }
    let granule = u64::from(word(6)) | u64::from(word(10)) << 32;
    let page = Page {
        begins: head[5] & 2 != 0,
        ends: head[5] & 4 != 0,
        granule: Some(granule).filter(|&granule| granule != u64::MAX),
        serial: word(14),
        sequence: word(18),
        lacing,
        body,
    };
    Some((page, 27 + lacing.len() + len))
}

/// Whether no page is missing, and the stream `serial` is there to its end.
fn check(pages: &[Page<'_>], serial: u32) -> Result<(), Skip> {
    let mut sequences: HashMap<u32, u32> = HashMap::new();
    let mut begun = false;
    let mut ended = false;
    for page in pages {
        if page.begins && begun {
            return Err(broken("several recordings one behind the other"));
        }
        begun |= !page.begins;
        match sequences.insert(page.serial, page.sequence) {
            Some(before) if before.wrapping_add(1) != page.sequence => {
                return Err(broken(format!("damaged: no Ogg page between {before} and {}", page.sequence)));
            }
            None if !page.begins => return Err(broken("damaged: an Ogg page without a stream")),
            _ => ended |= page.ends && page.serial == serial,
        }
    }
    if ended { Ok(()) } else { Err(broken("truncated: the last Ogg page is missing")) }
}
