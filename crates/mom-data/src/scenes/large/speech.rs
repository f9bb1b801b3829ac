//! Speaks a caption of the large world: the synthesiser ([`crate::scenes::synthesiser`]) with a person's voice, a melody, and a
//! room. A room is three feedback echoes (combs, after Schroeder 1962), coloured noise, perhaps a hum, and a dull recorder.

use std::f32::consts::TAU;

use super::prosody::articulate;
use super::speaker::{Room, Speaker};
use super::word::Word;
use crate::rng::Stream;
use crate::scenes::synthesiser::{PitchCourse, White};

/// Speaks words: mono samples in (-1, 1).
pub(super) fn speak(words: &[Word], name: usize, sample_rate: u32, stream: &mut Stream) -> Vec<f32> {
    let speaker = Speaker::of(name, stream);
    let room = Room::draw(stream);
    let targets = articulate(words, &speaker, stream);
    let (mut drift, phase, [depth, hertz]) = (0.0, stream.range(0.0, TAU), speaker.tremor);
    let course = PitchCourse { first: 1.0, millis: 30.0 };
    let frames = speaker.throat.glide(&targets, course, |pitch, now, _| {
        drift = 0.9 * drift + stream.range(-0.006, 0.006);
        let tremor = depth * (TAU * hertz * now / 1000.0 + phase).sin();
        speaker.pitch_hertz * pitch * (1.0 + tremor + drift)
    });
    let mut wave = speaker.throat.sound(&frames, sample_rate, White::new(stream.word()));
    record(&mut wave, &room, sample_rate, stream);
    wave
}

/// What the room makes of a voice: echoes, noise, and a peak between 0.5 and 0.9.
fn record(wave: &mut [f32], room: &Room, sample_rate: u32, stream: &mut Stream) {
    let rate = sample_rate as f32;
    if room.wet > 0.0 {
        let mut echoes = room.delays.map(|millis| (vec![0.0f32; ((millis * rate / 1000.0) as usize).max(1)], 0usize));
        for value in wave.iter_mut() {
            let mut back = 0.0;
            for (line, at) in &mut echoes {
                let heard = line[*at];
                line[*at] = *value + room.feedback * heard;
                *at = if *at + 1 == line.len() { 0 } else { *at + 1 };
                back += heard;
            }
            *value = *value * (1.0 - room.wet) + back * room.wet / 3.0;
        }
    }
    let mut dulled = 0.0;
    for value in wave.iter_mut() {
        dulled += (1.0 - room.dull) * (*value - dulled);
        *value = dulled;
    }
    let mean = wave.iter().sum::<f32>() / wave.len().max(1) as f32;
    let peak = wave.iter().fold(1e-6f32, |peak, value| peak.max((value - mean).abs()));
    let gain = stream.range(0.5, 0.85) / peak;
    // Noise of one loudness, whatever its colour.
    let level = room.noise * ((1.0 + room.colour) / (1.0 - room.colour)).sqrt();
    let mut noise = White::new(stream.word());
    let (mut coloured, mut turn) = (0.0f32, stream.range(0.0, 1.0));
    for value in wave.iter_mut() {
        coloured += (1.0 - room.colour) * (noise.next() - coloured);
        turn += room.hum[0] / rate;
        turn -= turn.floor();
        let hum = room.hum[1] * (TAU * turn).sin();
        *value = ((*value - mean) * gain + level * coloured + hum).clamp(-0.99, 0.99);
    }
}
