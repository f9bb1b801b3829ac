//! The large world: so much to learn that no part of it is learned in hundreds of millions of positions.
//!
//! It has some 9,000 words, most of them coined, drawn by Zipf's law. A noun is an outline, a pattern a surface, a place a
//! landscape, a verb a pose, a manner a trail; a name is a person, with a mark that is on what belongs to them and a voice. All
//! of that is fixed by the word alone and can be learned word by word. Captions have one to seven sentences that refer to each
//! other; speech has a person's voice, dialect and melody, and a room.
//!
//! As in the small world, a document is a pure function of (seed, index, configuration), the caption is true of the picture, and
//! the utterance says the caption.

mod caption;
mod compose;
mod english;
mod meaning;
mod prosody;
mod relations;
mod render;
mod speaker;
mod speech;
mod syllables;
mod word;
mod words;

use super::{SceneConfig, SceneDocument, Speech};
use crate::rng::{Domain, Stream};

/// Seed of the vocabulary and of what words mean.
const WORLD: u64 = 0x6c61_7267_6521;
/// Last counter of a document's streams: those of the small world have 0, meanings 16 and more.
const STREAM: u64 = 1;

/// Document `index` of `seed`.
pub(super) fn document(seed: u64, index: u64, config: &SceneConfig) -> SceneDocument {
    let stream = |domain| Stream::new(seed, domain, index, STREAM);
    let picture = compose::Picture::draw(&mut stream(Domain::Scene));
    let image = render::render(&picture, config.image_size, &mut stream(Domain::Noise));
    let words = caption::tell(&picture, &mut stream(Domain::Caption));
    let speech = match config.speech {
        Speech::Spoken => speech::speak(&words, picture.speaker, config.sample_rate, &mut stream(Domain::Voice)),
        Speech::Silent => Vec::new(),
    };
    SceneDocument { image, caption: caption::join(&words), speech }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::compose::Picture;
    use super::english::COLOURS;
    use super::meaning::Outline;
    use super::word::{Role, Word};
    use super::*;

    fn told(index: u64) -> (Picture, Vec<Word>) {
        let picture = Picture::draw(&mut Stream::new(5, Domain::Scene, index, STREAM));
        let words = caption::tell(&picture, &mut Stream::new(5, Domain::Caption, index, STREAM));
        (picture, words)
    }

    #[test]
    fn every_word_can_be_said_and_lengths_are_in_bounds() {
        let (mut total, mut kinds) = (0, BTreeSet::new());
        for index in 0..4000 {
            let (_, words) = told(index);
            let text = caption::join(&words);
            assert!((5..=62).contains(&words.len()), "{}: {text}", words.len());
            assert_eq!(words.last().map(|word| word.role), Some(Role::Stop), "{text}");
            for word in &words {
                let is_rest = matches!(word.role, Role::Comma | Role::Stop);
                assert!(is_rest || !word.phonemes.is_empty(), "{} of {text}", word.text);
                kinds.insert(word.text);
            }
            total += words.len();
        }
        assert!((24..40).contains(&(total / 4000)), "{total}");
        assert!(kinds.len() > 4500, "{}", kinds.len());
    }

    #[test]
    fn articles_and_colours_are_those_of_what_is_there() {
        for index in 0..2000 {
            let (picture, words) = told(index);
            let text = caption::join(&words);
            for pair in words.windows(2) {
                let vowel = pair[1].text.starts_with(['a', 'e', 'i', 'o', 'u']);
                match pair[0].text {
                    "a" => assert!(!vowel, "{text}"),
                    "an" => assert!(vowel, "{text}"),
                    _ => {}
                }
                // A colour before a noun is that of the thing of this noun.
                let thing = picture.things.iter().find(|thing| words::words().nouns[thing.noun].contains(&pair[1]));
                let colour = COLOURS.iter().position(|colour| colour.name() == pair[0]);
                if let (Some(thing), Some(colour)) = (thing, colour) {
                    assert_eq!(thing.colour, colour, "{text}");
                }
            }
        }
    }

    #[test]
    fn things_are_where_the_picture_says_in_the_colour_it_says() {
        let config = SceneConfig { image_size: 96, speech: Speech::Silent, ..SceneConfig::default() };
        let mut checked = 0;
        for index in 0..1600 {
            let (picture, _) = told(index);
            if picture.weather.is_some() {
                continue;
            }
            let image = document(5, index, &config).image;
            for (at, thing) in picture.things.iter().enumerate() {
                let outline = Outline::of(thing.noun);
                let plain = thing.pattern.is_none() && thing.owner.is_none() && outline.hole + outline.core == 0.0;
                for body in &thing.bodies {
                    let [x, y] = body.centre;
                    // A trail may reach over others: two radii, and three copies.
                    let hidden = picture.things[at..].iter().flat_map(|t| &t.bodies).any(|other| {
                        other != body && (other.centre[0] - x).hypot(other.centre[1] - y) < 3.5 * other.radius
                    });
                    if !plain || hidden {
                        continue;
                    }
                    let pixel = image.pixel((x * 96.0) as usize, (y * 96.0) as usize);
                    for ((value, expected), tint) in pixel.into_iter().zip(COLOURS[thing.colour].rgb).zip(body.tint) {
                        let expected = (expected + tint).clamp(0.0, 1.0);
                        assert!((f32::from(value) / 255.0 - expected).abs() < 0.04, "document {index}: {pixel:?}");
                    }
                    checked += 1;
                }
            }
        }
        assert!(checked > 40, "{checked}");
    }

    #[test]
    fn a_person_has_one_voice_and_people_have_different_ones() {
        let pitch = |name, mood| {
            let mut mood = Stream::new(mood, Domain::Voice, 0, STREAM);
            speaker::Speaker::of(name, &mut mood).pitch_hertz
        };
        for name in 0..200 {
            assert!((pitch(name, 1) / pitch(name, 2) - 1.0).abs() < 0.14);
        }
        let pitches: BTreeSet<u32> = (0..200).map(|name| (10.0 * pitch(name, 1)) as u32).collect();
        assert!(pitches.len() > 150);
    }
}
