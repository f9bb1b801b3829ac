//! Recordings of any kind become mono samples.
//!
//! WAV (also RF64), FLAC, MP3, Ogg Vorbis, Ogg FLAC, AAC and ALAC in MP4, AAC as it is streamed (ADTS), AIFF, and Opus with
//! the feature `opus`; told by their bytes. An encoder's delay and padding are cut off where the file states them. A
//! recording of which a part is damaged or missing is refused, never shortened.

mod frames;
mod mono;
mod mp4;
mod ogg;
#[cfg(feature = "opus")]
mod opus;
mod packets;
mod page;
mod pcm;
mod resample;
mod wav;

use serde::Serialize;

use crate::readers::{Skip, SkipReason};

pub use resample::resample;

/// Samples per channel of the longest recording that is read: two hours at 48 kHz.
pub const MAX_FRAMES: u64 = 2 * 3600 * 48_000;

/// Sample rates that are read and made, in Hz.
pub const SAMPLE_RATES: std::ops::RangeInclusive<u32> = 1_000..=768_000;

/// Largest absolute value of a sample, full scale 1.0. Floats may exceed full scale; what exceeds it by more than 42 dB is
/// no recording, or one of another scale.
pub const MAX_LEVEL: f32 = 128.0;

/// A recording as its file holds it, mixed to mono.
#[derive(Debug, Clone, PartialEq)]
pub struct Recording {
    /// Rate, channels, frames and loudness.
    pub facts: AudioFacts,
    /// Mean of all channels, full scale 1.0, at `facts.sample_rate`.
    pub mono: Vec<f32>,
}

/// What `inspect` tells of a recording.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct AudioFacts {
    /// In Hz.
    pub sample_rate: u32,
    /// Channels of the file.
    pub channels: u16,
    /// Samples per channel, without an encoder's delay and padding where the file states them.
    pub frames: u64,
    /// `frames / sample_rate`.
    pub seconds: f64,
    /// Root mean square of the mono mix.
    pub rms: f64,
}

/// Decodes a recording. `name` helps where the bytes do not tell the format.
///
/// # Errors
/// A [`Skip`] with the decoder's words.
pub fn decode(bytes: &[u8], name: &str) -> Result<Recording, Skip> {
    super::guarded(SkipReason::BrokenAudio, || {
        let bytes = frames::behind_id3(bytes);
        let begins = |at: usize, with: &[u8]| bytes.get(at..).is_some_and(|rest| rest.starts_with(with));
        if bytes.is_empty() {
            Err(broken("the file is empty"))
        } else if begins(8, b"WAVE") && (begins(0, b"RIFF") || begins(0, b"RF64") || begins(0, b"BW64")) {
            wav::decode(bytes)
        } else if begins(0, b"fLaC") {
            packets::flac(bytes)
        } else if begins(0, b"OggS") {
            ogg::decode(bytes)
        } else if begins(4, b"ftyp") {
            mp4::decode(bytes)
        } else if begins(0, b"FORM") && begins(8, b"AIF") {
            packets::aiff(bytes)
        } else {
            frames::decode(bytes, name)
        }
    })
}

fn broken(words: impl Into<String>) -> Skip {
    Skip::new(SkipReason::BrokenAudio, words)
}
