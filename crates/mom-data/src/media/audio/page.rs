//! Pages of Ogg.

use std::collections::HashMap;

use symphonia::core::checksum::Crc32;
use symphonia::core::io::Monitor;

use super::broken;
use crate::readers::Skip;

/// A page.
#[derive(Debug, Clone, Copy)]
pub(super) struct Page<'a> {
    /// The first of its stream.
    pub begins: bool,
    /// The last of its stream.
    pub ends: bool,
    /// Samples of the stream up to the end of the last packet that ends here; `None` if none ends.
    #[cfg_attr(not(feature = "opus"), expect(dead_code, reason = "symphonia reads it by itself"))]
    pub granule: Option<u64>,
    pub serial: u32,
    sequence: u32,
    /// Lengths of the pieces of packets in `body`; one of 255 is continued by the next.
    #[cfg_attr(not(feature = "opus"), expect(dead_code, reason = "symphonia cuts the packets by itself"))]
    pub lacing: &'a [u8],
    /// The pieces.
    pub body: &'a [u8],
}

/// All pages, whose checksums match.
pub(super) fn pages(bytes: &[u8]) -> Result<Vec<Page<'_>>, Skip> {
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
pub(super) fn check(pages: &[Page<'_>], serial: u32) -> Result<(), Skip> {
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
