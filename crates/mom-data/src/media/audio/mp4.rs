//! AAC and ALAC in MP4.
//!
//! symphonia 0.6 gives all samples that are coded. Which of them belong to the recording stands in the track's edit list,
//! or, from iTunes, in a comment; both are read here.

use super::packets::{self, Ask};
use super::{Recording, broken};
use crate::readers::Skip;

/// What a track states of its times.
#[derive(Debug, Default)]
struct Times {
    /// Ticks per second of the track.
    timescale: u64,
    /// Length of all samples, in ticks of the track. 0 in fragmented files.
    total: u64,
    /// The edit list's parts: length in ticks of the movie, and first tick of the track.
    edits: Vec<(u64, u64)>,
}

pub(super) fn decode(bytes: &[u8]) -> Result<Recording, Skip> {
    let top: Option<Vec<_>> = boxes(bytes).collect();
    let top = top.ok_or_else(|| broken("truncated: a box exceeds the file"))?;
    let moov = top.iter().find(|(kind, _)| kind == b"moov").map(|(_, body)| *body);
    let moov = moov.ok_or_else(|| broken("truncated: no moov box"))?;
    let decoded = packets::decode(bytes, Ask { seekable: true, ..Ask::default() })?;
    let times = times(moov, decoded.track).unwrap_or_default();
    let movie_timescale = child(moov, b"mvhd").and_then(timescale).unwrap_or(0);
    let rate = u64::from(decoded.mono.sample_rate());
    let frames = decoded.mono.frames();
    // Nearest whole number of samples.
    let samples = |ticks: u64, timescale: u64| match u128::from(timescale) {
        0 => 0,
        scale => ((u128::from(ticks) * u128::from(rate) * 2 + scale) / (scale * 2)).min(u64::MAX.into()) as u64,
    };
    let stated = samples(times.total, times.timescale);
    // The last packet of AAC may hold more samples than are stated, none holds fewer; coarse ticks are rounded.
    if stated > frames + samples(1, times.timescale) {
        return Err(packets::missing(stated, frames));
    }
    let total = if stated == 0 { frames } else { stated.min(frames) };
    match (times.edits.as_slice(), itunes(moov)) {
        ([], Some((delay, length))) if delay.saturating_add(length) <= frames => decoded.mono.finish(delay, length),
        ([], _) => decoded.mono.finish(0, total),
        (&[(length, first)], _) => {
            let delay = samples(first, times.timescale);
            let rest = total.saturating_sub(delay);
            // The movie's ticks are coarse, milliseconds often: within two of them, all the rest is meant.
            let length = match samples(length, movie_timescale) {
                0 => rest,
                length if length + samples(2, movie_timescale) >= rest => rest,
                length => length,
            };
            decoded.mono.finish(delay, length)
        }
        _ => Err(broken("an edit list of several parts is not read")),
    }
}

/// Boxes of length, type and body. Ends with `None` where one exceeds what is there.
fn boxes(mut bytes: &[u8]) -> impl Iterator<Item = Option<([u8; 4], &[u8])>> {
    std::iter::from_fn(move || {
        // Fewer bytes than a header has are filling.
        let (head, rest) = bytes.split_at_checked(8)?;
        let kind = [head[4], head[5], head[6], head[7]];
        let (head_len, len) = match u32_at(head, 0)? {
            0 => (8, bytes.len()),
            1 => match rest.first_chunk() {
                Some(&len) => (16, usize::try_from(u64::from_be_bytes(len)).unwrap_or(usize::MAX)),
                None => (8, usize::MAX),
            },
            len => (8, len as usize),
        };
        let body = bytes.get(head_len..len);
        bytes = body.and(bytes.get(len..)).unwrap_or_default();
        Some(body.map(|body| (kind, body)))
    })
}

/// The first box of a type.
fn child<'a>(bytes: &'a [u8], wanted: &[u8; 4]) -> Option<&'a [u8]> {
    boxes(bytes).flatten().find(|(kind, _)| kind == wanted).map(|(_, body)| body)
}

/// Times of the track with an identifier.
fn times(moov: &[u8], track: u32) -> Option<Times> {
    let trak = boxes(moov).flatten().filter(|(kind, _)| kind == b"trak").map(|(_, body)| body).find(|trak| {
        let tkhd = child(trak, b"tkhd");
        // Version 1 has times of eight bytes in front of the identifier.
        tkhd.and_then(|tkhd| u32_at(tkhd, if tkhd.first() == Some(&1) { 20 } else { 12 })) == Some(track)
    })?;
    let mdia = child(trak, b"mdia")?;
    let stts = child(child(child(mdia, b"minf")?, b"stbl")?, b"stts")?;
    // Runs of samples of equal length.
    let total = stts.get(8..)?.chunks_exact(8).fold(0u64, |total, run| {
        let run = |at: usize| u64::from(u32_at(run, at).unwrap_or(0));
        total.saturating_add(run(0) * run(4))
    });
    let elst = child(trak, b"edts").and_then(|edts| child(edts, b"elst"));
    Some(Times { timescale: timescale(child(mdia, b"mdhd")?)?, total, edits: elst.map(edits).unwrap_or_default() })
}

/// Parts of an edit list, without those that are silence in front (their place is -1).
fn edits(elst: &[u8]) -> Vec<(u64, u64)> {
    let long = elst.first() == Some(&1);
    let entries = elst.get(8..).unwrap_or_default().chunks_exact(if long { 20 } else { 12 });
    let n_entries = u32_at(elst, 4).unwrap_or(0) as usize;
    let entries = entries.take(n_entries).filter_map(|entry| {
        let (length, first) = if long {
            (u64_at(entry, 0)?, u64_at(entry, 8)? as i64)
        } else {
            (u64::from(u32_at(entry, 0)?), i64::from(u32_at(entry, 4)? as i32))
        };
        Some((length, u64::try_from(first).ok()?))
    });
    entries.collect()
}

/// Ticks per second, from `mdhd` or `mvhd`.
fn timescale(header: &[u8]) -> Option<u64> {
    u32_at(header, if header.first() == Some(&1) { 20 } else { 12 }).map(u64::from)
}

/// Delay and length as iTunes notes them: hexadecimal numbers, the second of which is the delay and the fourth the length.
fn itunes(moov: &[u8]) -> Option<(u64, u64)> {
    let name = b"iTunSMPB";
    let at = moov.windows(name.len()).position(|window| window == name)? + name.len();
    // Then a box `data`, with eight bytes in front of the text.
    let text = child(&moov[at..], b"data")?.get(8..)?;
    let mut fields = std::str::from_utf8(text).ok()?.split_ascii_whitespace().skip(1);
    let mut number = || u64::from_str_radix(fields.next()?, 16).ok();
    let (delay, _padding, length) = (number()?, number()?, number()?);
    Some((delay, length))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}
