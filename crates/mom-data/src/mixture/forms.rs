//! The form of a document: which of a sample's parts it has, and in which order.
//!
//! An interleaved sample keeps its parts and their order. Of any other the form is drawn from what it *has*: a sample
//! without a recording never becomes a document with speech.

use serde::{Deserialize, Serialize};

use crate::error::require;
use crate::rng::Stream;
use crate::{Modality, Result};

/// How forms are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Forms {
    /// Probability that the text comes first in a document of a text and an image. Other orders are drawn evenly.
    pub text_first: f64,
    /// Probability that what stands before a picture is left out of a document, so that the picture comes first: what
    /// guidance needs (arXiv 2207.12598), beside the documents that begin with their picture anyway.
    #[serde(skip_serializing_if = "is_zero")]
    pub caption_dropout: f64,
    /// How often a document has which parts; without it, it has all that its sample has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<FormWeights>,
}

impl Default for Forms {
    fn default() -> Self {
        Self { text_first: 0.5, caption_dropout: 0.0, weights: None }
    }
}

fn is_zero(p: &f64) -> bool {
    *p == 0.0
}

/// Relative frequencies of sets of parts. Only those count that a sample can give; where these add up to zero, a document
/// has all that its sample has.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FormWeights {
    /// Text alone.
    pub text: f64,
    /// Image alone.
    pub image: f64,
    /// Speech alone.
    pub speech: f64,
    /// Text and image.
    pub text_image: f64,
    /// Text and speech.
    pub text_speech: f64,
    /// Image and speech.
    pub image_speech: f64,
    /// All three.
    pub triple: f64,
}

/// A set of modalities, as bits of their ids.
pub(crate) type PartSet = u8;

impl Forms {
    /// Checks every value.
    ///
    /// # Errors
    /// [`crate::DataError::Config`], naming the field.
    pub fn validate(&self) -> Result<()> {
        for (field, p) in [("forms.text_first", self.text_first), ("forms.caption_dropout", self.caption_dropout)] {
            require((0.0..=1.0).contains(&p), field, "a probability", p)?;
        }
        let Some(weights) = self.weights else { return Ok(()) };
        for (field, _, weight) in weights.table() {
            require(weight.is_finite() && weight >= 0.0, field, "finite and not negative", weight)?;
        }
        let sum: f64 = weights.table().iter().map(|(_, _, weight)| weight).sum();
        require(sum > 0.0 && sum.is_finite(), "forms.weights", "positive in sum", sum)
    }

    /// Whether documents of a text and a picture come to stand with nothing before the picture, at least sometimes.
    pub fn has_free_images(&self) -> bool {
        let alone = self.weights.is_some_and(|weights| weights.image + weights.image_speech + weights.triple > 0.0);
        self.text_first < 1.0 || self.caption_dropout > 0.0 || alone
    }

    /// Draws the parts of a document of a sample that has `has`, in their order.
    pub(crate) fn draw(&self, has: PartSet, stream: &mut Stream) -> Form {
        let set = match self.weights {
            Some(weights) => weights.draw(has, stream),
            None => has,
        };
        let mut form = Form::of(set);
        match (form.parts(), self.text_first) {
            ([_], _) | ([], _) => {}
            ([Modality::Text, Modality::Image], p) => {
                if !stream.chance(p) {
                    form.parts.swap(0, 1);
                }
            }
            _ => stream.shuffle(&mut form.parts[..form.n_parts]),
        }
        // Without a draw where nothing is ever left out: other draws stay as they are.
        let image = form.parts().iter().position(|&part| part == Modality::Image).unwrap_or(0);
        if image > 0 && self.caption_dropout > 0.0 && stream.chance(self.caption_dropout) {
            form.parts.rotate_left(image);
            form.n_parts -= image;
        }
        form
    }
}

impl FormWeights {
    fn table(&self) -> [(&'static str, PartSet, f64); 7] {
        [
            ("forms.weights.text", 0b001, self.text),
            ("forms.weights.image", 0b010, self.image),
            ("forms.weights.speech", 0b100, self.speech),
            ("forms.weights.text_image", 0b011, self.text_image),
            ("forms.weights.text_speech", 0b101, self.text_speech),
            ("forms.weights.image_speech", 0b110, self.image_speech),
            ("forms.weights.triple", 0b111, self.triple),
        ]
    }

    fn draw(&self, has: PartSet, stream: &mut Stream) -> PartSet {
        let table = self.table();
        let possible = table.map(|(_, set, weight)| if set & has == set { weight } else { 0.0 });
        if possible.iter().sum::<f64>() > 0.0 { table[stream.weighted(&possible)].1 } else { has }
    }
}

/// The parts of a document in their order, at most one of a modality.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Form {
    parts: [Modality; 3],
    n_parts: usize,
}

