//! Opus in Ogg (RFC 7845), decoded at 48 kHz.

use std::borrow::Cow;

use opus_rs::multistream::{ChannelMappingTable, MultistreamDecoder};

use super::mono::Mono;
use super::packets;
use super::page::Page;
use super::{Recording, broken};
use crate::readers::Skip;

/// Rate that Opus is decoded at and counts samples in.
const RATE: u32 = 48_000;

/// In a mapping: a channel of silence.
const SILENT: u8 = 255;

/// Samples per channel of the longest packet, 120 ms.
const MAX_PACKET_FRAMES: usize = 5760;

/// What the first packet states.
struct Head {
    channels: usize,
    /// Samples to drop at the beginning.
    pre_skip: u64,
    gain: f32,
    /// Which streams a packet holds, and which of their channels are those of the recording.
    mapping: ChannelMappingTable,
}

/// Decodes the pages of one stream.
pub(super) fn decode<'a>(pages: impl Iterator<Item = &'a Page<'a>>) -> Result<Recording, Skip> {
    let pages: Vec<&Page<'_>> = pages.collect();
    let all = split(&pages);
    let [(head, _), _tags, sound @ ..] = all.as_slice() else {
        return Err(broken("Opus without its two headers"));
    };
    let head = Head::of(head).ok_or_else(|| broken("an Opus header that is not known"))?;
    let channels = head.channels;
    let mut decoder = MultistreamDecoder::new(RATE as i32, head.mapping).map_err(broken)?;
    let mut mono = Mono::new(RATE, channels, 0)?;
    let mut pcm = vec![0.0; MAX_PACKET_FRAMES * channels];
    // Where the recording begins: 0, or later for one that was cut out of a longer one.
    let mut start = None;
    let mut n_frames = 0;
    for (index, (packet, page)) in sound.iter().enumerate() {
        // A packet of nothing is a pause as long as the packet before; any other tells its length.
        let room = if packet.is_empty() { n_frames } else { MAX_PACKET_FRAMES };
        n_frames = decoder
            .decode(packet, room, &mut pcm)
            .map_err(|error| broken(format!("damaged at sample {}: {error}", mono.frames())))?;
        let values = pcm.get_mut(..n_frames * channels).unwrap_or_default();
        values.iter_mut().for_each(|value| *value *= head.gain);
        mono.extend(values)?;
        let last_of_page = sound.get(index + 1).is_none_or(|(_, next)| next != page);
        if last_of_page && start.is_none() {
            // On the last page the granule is lower than the samples on it: there it says where the recording ends.
            let first = pages[*page];
            start = first.granule.map(|granule| if first.ends { 0 } else { granule.saturating_sub(mono.frames()) });
        }
    }
    let end = pages.iter().rev().find_map(|page| page.granule).unwrap_or(0);
    let stated = end.saturating_sub(start.unwrap_or(0));
    if stated > mono.frames() {
        return Err(packets::missing(stated, mono.frames()));
    }
    mono.finish(head.pre_skip, stated.saturating_sub(head.pre_skip))
}

impl Head {
    fn of(packet: &[u8]) -> Option<Self> {
        let (fixed, rest) = packet.split_at_checked(19)?;
        // Only the upper four bits of the version are bound to be understood.
        if !fixed.starts_with(b"OpusHead") || fixed[8] >> 4 != 0 {
            return None;
        }
        let channels = fixed[9];
        let mapping = match (fixed[18], channels) {
            (0, 1) => ChannelMappingTable { channels, stream_count: 1, coupled_count: 0, mapping: vec![0] },
            (0, 2) => ChannelMappingTable { channels, stream_count: 1, coupled_count: 1, mapping: vec![0, 1] },
            (family @ (1 | 255), 1..) => ChannelMappingTable::parse(family, channels, rest)?,
            _ => return None,
        };
        // A coupled stream has two channels.
        let n_decoded = u32::from(mapping.stream_count) + u32::from(mapping.coupled_count);
        let there = |&channel: &u8| channel == SILENT || u32::from(channel) < n_decoded;
        if mapping.coupled_count > mapping.stream_count || !mapping.mapping.iter().all(there) {
            return None;
        }
        // In 1/256 dB.
        let gain = f32::from(i16::from_le_bytes([fixed[16], fixed[17]])) / 256.0;
        Some(Self {
            channels: usize::from(channels),
            pre_skip: u64::from(u16::from_le_bytes([fixed[10], fixed[11]])),
            gain: 10f32.powf(gain / 20.0),
            mapping,
        })
    }
}

/// Packets of one stream's pages, each with the number of the page that it ends on.
fn split<'a>(pages: &[&Page<'a>]) -> Vec<(Cow<'a, [u8]>, usize)> {
    let mut packets = Vec::new();
    let mut part: Vec<u8> = Vec::new();
    for (number, page) in pages.iter().enumerate() {
        let (mut start, mut end) = (0, 0);
        for &len in page.lacing {
            end += usize::from(len);
            if len == 255 {
                continue;
            }
            let piece = &page.body[start..end];
            start = end;
            if part.is_empty() {
                packets.push((Cow::Borrowed(piece), number));
            } else {
                part.extend_from_slice(piece);
                packets.push((Cow::Owned(std::mem::take(&mut part)), number));
            }
        }
        part.extend_from_slice(&page.body[start..]);
    }
    packets
}
