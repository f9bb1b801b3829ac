//! An endless stream of generated documents: a scene as an image, as a sentence about it, and as that sentence spoken.
//!
//! Document i of seed s is a pure function of (s, i) and the configuration. The image, the caption and the utterance share
//! what the scene holds and nothing else: each also has variation of its own (places, jitter and grain; synonyms and
//! omissions; voice, tempo and noise) that the others do not tell.

mod caption;
mod compose;
mod gestures;
mod kinds;
mod large;
mod lexicon;
mod outline;
mod phonemes;
mod reader;
mod relations;
mod render;
mod speech;
mod synthesiser;
pub mod truth;
mod words;
mod write;

use serde::{Deserialize, Serialize};

pub use compose::{Group, Object, Scene};
pub use kinds::{Background, Colour, Ground, Shade, Shape, Size, Sky, Texture};
pub use reader::{SceneReader, SceneSource};
pub use relations::Relation;
pub use write::{ImageFormat, ShardOptions, WriteSummary, write_shards};

use crate::error::require;
use crate::pixels::RgbImage;
use crate::rng::{Domain, Stream};
use crate::{DataError, Result};

/// Raised whenever a document of the same seed and index would differ, in the small world.
pub const GENERATOR_VERSION: u32 = 1;
/// The same of the large world.
pub const LARGE_WORLD_VERSION: u32 = 1;

/// What generated documents look and sound like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SceneConfig {
    /// Side of the image, in pixels.
    pub image_size: usize,
    /// Rate of the waveform, in Hz.
    pub sample_rate: u32,
    /// Whether the caption is spoken.
    pub speech: Speech,
    /// How much there is to learn.
    #[serde(skip_serializing_if = "World::is_small")]
    pub world: World,
}

/// How much there is in the world that is shown, told and spoken of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum World {
    /// Ten shapes, some 200 words, eight voices: a small model learns most of it in some million positions.
    #[default]
    Small,
    /// Some 9,000 words with a look of their own, thousands of voices, captions of several sentences.
    Large,
}

impl World {
    /// What is not written down, so that shards and sources of the small world are known by what they were known by before.
    pub(crate) fn is_small(&self) -> bool {
        *self == Self::Small
    }

    /// Raised whenever a document of the same seed and index would differ.
    pub const fn version(self) -> u32 {
        match self {
            Self::Small => GENERATOR_VERSION,
            Self::Large => LARGE_WORLD_VERSION,
        }
    }
}

/// Whether captions are spoken. The rest of a document is the same either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Speech {
    /// Documents have a waveform.
    #[default]
    Spoken,
    /// Documents have none, and take less time and space.
    Silent,
}

/// `small` or `large`.
impl std::str::FromStr for World {
    type Err = DataError;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "small" => Ok(Self::Small),
            "large" => Ok(Self::Large),
            other => Err(DataError::Config {
                field: "scenes.world",
                expected: "small or large".to_owned(),
                got: other.chars().take(40).collect(),
            }),
        }
    }
}

impl Default for SceneConfig {
    fn default() -> Self {
        Self { image_size: 32, sample_rate: 8000, speech: Speech::Spoken, world: World::Small }
    }
}

impl SceneConfig {
    /// Checks every value.
    ///
    /// # Errors
    /// [`crate::DataError::Config`], naming the field.
    pub fn validate(&self) -> Result<()> {
        require((8..=1024).contains(&self.image_size), "scenes.image_size", "8 to 1024 pixels", self.image_size)?;
        require((8000..=48_000).contains(&self.sample_rate), "scenes.sample_rate", "8000 to 48000 Hz", self.sample_rate)
    }
}

/// A generated document.
#[derive(Debug, Clone, PartialEq)]
pub struct SceneDocument {
    /// The picture, `image_size` x `image_size`.
    pub image: RgbImage,
    /// In lower case: one English sentence of 8 to 22 words, in the large world several.
    pub caption: String,
    /// The caption spoken: mono samples in (-1, 1) at `sample_rate`; empty if [`Speech::Silent`].
    pub speech: Vec<f32>,
}

/// What document `index` of `seed` shows, in the small world.
pub fn scene(seed: u64, index: u64) -> Scene {
    Scene::draw(&mut Stream::new(seed, Domain::Scene, index, 0))
}