impl Form {
    /// All of a set, in the order of their ids.
    fn of(set: PartSet) -> Self {
        let mut form = Self { parts: [Modality::Text; 3], n_parts: 0 };
        for modality in Modality::ALL.into_iter().filter(|modality| set & (1 << modality.id()) != 0) {
            form.parts[form.n_parts] = modality;
            form.n_parts += 1;
        }
        form
    }

    pub fn parts(&self) -> &[Modality] {
        &self.parts[..self.n_parts]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Domain;

    fn firsts(forms: Forms, has: PartSet) -> [usize; 3] {
        let mut counts = [0; 3];
        for document in 0..4000 {
            let form = forms.draw(has, &mut Stream::new(3, Domain::Form, 0, document));
            assert_eq!(form.parts().len(), has.count_ones() as usize);
            counts[form.parts()[0] as usize] += 1;
        }
        counts
    }

    #[test]
    fn orders_have_the_stated_probabilities() {
        let [text, image, _] = firsts(Forms { text_first: 0.8, ..Forms::default() }, 0b011);
        assert_eq!(text + image, 4000);
        assert!((3100..3300).contains(&text), "{text}");
        for count in firsts(Forms::default(), 0b111) {
            assert!((1230..1440).contains(&count), "{count}");
        }
        assert_eq!(firsts(Forms::default(), 0b100), [0, 0, 4000]);
    }

    #[test]
    fn a_form_is_drawn_from_what_a_sample_has() {
        let weights = FormWeights { triple: 1.0, text_image: 1.0, speech: 2.0, ..FormWeights::default() };
        let forms = Forms { weights: Some(weights), ..Forms::default() };
        let sizes = |has: PartSet| {
            let mut counts = [0; 4];
            for document in 0..4000 {
                counts[forms.draw(has, &mut Stream::new(1, Domain::Form, 0, document)).parts().len()] += 1;
            }
            counts
        };
        let [_, one, two, three] = sizes(0b111);
        assert!((1900..2100).contains(&one) && (900..1100).contains(&two) && (900..1100).contains(&three));
        assert_eq!(sizes(0b011), [0, 0, 4000, 0], "no recording, no speech");
        assert_eq!(sizes(0b001), [0, 4000, 0, 0], "no form asked for fits: all there is");
    }

    #[test]
    fn what_stands_before_a_picture_is_left_out_as_often_as_stated() {
        let forms = Forms { text_first: 1.0, caption_dropout: 0.25, weights: None };
        let draw = |has: PartSet, document| forms.draw(has, &mut Stream::new(3, Domain::Form, 0, document));
        let mut alone = 0;
        for document in 0..4000 {
            match draw(0b011, document).parts() {
                [Modality::Image] => alone += 1,
                parts => assert_eq!(parts, [Modality::Text, Modality::Image]),
            }
            assert!(draw(0b111, document).parts().contains(&Modality::Image));
            assert_eq!(draw(0b101, document).parts().len(), 2, "nothing is left out without a picture");
        }
        assert!((930..1070).contains(&alone), "{alone}");
        assert!(forms.has_free_images() && !Forms { caption_dropout: 0.0, ..forms }.has_free_images());
        // Nothing else is drawn otherwise than without.
        for document in 0..100 {
            let stream = || Stream::new(3, Domain::Form, 0, document);
            let none = Forms::default().draw(0b111, &mut stream());
            let rare = Forms { caption_dropout: 1e-12, ..Forms::default() }.draw(0b111, &mut stream());
            assert_eq!(none, rare);
        }
    }

    #[test]
    fn wrong_values_are_named() {
        let bad = Forms { caption_dropout: -0.1, ..Forms::default() };
        assert!(bad.validate().unwrap_err().to_string().contains("forms.caption_dropout"));
        let bad = Forms { text_first: 1.5, ..Forms::default() };
        assert!(bad.validate().unwrap_err().to_string().contains("forms.text_first"));
        let none = Forms { weights: Some(FormWeights::default()), ..Forms::default() };
        assert!(none.validate().unwrap_err().to_string().contains("forms.weights must be positive in sum"));
        assert!(serde_json::from_str::<Forms>(r#"{"weights":{"tripel":1}}"#).is_err());
    }
}
