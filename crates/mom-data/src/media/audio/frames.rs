//! MP3 and AAC as they are streamed: frames one behind the other, each with a header that tells its length.
//!
//! symphonia looks for the next header wherever it loses the thread, and goes on without what lies between. So the frames
//! are walked here first: from the first to the last, each must begin where the one before ends. Tags may stand in front
//! and behind, and so may what belongs to no frame.

use super::packets::{self, Ask};
use super::{Recording, broken};
use crate::readers::Skip;

/// What a frame's header tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    /// What must stay the same from frame to frame: kind, version, layer, rate.
    stream: u32,
    /// Bytes of the frame.
    len: usize,
    /// MP3: bytes between header and main data, where an info frame has its tag.
    side_info: usize,
}

/// kbit/s of layer III by index: MPEG 1, then MPEG 2 and 2.5.
const BIT_RATES: [[usize; 16]; 2] = [
    [0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0],
    [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0],
];

/// Decodes MP3 or AAC. `name` is consulted where the bytes begin with neither.
pub(super) fn decode(bytes: &[u8], name: &str) -> Result<Recording, Skip> {
    let padding = bytes.iter().take_while(|&&byte| byte == 0).count();
    let bytes = without_end_tags(&bytes[padding..]);
    let ending = name.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    let begun = header(bytes, 0).is_some();
    if !begun && !["mp3", "mpga", "aac", "adts"].contains(&ending.as_str()) {
        let known = "neither WAV, FLAC, MP3, Ogg, MP4, AAC nor AIFF";
        return Err(broken(match layer(bytes) {
            Some(layer @ 1..=2) => format!("MPEG audio of layer {layer} is not read"),
            _ => known.to_owned(),
        }));
    }
    let (start, end, n_frames) = walk(bytes)?;
    let stream = &bytes[start..end];
    let info = info_frames(stream);
    if let Some(stated) = info {
        // The info frame is a frame too; some encoders count it.
        if stated > n_frames {
            return Err(broken(format!("truncated: {stated} frames are stated, {} are there", n_frames - 1)));
        }
    }
    let decoded = packets::decode(stream, Ask::default())?;
    let (delay, padding) = (decoded.delay, decoded.padding);
    let length = decoded.mono.frames().saturating_sub(delay).saturating_sub(padding);
    decoded.mono.finish(delay, length)
}

/// First byte of the first frame, the byte behind the last one, and their number.
fn walk(bytes: &[u8]) -> Result<(usize, usize, u64), Skip> {
    let start = find(bytes, 0, None).ok_or_else(|| broken("no MP3 or AAC frame"))?;
    let first = header(bytes, start).ok_or_else(|| broken("no MP3 or AAC frame"))?;
    // Less than a frame is the rest of one that was cut off when the file was made; more may be frames.
    if start >= first.len.max(2) {
        return Err(broken(format!("damaged: {start} bytes before the first frame")));
    }
    let (mut at, mut n_frames) = (start, 0);
    while let Some(header) = header(bytes, at).filter(|header| header.stream == first.stream) {
        if at + header.len > bytes.len() {
            return Err(broken(format!("truncated: its last frame lacks {} bytes", at + header.len - bytes.len())));
        }
        at += header.len;
        n_frames += 1;
    }
    match find(bytes, at, Some(first.stream)) {
        Some(next) => Err(broken(format!("damaged: no frame from byte {at} to byte {next}"))),
        None => Ok((start, at, n_frames)),
    }
}

/// The next place at which two frames follow one another, or one that ends with the file.
fn find(bytes: &[u8], from: usize, stream: Option<u32>) -> Option<usize> {
    (from..bytes.len()).find(|&at| {
        let Some(this) = header(bytes, at).filter(|this| stream.is_none_or(|stream| stream == this.stream)) else {
            return false;
        };
        let next = at + this.len;
        next == bytes.len() || header(bytes, next).is_some_and(|next| next.stream == this.stream)
    })
}

