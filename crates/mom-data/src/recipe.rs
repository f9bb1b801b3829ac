//! How a sample becomes a document: the three settings of the paper.
//!
//! Every document starts with begin-of-document. Parts follow in a drawn order: the caption as text tokens, the image
//! between begin-image and end-image (as codes, or as continuous patches), the utterance as units between begin-speech
//! and end-speech.

use serde::{Deserialize, Serialize};

use crate::error::require;
use crate::rng::Stream;
use crate::{Result, Special};

/// A setting, with its probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "setting", rename_all = "snake_case", deny_unknown_fields)]
pub enum Recipe {
    /// Caption tokens and an image of continuous patches.
    Transfusion {
        /// Probability that the caption comes before the image.
        #[serde(default = "defaults::caption_first")]
        caption_first: f64,
        /// Side of a patch, in pixels.
        #[serde(default = "defaults::patch")]
        patch: usize,
    },
    /// Caption tokens and image codes.
    Chameleon {
        /// Probability that the image comes before the caption.
        #[serde(default = "defaults::image_first")]
        image_first: f64,
    },
    /// Caption tokens, image codes and speech units, in an order drawn uniformly.
    ThreeModality {
        /// How often a document has which parts.
        #[serde(default)]
        weights: FormWeights,
    },
}

/// Relative frequencies of the forms of a three-modality document.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FormWeights {
    /// Caption, image and speech.
    pub triple: f64,
    /// Caption and image.
    pub caption_image: f64,
    /// Caption and speech.
    pub caption_speech: f64,
    /// Speech alone.
    pub speech: f64,
}

impl Default for FormWeights {
    fn default() -> Self {
        Self { triple: 1.0, caption_image: 0.0, caption_speech: 0.0, speech: 0.0 }
    }
}

mod defaults {
    pub(super) const fn caption_first() -> f64 {
        0.8
    }
    pub(super) const fn image_first() -> f64 {
        0.5
    }
    pub(super) const fn patch() -> usize {
        4
    }
}

/// What a recipe takes from an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageNeed {
    /// Nothing: samples need no image.
    #[default]
    None,
    /// Pixels, as continuous patches.
    Patches,
    /// Codes of the patch codebook.
    Codes,
}

/// What a recipe takes from an utterance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpeechNeed {
    /// Nothing: samples need no waveform.
    #[default]
    None,
    /// Units of the speech codebook.
    Units,
}

/// What a recipe takes from a sample, beside the caption, which is always needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Needs {
    /// From the image.
    pub image: ImageNeed,
    /// From the utterance.
    pub speech: SpeechNeed,
}

impl Recipe {
    /// The Transfusion setting with the paper's order and 4-pixel patches.
    pub const fn transfusion() -> Self {
        Self::Transfusion { caption_first: defaults::caption_first(), patch: defaults::patch() }
    }

    /// The Chameleon setting with the paper's order.
    pub const fn chameleon() -> Self {
        Self::Chameleon { image_first: defaults::image_first() }
    }

    /// The three-modality setting, all three in every document.
    pub fn three_modality() -> Self {
        Self::ThreeModality { weights: FormWeights::default() }
    }

    /// Checks every value.
    ///
    /// # Errors
    /// [`crate::DataError::Config`], naming the field.
    pub fn validate(&self) -> Result<()> {
        let probability = |field, p: f64| require((0.0..=1.0).contains(&p), field, "a probability", p);
        match *self {
            Self::Transfusion { caption_first, patch } => {
                probability("recipe.caption_first", caption_first)?;
                require((1..=256).contains(&patch), "recipe.patch", "1 to 256 pixels", patch)
            }
            Self::Chameleon { image_first } => probability("recipe.image_first", image_first),
            Self::ThreeModality { weights } => {
                for (field, weight) in FormWeights::FIELDS.into_iter().zip(weights.as_array()) {
                    require(weight.is_finite() && weight >= 0.0, field, "finite and not negative", weight)?;
                }
                let sum: f64 = weights.as_array().iter().sum();
                require(sum > 0.0 && sum.is_finite(), "recipe.weights", "positive in sum", sum)
            }
        }
    }

    /// What this recipe takes from a sample.
    pub fn needs(&self) -> Needs {
        match self {
            Self::Transfusion { .. } => Needs { image: ImageNeed::Patches, speech: SpeechNeed::None },
            Self::Chameleon { .. } => Needs { image: ImageNeed::Codes, speech: SpeechNeed::None },
            Self::ThreeModality { weights: w } => Needs {
                image: if w.triple + w.caption_image > 0.0 { ImageNeed::Codes } else { ImageNeed::None },
                speech: if w.triple + w.caption_speech + w.speech > 0.0 { SpeechNeed::Units } else { SpeechNeed::None },
            },
        }
    }

