//! From words to a timed list of targets: rhythm, accents, the melody of a sentence, and how sounds lean on their neighbours.
//!
//! A sentence's pitch falls from its beginning to its end and starts anew with the next; new content words carry accents, those
//! that were said in this document before next to none; the last word before a rest is drawn out and takes the person's own
//! step of pitch. A consonant's formants lie between its locus and its vowel (locus equations: Sussman, McCaffrey and
//! Matthews 1991); a short vowel does not reach its target (undershoot: Lindblom 1963).

use super::speaker::Speaker;
use super::word::{Role, Word};
use crate::rng::Stream;
use crate::scenes::phonemes::{Manner, NEUTRAL, Noise, Phoneme};
use crate::scenes::synthesiser::Aim;

/// A target in the making. Its pitch is relative to the speaker's.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Target {
    aim: Aim,
    /// How firmly the formants are this sound's own: 1 for a vowel.
    hold: f32,
}

fn silence(millis: f32) -> Target {
    let aim = Aim { millis, formants: NEUTRAL, voice: 0.0, breath: 0.0, noise: Noise::NONE, pitch: 1.0 };
    Target { aim, hold: 1.0 }
}

/// The targets of an utterance, with silence around it and rests at commas and full stops.
pub(super) fn articulate(words: &[Word], speaker: &Speaker, stream: &mut Stream) -> Vec<Aim> {
    let mut targets = vec![silence(stream.range(30.0, 90.0))];
    let mut said: Vec<&str> = Vec::new();
    for sentence in words.split_inclusive(|word| word.role == Role::Stop) {
        let n_words = sentence.iter().filter(|word| !is_rest(word)).count().max(1);
        let register = stream.range(0.95, 1.05);
        let mut spoken = 0;
        for (at, word) in sentence.iter().enumerate() {
            match word.role {
                Role::Comma => targets.push(silence(stream.range(50.0, 120.0))),
                Role::Stop => targets.push(silence(stream.range(120.0, 240.0))),
                Role::Content | Role::Function => {
                    let rest = sentence.get(at + 1).map(|next| next.role);
                    let place = spoken as f32 / n_words as f32;
                    let base = register * (1.0 + speaker.decline * (0.5 - place));
                    let melody = Melody::of(word, rest, said.contains(&word.text), base, speaker, stream);
                    speak_word(&mut targets, word, &melody, speaker);
                    said.push(word.text);
                    spoken += 1;
                }
            }
        }
    }
    targets.push(silence(stream.range(30.0, 70.0)));
    lean(&mut targets, speaker.lean);
    let mut apart = |formants: [f32; 3]| formants.map(|hertz| hertz * stream.range(0.975, 1.025));
    targets.into_iter().map(|Target { aim, .. }| Aim { formants: apart(aim.formants), ..aim }).collect()
}

fn is_rest(word: &Word) -> bool {
    matches!(word.role, Role::Comma | Role::Stop)
}

/// Pitch and length of a word.
struct Melody {
    base: f32,
    /// Rise on the stressed vowel.
    accent: f32,
    /// Step of the pitch at the word's end.
    step: f32,
    stretch: f32,
}

impl Melody {
    fn of(word: &Word, next: Option<Role>, is_given: bool, base: f32, speaker: &Speaker, stream: &mut Stream) -> Self {
        let step = match next {
            Some(Role::Stop) | None => speaker.boundary,
            Some(Role::Comma) => speaker.comma,
            Some(Role::Content | Role::Function) => 0.0,
        };
        let accent = match word.role {
            Role::Content if is_given => 0.25 * speaker.accent,
            Role::Content => speaker.accent * stream.range(0.7, 1.3),
            _ => 0.0,
        };
        let role = if word.role == Role::Content { 1.0 } else { 0.85 };
        let given = if is_given { 0.9 } else { 1.0 };
        let last = if step == 0.0 { 1.0 } else { 1.28 };
        Self { base, accent, step, stretch: speaker.pace * role * given * last * stream.range(0.9, 1.1) }
    }
}

