//! Voices of the small world: eight speakers, each a little different every time.
//!
//! The pitch declines over the utterance, rises on stressed vowels and trembles.

use super::gestures::{Articulated, articulate};
use super::synthesiser::{PitchCourse, Throat, White};
use crate::rng::Stream;

/// A speaker, as drawn for one utterance.
#[derive(Debug, Clone, Copy)]
pub(super) struct Voice {
    speaker: usize,
    pitch_hertz: f32,
    throat: Throat,
    tempo: f32,
}

/// Speakers that there are.
pub(super) const N_SPEAKERS: usize = 8;

/// Pitch in Hz, tract scale, breathiness and tilt of each speaker.
const SPEAKERS: [[f32; 4]; N_SPEAKERS] = [
    [92.0, 0.92, 0.02, 0.30],
    [104.0, 0.97, 0.05, 0.15],
    [118.0, 1.00, 0.03, 0.35],
    [133.0, 1.03, 0.08, 0.20],
    [178.0, 1.10, 0.06, 0.30],
    [197.0, 1.14, 0.03, 0.15],
    [216.0, 1.17, 0.10, 0.35],
    [240.0, 1.22, 0.05, 0.20],
];

impl Voice {
    fn draw(stream: &mut Stream) -> Self {
        let speaker = stream.below(SPEAKERS.len());
        let [pitch_hertz, tract, breathiness, tilt] = SPEAKERS[speaker];
        let pitch_hertz = pitch_hertz * stream.range(0.95, 1.05);
        let tract = [tract * stream.range(0.98, 1.02); 3];
        let throat = Throat { tract, width: 1.0, breathiness, open: stream.range(0.55, 0.7), tilt };
        Self { speaker, pitch_hertz, throat, tempo: stream.range(0.85, 1.15) }
    }
}

/// Words that were spoken.
pub(super) struct Utterance {
    /// Mono samples in (-1, 1).
    pub wave: Vec<f32>,
    /// Which of the speakers it is.
    pub speaker: usize,
    /// Seconds at which the silence before ends, and each word, punctuation included.
    pub ends: Vec<f32>,
}

/// Speaks words.
pub(super) fn speak(words: &[&str], sample_rate: u32, stream: &mut Stream) -> Utterance {
    let voice = Voice::draw(stream);
    let Articulated { gestures, ends } = articulate(words, voice.tempo, stream);
    let mut tremble = 0.0;
    let course = PitchCourse { first: 0.0, millis: 35.0 };
    let frames = voice.throat.glide(&gestures, course, |accent, now, total| {
        tremble = 0.9 * tremble + stream.range(-0.006, 0.006);
        let decline = 1.10 - 0.24 * now / total;
        voice.pitch_hertz * decline * (1.0 + accent + tremble)
    });
    let mut wave = voice.throat.sound(&frames, sample_rate, White::new(stream.word()));
    finish(&mut wave, stream);
    let secs = |end: &usize| gestures[..*end].iter().map(|gesture| gesture.millis).sum::<f32>() / 1000.0;
    Utterance { wave, speaker: voice.speaker, ends: ends.iter().map(secs).collect() }
}

/// Takes out the mean, sets the peak to between 0.5 and 0.9, and adds the hiss of a room.
fn finish(wave: &mut [f32], stream: &mut Stream) {
    let mean = wave.iter().sum::<f32>() / wave.len().max(1) as f32;
    let peak = wave.iter().fold(1e-6f32, |peak, value| peak.max((value - mean).abs()));
    let scale = stream.range(0.5, 0.9) / peak;
    let hiss = stream.range(0.0005, 0.003);
    let mut bytes = vec![0; wave.len()];
    stream.fill(&mut bytes);
    for (value, byte) in wave.iter_mut().zip(bytes) {
        *value = (*value - mean) * scale + hiss * (f32::from(byte) / 127.5 - 1.0);
    }
}