/// Document `index` of `seed`. Defined for every index; cheap enough to make on the fly.
pub fn document(seed: u64, index: u64, config: &SceneConfig) -> SceneDocument {
    if config.world == World::Large {
        return large::document(seed, index, config);
    }
    let scene = scene(seed, index);
    let image = render::render(&scene, config.image_size, &mut Stream::new(seed, Domain::Noise, index, 0));
    let words = caption::describe(&scene, &mut Stream::new(seed, Domain::Caption, index, 0));
    let speech = match config.speech {
        Speech::Spoken => {
            speech::speak(&words, config.sample_rate, &mut Stream::new(seed, Domain::Voice, index, 0)).wave
        }
        Speech::Silent => Vec::new(),
    };
    SceneDocument { image, caption: caption::join(&words), speech }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captions(n: u64) -> impl Iterator<Item = Vec<&'static str>> {
        (0..n).map(|index| caption::describe(&scene(11, index), &mut Stream::new(11, Domain::Caption, index, 0)))
    }

    #[test]
    fn every_word_can_be_spoken_and_every_length_is_in_bounds() {
        for words in captions(4000) {
            let spoken: Vec<_> = words.iter().filter(|word| !caption::is_punctuation(word)).collect();
            assert!((8..=22).contains(&spoken.len()), "{}", caption::join(&words));
            for word in spoken {
                assert!(!lexicon::pronounce(word).is_empty(), "{word} is not in the lexicon");
            }
        }
    }

    #[test]
    fn articles_numbers_and_verbs_agree() {
        let nouns: Vec<[&str; 2]> = Shape::ALL.iter().flat_map(|&shape| words::nouns(shape).iter().copied()).collect();
        let singular = |word: &str| nouns.iter().any(|noun| noun[0] == word);
        let plural = |word: &str| nouns.iter().any(|noun| noun[1] == word);
        let mut checked = 0;
        for caption in captions(4000) {
            let text = caption::join(&caption);
            for (at, pair) in caption.windows(2).enumerate() {
                let [word, next] = [pair[0], pair[1]];
                if matches!(word, "a" | "an") {
                    assert_eq!(word, words::article(next), "{text}");
                }
                // The noun that belongs to a number or an article is the next noun of either number.
                let noun = caption[at + 1..].iter().find(|word| singular(word) || plural(word));
                let many = matches!(word, "two" | "three" | "four" | "pair") && next != "shapes";
                if many {
                    assert!(noun.is_some_and(|noun| plural(noun)), "{text}");
                    checked += 1;
                }
                // In "above a star float two rings" the subject comes behind its verb.
                let subject_first = matches!(caption[0], "a" | "an" | "two" | "three" | "four" | "while");
                if let Some(verb) = words::VERBS.iter().find(|verb| subject_first && verb.contains(&next)) {
                    let expected = if singular(word) {
                        Some(verb[0])
                    } else if plural(word) {
                        Some(verb[1])
                    } else {
                        None
                    };
                    assert!(expected.is_none_or(|expected| expected == next), "{text}");
                    checked += 1;
                }
                if (word, next) == ("there", "is") {
                    assert!(matches!(caption[at + 2], "a" | "an"), "{text}");
                }
                if (word, next) == ("there", "are") {
                    assert!(matches!(caption[at + 2], "two" | "three" | "four"), "{text}");
                }
            }
        }
        assert!(checked > 4000);
    }

    #[test]
    fn formants_tell_vowels_apart() {
        // Power within a band, in the middle of the utterance of one word.
        let band = |word: &str, low: f32, high: f32| -> f32 {
            let power = |seed| {
                let wave = speech::speak(&[word], 8000, &mut Stream::new(seed, Domain::Voice, 0, 0)).wave;
                let middle = &wave[wave.len() / 2 - 400..wave.len() / 2 + 400];
                let bins = (low as usize / 10..high as usize / 10).map(|bin| {
                    let step = std::f32::consts::TAU * bin as f32 * 10.0 / 8000.0;
                    let (re, im) = middle.iter().enumerate().fold((0.0, 0.0), |(re, im), (i, value)| {
                        (re + value * (step * i as f32).cos(), im + value * (step * i as f32).sin())
                    });
                    re * re + im * im
                });
                bins.sum::<f32>()
            };
            (0..8).map(power).sum()
        };
        let ratio = |word| band(word, 200.0, 450.0) / band(word, 600.0, 1000.0);
        // Low first formant in "teal", high one in "large".
        assert!(ratio("teal") > 4.0 * ratio("large"), "{} {}", ratio("teal"), ratio("large"));
    }
}
