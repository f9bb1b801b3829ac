//! Whatever symphonia decodes, packet by packet.

use std::io::Cursor;

use symphonia::core::codecs::CodecParameters;
use symphonia::core::codecs::audio::AudioDecoderOptions;
use symphonia::core::errors::Error;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatOptions, FormatReader, TrackType};
use symphonia::core::io::{MediaSource, MediaSourceStream, ReadOnlySource};
use symphonia::core::meta::MetadataOptions;
use symphonia::default::{get_codecs, get_probe};

use super::mono::Mono;
use super::{Recording, broken};
use crate::readers::Skip;

/// What came out of a file, with what its container states.
#[derive(Debug)]
pub(super) struct Decoded {
    /// All frames, delay and padding included (unless the decoder was told to cut them).
    pub mono: Mono,
    /// Identifier of the track, for containers of several.
    pub track: u32,
    /// Frames that the container states.
    pub n_frames: Option<u64>,
    /// Frames that the encoder put in front.
    pub delay: u64,
    /// Frames that the encoder put behind.
    pub padding: u64,
}

/// What a kind of file asks of its decoding.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Ask {
    /// The decoder cuts delay and padding packet by packet (Ogg).
    pub gapless: bool,
    /// Each packet states its place; none may be missing (FLAC).
    pub contiguous: bool,
    /// symphonia may read from the end. For MP3 it would then guess the length from the first frames, and cut there.
    pub seekable: bool,
}

/// FLAC, which states the number of its samples and a checksum of them.
pub(super) fn flac(bytes: &[u8]) -> Result<Recording, Skip> {
    let decoded = decode(bytes, Ask { contiguous: true, seekable: true, ..Ask::default() })?;
    exact(decoded)
}

/// AIFF, which states the number of its samples.
pub(super) fn aiff(bytes: &[u8]) -> Result<Recording, Skip> {
    exact(decode(bytes, Ask { seekable: true, ..Ask::default() })?)
}

/// ADPCM in a WAV, which is coded in whole blocks: `n_frames` of its samples are meant, if that is known.
pub(super) fn adpcm(bytes: &[u8], n_frames: Option<u64>) -> Result<Recording, Skip> {
    let mono = decode(bytes, Ask { seekable: true, ..Ask::default() })?.mono;
    match n_frames.filter(|&stated| stated > 0) {
        Some(stated) if stated > mono.frames() => Err(missing(stated, mono.frames())),
        stated => mono.finish(0, stated.unwrap_or(u64::MAX)),
    }
}

/// All frames, which must be as many as are stated.
fn exact(decoded: Decoded) -> Result<Recording, Skip> {
    let frames = decoded.mono.frames();
    match decoded.n_frames {
        // 0 stands for unknown in FLAC, and then symphonia states none.
        Some(stated) if stated != frames => Err(missing(stated, frames)),
        _ => decoded.mono.finish(0, u64::MAX),
    }
}

/// Decodes all packets of the first audio track. A packet that is damaged refuses the whole.
pub(super) fn decode(bytes: &[u8], ask: Ask) -> Result<Decoded, Skip> {
    let cursor = Cursor::new(bytes);
    let source: Box<dyn MediaSource + '_> =
        if ask.seekable { Box::new(cursor) } else { Box::new(ReadOnlySource::new(cursor)) };
    let stream = MediaSourceStream::new(source, Default::default());
    let options = FormatOptions::default();
    let mut format = get_probe().probe(&Hint::new(), stream, options, MetadataOptions::default()).map_err(refused)?;
    read(format.as_mut(), ask)
}

fn read(format: &mut (dyn FormatReader + '_), ask: Ask) -> Result<Decoded, Skip> {
    let track = format.default_track(TrackType::Audio).ok_or_else(|| broken("no audio track"))?;
    let Some(CodecParameters::Audio(parameters)) = &track.codec_params else {
        return Err(broken("an audio track of an unknown codec"));
    };
    let options = AudioDecoderOptions::default().gapless(ask.gapless).verify(true);
    let mut decoder = get_codecs().make_audio_decoder(parameters, &options).map_err(refused)?;
    let (id, n_frames) = (track.id, track.num_frames);
    let (delay, padding) = (track.delay.unwrap_or(0), track.padding.unwrap_or(0));
    let mut mono: Option<Mono> = None;
    let mut interleaved: Vec<f32> = Vec::new();
    while let Some(packet) = format.next_packet().map_err(refused)? {
        if packet.track_id != id {
            continue;
        }
        let so_far = mono.as_ref().map_or(0, Mono::frames);
        if ask.contiguous && packet.pts.get() != so_far as i64 {
            return Err(broken(format!("damaged: samples are missing from sample {so_far} on")));
        }
        let buffer = decoder.decode(&packet).map_err(|error| broken(format!("damaged at sample {so_far}: {error}")))?;
        let (rate, channels) = (buffer.spec().rate(), buffer.spec().channels().count());
        let mono = match &mut mono {
            Some(mono) => mono,
            None => mono.insert(Mono::new(rate, channels, 0)?),
        };
        if !mono.fits(rate, channels) {
            return Err(broken(format!("rate or channels change at sample {so_far}")));
        }
        buffer.copy_to_vec_interleaved(&mut interleaved);
        mono.extend(&interleaved)?;
    }
    if decoder.finalize().verify_ok == Some(false) {
        return Err(broken("damaged: the samples do not match their checksum"));
    }
    let mono = match mono {
        Some(mono) => mono,
        // No packet at all: nothing tells the channels, and nothing is lost by a guess.
        None => Mono::new(*super::SAMPLE_RATES.start(), 1, 0)?,
    };
    Ok(Decoded { mono, track: id, n_frames, delay: u64::from(delay), padding: u64::from(padding) })
}

/// Refuses a recording of another length than it states.
pub(super) fn missing(stated: u64, found: u64) -> Skip {
    broken(format!("{stated} samples are stated, {found} are there"))
}

fn refused(error: Error) -> Skip {
    match error {
        Error::ResetRequired => broken("several recordings one behind the other"),
        Error::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            broken("truncated, or of no known format")
        }
        error => broken(error.to_string()),
    }
}