    /// Side of a continuous patch in pixels, where this recipe has them.
    pub fn patch(&self) -> Option<usize> {
        match *self {
            Self::Transfusion { patch, .. } => Some(patch),
            Self::Chameleon { .. } | Self::ThreeModality { .. } => None,
        }
    }

    /// Draws the parts of a document and their order.
    pub(crate) fn draw(&self, stream: &mut Stream) -> Form {
        match *self {
            Self::Transfusion { caption_first, .. } => {
                Form::pair(Part::Caption, Part::Patches, stream.chance(caption_first))
            }
            Self::Chameleon { image_first } => Form::pair(Part::ImageCodes, Part::Caption, stream.chance(image_first)),
            Self::ThreeModality { weights } => {
                let mut form = match stream.weighted(&weights.as_array()) {
                    0 => Form::of(&[Part::Caption, Part::ImageCodes, Part::Speech]),
                    1 => Form::of(&[Part::Caption, Part::ImageCodes]),
                    2 => Form::of(&[Part::Caption, Part::Speech]),
                    _ => Form::of(&[Part::Speech]),
                };
                stream.shuffle(&mut form.parts[..form.n_parts]);
                form
            }
        }
    }
}

impl FormWeights {
    const FIELDS: [&'static str; 4] = [
        "recipe.weights.triple",
        "recipe.weights.caption_image",
        "recipe.weights.caption_speech",
        "recipe.weights.speech",
    ];

    fn as_array(self) -> [f64; 4] {
        [self.triple, self.caption_image, self.caption_speech, self.speech]
    }
}

/// One part of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Caption,
    ImageCodes,
    Patches,
    Speech,
}

impl Part {
    /// The markers around the part.
    pub fn markers(self) -> Option<(Special, Special)> {
        match self {
            Self::Caption => None,
            Self::ImageCodes | Self::Patches => Some((Special::BeginImage, Special::EndImage)),
            Self::Speech => Some((Special::BeginSpeech, Special::EndSpeech)),
        }
    }
}

/// The parts of a document in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Form {
    parts: [Part; 3],
    n_parts: usize,
}

impl Form {
    fn of(from: &[Part]) -> Self {
        let mut parts = [Part::Caption; 3];
        parts[..from.len()].copy_from_slice(from);
        Self { parts, n_parts: from.len() }
    }

    fn pair(a: Part, b: Part, a_first: bool) -> Self {
        Self::of(&if a_first { [a, b] } else { [b, a] })
    }

    pub fn parts(&self) -> &[Part] {
        &self.parts[..self.n_parts]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Domain;

    fn first_parts(recipe: Recipe) -> [usize; 4] {
        let mut counts = [0; 4];
        for document in 0..4000 {
            let form = recipe.draw(&mut Stream::new(3, Domain::Form, 0, document));
            counts[form.parts()[0] as usize] += 1;
        }
        counts
    }

    #[test]
    fn orders_have_the_stated_probabilities() {
        let [caption, _, patches, _] = first_parts(Recipe::transfusion());
        assert_eq!(caption + patches, 4000);
        assert!((3100..3300).contains(&caption), "{caption}");
        let [_, codes, _, _] = first_parts(Recipe::chameleon());
        assert!((1900..2100).contains(&codes), "{codes}");
        for (part, count) in first_parts(Recipe::three_modality()).into_iter().enumerate() {
            assert!(part == 2 || (1230..1440).contains(&count), "{part}: {count}");
        }
    }

    #[test]
    fn toml_like_forms_parse_and_unknown_fields_do_not() {
        let parse = |text| serde_json::from_str::<Recipe>(text);
        assert_eq!(parse(r#"{"setting":"transfusion"}"#).unwrap(), Recipe::transfusion());
        assert_eq!(parse(r#"{"setting":"three_modality"}"#).unwrap(), Recipe::three_modality());
        assert!(parse(r#"{"setting":"chameleon","imagefirst":0.5}"#).is_err());
        assert!(parse(r#"{"setting":"three_modality","weights":{"tripel":1}}"#).is_err());
        let bad = Recipe::Chameleon { image_first: 1.5 };
        assert!(bad.validate().unwrap_err().to_string().contains("recipe.image_first"));
    }
}
