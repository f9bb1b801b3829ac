//! Who speaks, in which dialect, and in what room.
//!
//! A name is a person: the voice is a function of it, the same in every document in which that person speaks. What differs from
//! one document to the next is the mood, the room and the noise.

use super::meaning::{Kind, stream};
use super::words::zipf;
use crate::rng::Stream;
use crate::scenes::phonemes::{Manner, Phoneme};
use crate::scenes::synthesiser::Throat;

/// Dialects that there are.
const N_DIALECTS: usize = 24;
/// Rooms that there are.
const N_ROOMS: usize = 200;

/// A person's voice, and the mood of a document.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Speaker {
    pub pitch_hertz: f32,
    /// Throat and mouth differ: each formant has a factor of its own.
    pub throat: Throat,
    /// Length of everything relative to the table.
    pub pace: f32,
    /// Trembling of the pitch: depth, and Hz.
    pub tremor: [f32; 2],
    /// Fall of the pitch over a sentence, as a fraction.
    pub decline: f32,
    /// Rise of the pitch on an accent.
    pub accent: f32,
    /// How early in its vowel an accent peaks: 0 at once, 1 at the end.
    pub peak: f32,
    /// Step of the pitch at the end of a sentence: a fall, or of some people a rise.
    pub boundary: f32,
    /// The same at a comma.
    pub comma: f32,
    /// How far consonants lean to their vowels.
    pub lean: f32,
    dialect: Dialect,
}

impl Speaker {
    /// The person of a name, in a mood.
    pub fn of(name: usize, mood: &mut Stream) -> Self {
        let mut s = stream(Kind::Speaker, name);
        let high = s.chance(0.5);
        let pitch = if high { s.range(165.0, 270.0) } else { s.range(78.0, 150.0) };
        let tract = if high { s.range(1.04, 1.26) } else { s.range(0.86, 1.06) };
        Self {
            pitch_hertz: pitch * mood.range(0.94, 1.06),
            throat: Throat {
                tract: std::array::from_fn(|_| tract * s.range(0.94, 1.06)),
                width: s.range(0.75, 1.6),
                breathiness: s.range(0.01, 0.16),
                open: s.range(0.45, 0.75),
                tilt: s.range(0.1, 0.5),
            },
            pace: s.range(0.72, 1.0) * mood.range(0.92, 1.08),
            tremor: [s.range(0.0, 0.025), s.range(3.0, 7.0)],
            decline: s.range(0.08, 0.32),
            accent: s.range(0.06, 0.34) * mood.range(0.8, 1.2),
            peak: s.range(0.0, 1.0),
            boundary: if s.chance(0.25) { s.range(0.05, 0.3) } else { s.range(-0.25, -0.05) },
            comma: s.range(-0.1, 0.25),
            lean: s.range(0.2, 0.55),
            dialect: Dialect::of(zipf(&mut s, N_DIALECTS)),
        }
    }

    /// A phoneme as this person says it; `None` where it falls away. `last` tells whether it ends its word.
    pub fn say(&self, name: &str, last: bool) -> Option<Phoneme> {
        let name = self.dialect.replace(name, last)?;
        let mut phoneme = Phoneme::named(name)?;
        if let Manner::Vowel(from, to) = &mut phoneme.manner {
            let [first, second] = self.dialect.shift(name);
            for formants in [from, to] {
                formants[0] *= first;
                formants[1] = (formants[1] * second).min(formants[2] - 150.0);
            }
        }
        Some(phoneme)
    }
}

/// A dialect: where its vowels lie, and what it makes of consonants.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Dialect {
    rank: usize,
    /// What becomes of TH and DH, of R behind a vowel, of W, of final NG, of final voiced stops, of H.
    habits: [usize; 6],
}

const VOWELS: [&str; 16] =
    ["AA", "AE", "AH", "AO", "AX", "EH", "ER", "IH", "IY", "UH", "UW", "AW", "AY", "EY", "OW", "OY"];

impl Dialect {
    fn of(rank: usize) -> Self {
        let mut s = stream(Kind::Dialect, rank);
        let habits = [s.below(4), s.below(2), s.below(3), s.below(2), s.below(3), s.below(4)];
        Self { rank, habits }
    }

    fn replace<'a>(&self, name: &'a str, last: bool) -> Option<&'a str> {
        let [th, r, w, ng, stops, h] = self.habits;
        Some(match name {
            "TH" => ["TH", "T", "F", "S"][th],
            "DH" => ["DH", "D", "V", "Z"][th],
            "R" if last && r == 1 => return None,
            "W" if w == 1 => "V",
            "NG" if last && ng == 1 => "N",
            "B" if last && stops == 1 => "P",
            "D" if last && stops == 1 => "T",
            "G" if last && stops == 1 => "K",
            "Z" if last && stops == 1 => "S",
            "HH" if h == 1 => return None,
            same => same,
        })
    }

    /// Factors of a vowel's first two formants.
    fn shift(&self, name: &str) -> [f32; 2] {
        let vowel = VOWELS.iter().position(|&vowel| vowel == name).unwrap_or(0);
        let mut s = stream(Kind::Dialect, N_DIALECTS + self.rank * VOWELS.len() + vowel);
        [s.range(0.86, 1.16), s.range(0.86, 1.14)]
    }
}

/// Where it is recorded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Room {
    /// Delays of three echoes, in milliseconds.
    pub delays: [f32; 3],
    /// What comes back each time.
    pub feedback: f32,
    /// Share of the echoes.
    pub wet: f32,
    /// Pole of the low-pass that the noise runs through.
    pub colour: f32,
    /// Level of the noise, of the peak.
    pub noise: f32,
    /// A hum: Hz and level.
    pub hum: [f32; 2],
    /// Pole of the low-pass of the recorder.
    pub dull: f32,
}

impl Room {
    /// Draws a room, and how loud it is there today.
    pub fn draw(mood: &mut Stream) -> Self {
        let mut s = stream(Kind::Room, zipf(mood, N_ROOMS));
        let size = s.range(0.4, 1.6);
        Self {
            delays: [s.range(17.0, 25.0) * size, s.range(27.0, 39.0) * size, s.range(41.0, 59.0) * size],
            feedback: s.range(0.1, 0.62),
            wet: if s.chance(0.3) { 0.0 } else { s.range(0.05, 0.4) },
            colour: s.range(0.0, 0.95),
            noise: (s.range(-7.0, -3.2) + mood.range(-0.4, 0.4)).exp(),
            hum: [s.range(45.0, 130.0), if s.chance(0.3) { s.range(0.002, 0.02) } else { 0.0 }],
            dull: if s.chance(0.4) { s.range(0.0, 0.6) } else { 0.0 },
        }
    }
}
