//! WAV and RF64.
//!
//! symphonia 0.6 refuses RF64, and WAV whose sizes were never filled in (0, 0x7FFFF000) as streaming programs leave them;
//! it takes a chunk of odd size before the data for damage, and a data chunk that lost its end for the end of the
//! recording. All of these are common, so the chunks are walked here, and plain samples are converted here. What is coded
//! (ADPCM, MP3) goes to symphonia, without the chunks around it.

use super::pcm::{self, Layout};
use super::{Recording, broken, frames, packets};
use crate::readers::Skip;

/// Sizes from here on that exceed the file are those of a program that did not know better (sox writes this one, others
/// 0x7FFFFFFF or 0xFFFFFFFF).
const UNKNOWN_SIZE: u64 = 0x7fff_f000;

/// The format chunk.
struct Format<'a> {
    tag: u16,
    channels: u16,
    sample_rate: u32,
    /// Bytes of one frame, or of one block of coded samples.
    block_align: u16,
    bits: u16,
    body: &'a [u8],
}

pub(super) fn decode(bytes: &[u8]) -> Result<Recording, Skip> {
    let (format, data, fact) = chunks(bytes)?;
    let layout = match format.tag {
        1 | 3 | 6 | 7 => format.layout()?,
        2 | 0x11 => return packets::adpcm(&plain_wav(format.body, data), fact),
        0x50 | 0x55 => return frames::decode(data, "mp3"),
        tag => return Err(broken(format!("WAV of format 0x{tag:04x} is not read"))),
    };
    pcm::mix(data, layout, format.sample_rate, usize::from(format.channels))?.finish(0, u64::MAX)
}

/// The format, the bytes of the samples, and their number where a `fact` chunk states it.
fn chunks(bytes: &[u8]) -> Result<(Format<'_>, &[u8], Option<u64>), Skip> {
    let riff_size = u64::from(u32_at(bytes, 4).unwrap_or(0));
    let mut format = None;
    let mut fact = None;
    let mut long_size = None;
    let mut at = 12;
    while let (Some(kind), Some(size)) = (bytes.get(at..at + 4), u32_at(bytes, at + 4)) {
        let start = at + 8;
        let room = bytes.len() - start;
        let size = u64::from(size);
        let body = bytes.get(start..start + room.min(size as usize)).unwrap_or_default();
        match kind {
            b"ds64" => long_size = body.get(8..16).and_then(|size| Some(u64::from_le_bytes(size.try_into().ok()?))),
            b"fmt " => format = Some(Format::of(body).ok_or_else(|| broken("the format chunk is cut"))?),
            b"fact" => fact = u32_at(body, 0).map(u64::from),
            b"data" => {
                let format = format.ok_or_else(|| broken("no format chunk before the data"))?;
                // RF64 states the size of its data in ds64.
                let size = long_size.filter(|_| size == u64::from(u32::MAX)).unwrap_or(size);
                // A header that was never finished ends where the data begin, if it states an end at all.
                let unfinished = riff_size == 0 || riff_size >= UNKNOWN_SIZE || 8 + riff_size <= start as u64;
                let room_bytes = room as u64;
                if size > room_bytes && size < UNKNOWN_SIZE {
                    return Err(broken(format!("truncated: {size} bytes of samples are stated, {room} are there")));
                }
                let len = if size > room_bytes || (size == 0 && unfinished) { room } else { size as usize };
                return Ok((format, &bytes[start..start + len], fact));
            }
            _ => {}
        }
        // Chunks begin at even places.
        at = match usize::try_from(start as u64 + size + size % 2) {
            Ok(next) if next <= bytes.len() => next,
            _ => break,
        };
    }
    Err(broken("no data chunk"))
}

impl<'a> Format<'a> {
    fn of(body: &'a [u8]) -> Option<Self> {
        let mut tag = u16_at(body, 0)?;
        if tag == 0xfffe {
            // Extensible: the format's number begins the GUID.
            tag = u16_at(body, 24)?;
        }
        Some(Self {
            tag,
            channels: u16_at(body, 2)?,
            sample_rate: u32_at(body, 4)?,
            block_align: u16_at(body, 12)?,
            bits: u16_at(body, 14)?,
            body,
        })
    }

    /// How samples are stored: the bytes of a sample are those of the frame, shared by the channels.
    fn layout(&self) -> Result<Layout, Skip> {
        let odd = || {
            broken(format!(
                "WAV of format {}, {} channels, {} bits, {} bytes a frame",
                self.tag, self.channels, self.bits, self.block_align
            ))
        };
        let n_bytes = usize::from(self.block_align.checked_div(self.channels).unwrap_or(0));
        let fits = usize::from(self.bits).div_ceil(8) <= n_bytes;
        if n_bytes * usize::from(self.channels) != usize::from(self.block_align) || !fits {
            return Err(odd());
        }
        match (self.tag, n_bytes) {
            (1, 1) => Ok(Layout::Unsigned8),
            (1, 2..=4) => Ok(Layout::Signed { n_bytes }),
            (3, 4) => Ok(Layout::Float32),
            (3, 8) => Ok(Layout::Float64),
            (6, 1) => Ok(Layout::ALaw),
            (7, 1) => Ok(Layout::MuLaw),
            _ => Err(odd()),
        }
    }
}

/// A WAV of nothing but a format and data.
fn plain_wav(format: &[u8], data: &[u8]) -> Vec<u8> {
    let chunk = |kind: &[u8; 4], body: &[u8]| {
        let mut chunk = [kind.as_slice(), &(body.len() as u32).to_le_bytes(), body].concat();
        chunk.resize(chunk.len().next_multiple_of(2), 0);
        chunk
    };
    let body = [b"WAVE".as_slice(), &chunk(b"fmt ", format), &chunk(b"data", data)].concat();
    chunk(b"RIFF", &body)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}
