//! Ogg: Vorbis, FLAC and Opus.
//!
//! symphonia goes on behind a page that is damaged or missing. So all pages are walked here first: checksums must match,
//! sequence numbers must follow one another, and the recording's last page must be there.

use super::packets::{self, Ask};
use super::page::{Page, check, pages};
use super::{Recording, broken};
use crate::readers::Skip;

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