fn speak_word(targets: &mut Vec<Target>, word: &Word, melody: &Melody, speaker: &Speaker) {
    let n = word.phonemes.split(' ').count();
    for (at, name) in word.phonemes.split(' ').enumerate() {
        let stressed = name.ends_with('1');
        let Some(phoneme) = speaker.say(name.trim_end_matches('1'), at + 1 == n) else { continue };
        let stretch = melody.stretch * if stressed { 1.2 } else { 1.0 };
        let end = (at + 1) as f32 / n as f32;
        // The step of the end begins in the second half of the word.
        let base = melody.base * (1.0 + melody.step * (2.0 * end - 1.0).max(0.0));
        let rise = if stressed { melody.accent } else { 0.0 };
        add(
            targets,
            &phoneme,
            stretch,
            [base * (1.0 + rise * (1.0 - 0.8 * speaker.peak)), base * (1.0 + rise * (0.2 + 0.8 * speaker.peak))],
        );
    }
}

fn add(targets: &mut Vec<Target>, phoneme: &Phoneme, stretch: f32, pitch: [f32; 2]) {
    let millis = phoneme.millis * stretch;
    let mut push = |millis, formants, voice, breath, noise, pitch, hold| {
        targets.push(Target { aim: Aim { millis, formants, voice, breath, noise, pitch }, hold });
    };
    match phoneme.manner {
        Manner::Vowel(from, to) => {
            // How much of the way is made in the time that there is.
            let reach = (1.0 - (-millis / 28.0).exp()).clamp(0.4, 1.0);
            push(millis * 0.5, from, 1.0, 0.0, Noise::NONE, pitch[0], reach);
            push(millis * 0.5, to, 0.92, 0.0, Noise::NONE, pitch[1], reach);
        }
        Manner::Sonorant(formants) => push(millis, formants, 0.5, 0.0, Noise::NONE, pitch[0], 0.75),
        Manner::Fricative { formants, noise, voice } => push(millis, formants, voice, 0.0, noise, pitch[0], 0.5),
        Manner::Stop { formants, burst, voice } => {
            push(millis * 0.62, formants, voice, 0.0, Noise::NONE, pitch[0], 0.4);
            push(12.0, formants, voice, 0.0, burst, pitch[0], 0.4);
            if voice == 0.0 {
                let breath = Noise { level: burst.level * 0.25, ..burst };
                push(millis * 0.25, formants, 0.0, 0.25, breath, pitch[0], 0.3);
            }
        }
        Manner::Affricate { formants, noise, voice } => {
            push(millis * 0.42, formants, voice * 0.4, 0.0, Noise::NONE, pitch[0], 0.5);
            push(millis * 0.58, formants, voice, 0.0, noise, pitch[0], 0.5);
        }
        Manner::Breath => push(millis, NEUTRAL, 0.0, 0.4, Noise::NONE, pitch[0], 0.05),
    }
}

/// Moves what is not held firmly towards its neighbours: the nearest vowels on both sides, the next one more.
fn lean(targets: &mut [Target], strength: f32) {
    let own: Vec<([f32; 3], f32)> = targets.iter().map(|target| (target.aim.formants, target.hold)).collect();
    let is_firm = |at: &usize| own[*at].1 >= 0.75;
    for at in 0..targets.len() {
        let loose = (1.0 - own[at].1) * if own[at].1 < 0.4 { 1.0 } else { 2.0 * strength };
        if loose <= 0.0 {
            continue;
        }
        let before = (0..at).rev().take(4).find(is_firm).map_or(NEUTRAL, |at| own[at].0);
        let behind = (at + 1..own.len()).take(4).find(is_firm).map_or(NEUTRAL, |at| own[at].0);
        let share = loose.min(0.95);
        targets[at].aim.formants = std::array::from_fn(|i| {
            let pull = 0.35 * before[i] + 0.65 * behind[i];
            own[at].0[i] + (pull - own[at].0[i]) * share
        });
    }
}
