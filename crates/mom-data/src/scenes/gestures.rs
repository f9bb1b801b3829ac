//! From words to a timed list of articulatory targets.

use super::caption::is_punctuation;
use super::lexicon::pronounce;
use super::phonemes::{Manner, Noise, Phoneme};
use crate::rng::Stream;

/// Targets that hold for a while; the synthesiser moves smoothly from one to the next.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gesture {
    pub millis: f32,
    pub formants: [f32; 3],
    /// Level of the voice.
    pub voice: f32,
    /// Level of breath through the formants.
    pub breath: f32,
    /// Noise at a constriction.
    pub noise: Noise,
    /// Rise of the pitch, as a fraction.
    pub accent: f32,
}

const NO_NOISE: Noise = Noise { hertz: 2500.0, width_hertz: 1000.0, level: 0.0 };
const NEUTRAL: [f32; 3] = [500.0, 1500.0, 2500.0];

/// Length of every phoneme relative to the table; sets the tempo of about a fifth of a second a word.
const PACE: f32 = 0.92;

impl Gesture {
    fn silence(millis: f32) -> Self {
        Self { millis, formants: NEUTRAL, voice: 0.0, breath: 0.0, noise: NO_NOISE, accent: 0.0 }
    }
}

/// The gestures of an utterance, with silence around it and at commas.
pub(super) fn articulate(words: &[&str], tempo: f32, stream: &mut Stream) -> Vec<Gesture> {
    let mut gestures = vec![Gesture::silence(stream.range(35.0, 90.0))];
    for (index, word) in words.iter().enumerate() {
        if is_punctuation(word) {
            if *word == "," {
                gestures.push(Gesture::silence(stream.range(40.0, 110.0)));
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
    gestures.push(Gesture::silence(stream.range(40.0, 90.0)));
    for gesture in &mut gestures {
        gesture.formants = gesture.formants.map(|hertz| hertz * stream.range(0.97, 1.03));
    }
    gestures
}

fn add(gestures: &mut Vec<Gesture>, phoneme: &Phoneme, stretch: f32, accent: f32) {
    let millis = phoneme.millis * stretch;
    let mut push = |millis, formants, voice, breath, noise| {
        gestures.push(Gesture { millis, formants, voice, breath, noise, accent });
    };
    match phoneme.manner {
        Manner::Vowel(from, to) => {
            let voice = if accent > 0.0 { 1.0 } else { 0.75 };
            push(millis * 0.5, from, voice, 0.0, NO_NOISE);
            push(millis * 0.5, to, voice * 0.92, 0.0, NO_NOISE);
        }
        Manner::Sonorant(formants) => push(millis, formants, 0.5, 0.0, NO_NOISE),
        Manner::Fricative { formants, noise, voice } => push(millis, formants, voice, 0.0, noise),
        Manner::Stop { formants, burst, voice } => {
            push(millis * 0.62, formants, voice, 0.0, NO_NOISE);
            push(12.0, formants, voice, 0.0, burst);
            if voice == 0.0 {
                push(millis * 0.25, formants, 0.0, 0.25, Noise { level: burst.level * 0.25, ..burst });
            }
        }
        Manner::Affricate { formants, noise, voice } => {
            push(millis * 0.42, formants, voice * 0.4, 0.0, NO_NOISE);
            push(millis * 0.58, formants, voice, 0.0, noise);
        }
        Manner::Breath => push(millis, NEUTRAL, 0.0, 0.4, NO_NOISE),
    }
}
