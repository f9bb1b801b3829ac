//! From words to a timed list of articulatory targets, each of which holds for a while.

use super::caption::is_punctuation;
use super::lexicon::pronounce;
use super::phonemes::{Manner, NEUTRAL, Noise, Phoneme};
use super::synthesiser::Aim;
use crate::rng::Stream;

/// Length of every phoneme relative to the table; sets the tempo of about a fifth of a second a word.
const PACE: f32 = 0.92;

/// The pitch of a gesture is its rise, as a fraction.
fn silence(millis: f32) -> Aim {
    Aim { millis, formants: NEUTRAL, voice: 0.0, breath: 0.0, noise: Noise::NONE, pitch: 0.0 }
}

/// What is done to say some words.
pub(super) struct Articulated {
    /// With silence around the utterance and at commas.
    pub gestures: Vec<Aim>,
    /// Gestures up to the end of the silence before, and up to the end of each word, punctuation included.
    pub ends: Vec<usize>,
}

/// The gestures of an utterance.
pub(super) fn articulate(words: &[&str], tempo: f32, stream: &mut Stream) -> Articulated {
    let mut gestures = vec![silence(stream.range(35.0, 90.0))];
    let mut ends = Vec::new();
    for (index, word) in words.iter().enumerate() {
        ends.push(gestures.len());
        if is_punctuation(word) {
            if *word == "," {
                gestures.push(silence(stream.range(40.0, 110.0)));
            }
            continue;
        }
        // The last word is drawn out, every word a little differently.
        let last = words[index + 1..].iter().all(|word| is_punctuation(word));
        let stretch = tempo * PACE * stream.range(0.88, 1.12) * if last { 1.2 } else { 1.0 };
        let accent = stream.range(0.02, 0.22);
        for name in pronounce(word).split_whitespace() {
            let stressed = name.ends_with('1');
            if let Some(phoneme) = Phoneme::named(name.trim_end_matches('1')) {
                let accent = if stressed { accent } else { 0.0 };
                add(&mut gestures, &phoneme, stretch * if stressed { 1.2 } else { 1.0 }, accent);
            }
        }
    }
    ends.push(gestures.len());
    gestures.push(silence(stream.range(40.0, 90.0)));
    for gesture in &mut gestures {
        gesture.formants = gesture.formants.map(|hertz| hertz * stream.range(0.97, 1.03));
    }
    Articulated { gestures, ends }
}

fn add(gestures: &mut Vec<Aim>, phoneme: &Phoneme, stretch: f32, accent: f32) {
    let millis = phoneme.millis * stretch;
    let mut push = |millis, formants, voice, breath, noise| {
        gestures.push(Aim { millis, formants, voice, breath, noise, pitch: accent });
    };
    match phoneme.manner {
        Manner::Vowel(from, to) => {
            let voice = if accent > 0.0 { 1.0 } else { 0.75 };
            push(millis * 0.5, from, voice, 0.0, Noise::NONE);
            push(millis * 0.5, to, voice * 0.92, 0.0, Noise::NONE);
        }
        Manner::Sonorant(formants) => push(millis, formants, 0.5, 0.0, Noise::NONE),
        Manner::Fricative { formants, noise, voice } => push(millis, formants, voice, 0.0, noise),
        Manner::Stop { formants, burst, voice } => {
            push(millis * 0.62, formants, voice, 0.0, Noise::NONE);
            push(12.0, formants, voice, 0.0, burst);
            if voice == 0.0 {
                push(millis * 0.25, formants, 0.0, 0.25, Noise { level: burst.level * 0.25, ..burst });
            }
        }
        Manner::Affricate { formants, noise, voice } => {
            push(millis * 0.42, formants, voice * 0.4, 0.0, Noise::NONE);
            push(millis * 0.58, formants, voice, 0.0, noise);
        }
        Manner::Breath => push(millis, NEUTRAL, 0.0, 0.4, Noise::NONE),
    }
}