/// The header at a place, if there is one.
fn header(bytes: &[u8], at: usize) -> Option<Header> {
    let &[a, b, c, d, ..] = bytes.get(at..)? else { return None };
    if a != 0xff || b & 0xe0 != 0xe0 {
        return None;
    }
    if b & 0xf6 == 0xf0 {
        // ADTS: 13 bits of length, header included, from the last two bits of the fourth byte on.
        let &[e, f] = bytes.get(at + 4..at + 6)? else { return None };
        let len = usize::from(d & 3) << 11 | usize::from(e) << 3 | usize::from(f >> 5);
        let rate = c >> 2 & 15;
        return (len >= 7 && rate < 13).then_some(Header { stream: 1 << 16 | u32::from(rate), len, side_info: 0 });
    }
    let (version, layer) = (b >> 3 & 3, b >> 1 & 3);
    let (bit_rate, rate, padding) = (c >> 4, c >> 2 & 3, c >> 1 & 1);
    if version == 1 || layer != 1 || bit_rate == 0 || bit_rate == 15 || rate == 3 {
        return None;
    }
    let mpeg1 = version == 3;
    let hertz = [44_100, 48_000, 32_000][usize::from(rate)] >> [2, 0, 1, 0][usize::from(version)];
    let bits = BIT_RATES[usize::from(!mpeg1)][usize::from(bit_rate)] * 1000;
    let len = bits * if mpeg1 { 144 } else { 72 } / hertz + usize::from(padding);
    let mono = d >> 6 == 3;
    let side_info = match (mpeg1, mono) {
        (true, false) => 32,
        (true, true) | (false, false) => 17,
        (false, true) => 9,
    };
    Some(Header { stream: u32::from(version) << 8 | u32::from(rate), len, side_info })
}

/// Layer of MPEG audio at the beginning.
fn layer(bytes: &[u8]) -> Option<u8> {
    match bytes {
        &[0xff, second, ..] if second & 0xe0 == 0xe0 => Some(4 - (second >> 1 & 3)),
        _ => None,
    }
}

/// Frames that a Xing, Info or VBRI tag in the first frame states.
fn info_frames(stream: &[u8]) -> Option<u64> {
    let first = header(stream, 0)?;
    let frame = &stream[..first.len];
    let field = |at: usize| Some(u32::from_be_bytes(frame.get(at..at + 4)?.try_into().ok()?));
    let at = 4 + first.side_info;
    match (frame.get(at..at + 4), frame.get(36..40)) {
        (Some(b"Xing" | b"Info"), _) if field(at + 4)? & 1 == 1 => field(at + 8).map(u64::from),
        (_, Some(b"VBRI")) => field(36 + 14).map(u64::from),
        _ => None,
    }
}

/// What follows the ID3v2 tags at the beginning, whatever it is.
pub(super) fn behind_id3(mut bytes: &[u8]) -> &[u8] {
    while let &[b'I', b'D', b'3', _, _, flags, a, b, c, d, ..] = bytes {
        let len = [a, b, c, d].iter().fold(0, |len, &byte| len << 7 | usize::from(byte & 0x7f));
        let footer = if flags & 0x10 == 0 { 0 } else { 10 };
        bytes = bytes.get(10 + len + footer..).unwrap_or_default();
    }
    bytes
}

/// Without the tags at the end: ID3v1, APE, Lyrics3, in any order.
fn without_end_tags(mut bytes: &[u8]) -> &[u8] {
    loop {
        let from_end = |n: usize| bytes.len().checked_sub(n).map(|at| &bytes[at..]);
        let tag_bytes = if from_end(128).is_some_and(|tag| tag.starts_with(b"TAG")) {
            128
        } else if let Some(footer) = from_end(32).filter(|footer| footer.starts_with(b"APETAGEX")) {
            let field = |at: usize| u32::from_le_bytes([footer[at], footer[at + 1], footer[at + 2], footer[at + 3]]);
            // The size is without the header, which is there if the highest flag says so.
            field(12).max(32) as usize + if field(20) >> 31 == 1 { 32 } else { 0 }
        } else if let Some(end) = from_end(15).filter(|end| end.ends_with(b"LYRICS200")) {
            let size = std::str::from_utf8(&end[..6]).ok().and_then(|size| size.parse::<usize>().ok());
            size.map_or(0, |size| size + 15)
        } else {
            0
        };
        match bytes.len().checked_sub(tag_bytes) {
            Some(len) if tag_bytes > 0 => bytes = &bytes[..len],
            _ => return bytes,
        }
    }
}
