//! One token space for all modalities: special tokens, then text, image codes and speech units, each a contiguous range.

use serde::{Deserialize, Serialize};

use crate::{DataError, Result};

/// What a position carries. Special tokens and padding belong to text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Modality {
    /// Caption tokens, special tokens, padding.
    Text = 0,
    /// Image codes and continuous patches.
    Image = 1,
    /// Speech units.
    Speech = 2,
}

impl Modality {
    /// All modalities in the order of their ids.
    pub const ALL: [Self; 3] = [Self::Text, Self::Image, Self::Speech];

    /// Id of the modality, as in [`crate::batch::Batch::modality_ids`].
    pub const fn id(self) -> u8 {
        self as u8
    }

    /// Name in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Image => "image",
            Self::Speech => "speech",
        }
    }
}

/// Tokens with a meaning of their own; they are the first of every vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Special {
    /// Fills what is left of a sequence.
    Pad = 0,
    /// First token of every document.
    BeginDocument = 1,
    /// Before the codes or patches of an image.
    BeginImage = 2,
    /// After them.
    EndImage = 3,
    /// Before the units of an utterance.
    BeginSpeech = 4,
    /// After them.
    EndSpeech = 5,
}

impl Special {
    /// Number of special tokens.
    pub const COUNT: u32 = 6;

    /// The token.
    pub const fn token(self) -> u32 {
        self as u32
    }
}

/// Sizes of the ranges of the token space.
///
/// Layout: `[special | text | image codes | speech units]`. A modality that is not tokenised has size 0. Where the text
/// tokenizer has names for image codes, as Chameleon's has, these are its tokens: `[special | text, image codes inside |
/// speech units]`, and none of them is text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vocabulary {
    n_text: u32,
    n_image: u32,
    n_speech: u32,
    /// Where image codes begin among the text tokens, if they are inside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image_in_text: Option<u32>,
}

impl Vocabulary {
    /// A vocabulary of `n_text` text tokens, `n_image` image codes and `n_speech` speech units behind the special tokens.
    ///
    /// # Errors
    /// [`DataError::Config`] if there is no text token or the sum does not fit below [`crate::batch::NO_TARGET`].
    pub fn new(n_text: u32, n_image: u32, n_speech: u32) -> Result<Self> {
        let size = u64::from(Special::COUNT) + u64::from(n_text) + u64::from(n_image) + u64::from(n_speech);
        crate::error::require(n_text > 0, "vocabulary.n_text", "at least 1", n_text)?;
        crate::error::require(size < u64::from(u32::MAX), "vocabulary", "smaller than 2^32 - 1", size)?;
        Ok(Self { n_text, n_image, n_speech, image_in_text: None })
    }

    /// This vocabulary with its image codes in place of the text tokens from `first` on.
    ///
    /// # Errors
    /// [`DataError::Config`] if there are not as many text tokens.
    pub fn with_image_in_text(self, first: u32) -> Result<Self> {
        let fits = first.checked_add(self.n_image).is_some_and(|end| end <= self.n_text);
        let expected = format!("{} image codes within {} text tokens", self.n_image, self.n_text);
        crate::error::require(fits, "vocabulary", &expected, format!("from token {first} on"))?;
        Ok(Self { image_in_text: Some(first), ..self })
    }

    /// True if image codes are tokens of the text tokenizer.
    pub const fn has_image_in_text(&self) -> bool {
        self.image_in_text.is_some()
    }

    /// Number of tokens, special tokens included.
    pub fn size(&self) -> usize {
        self.end(Modality::Speech) as usize
    }

    /// Number of tokens of a modality; for text without the special tokens, and with image codes that are inside.
    pub fn n_tokens(&self, modality: Modality) -> usize {
        match modality {
            Modality::Text => self.n_text as usize,
            Modality::Image => self.n_image as usize,
            Modality::Speech => self.n_speech as usize,
        }
    }

    /// Range of a modality's tokens; for text without the special tokens, and with image codes that are inside.
    pub fn range(&self, modality: Modality) -> std::ops::Range<u32> {
        self.start(modality)..self.end(modality)
    }

    fn start(&self, modality: Modality) -> u32 {
        match modality {
            Modality::Text => Special::COUNT,
            Modality::Image => self.image_in_text.map_or(self.end(Modality::Text), |first| Special::COUNT + first),
            Modality::Speech if self.has_image_in_text() => self.end(Modality::Text),
            Modality::Speech => self.end(Modality::Image),
        }
    }

    fn end(&self, modality: Modality) -> u32 {
        self.start(modality) + self.n_tokens(modality) as u32
    }

    /// True if a token belongs to a modality; a special token is of none here.
    pub fn has(&self, modality: Modality, token: u32) -> bool {
        let is_image = || self.has_image_in_text() && self.range(Modality::Image).contains(&token);
        self.range(modality).contains(&token) && (modality != Modality::Text || !is_image())
    }

    /// The token of `code`, the code-th token of a modality.
    ///
    /// # Errors
    /// [`DataError::Token`] if the modality has no such code; for text, too, if that is an image code.
    pub fn token(&self, modality: Modality, code: u32) -> Result<u32> {
        let token = self.start(modality).saturating_add(code);
        if self.has(modality, token) { Ok(token) } else { Err(self.outside_of(modality, token)) }
    }

    /// The code of a token within its modality's range: the inverse of [`Self::token`].
    ///
    /// # Errors
    /// [`DataError::Token`] if the token is not of this modality (a special token is of none here).
    pub fn code(&self, modality: Modality, token: u32) -> Result<u32> {
        if self.has(modality, token) { Ok(token - self.start(modality)) } else { Err(self.outside_of(modality, token)) }
    }

    /// The modality a token belongs to; special tokens are text.
    ///
    /// # Errors
    /// [`DataError::Token`] if the token is not in the vocabulary.
    pub fn modality_of(&self, token: u32) -> Result<Modality> {
        self.check(token)?;
        Ok(self.modality_of_known(token))
    }

    /// Fails if the token is not in the vocabulary.
    ///
    /// # Errors
    /// [`DataError::Token`], naming the token and the size.
    pub fn check(&self, token: u32) -> Result<()> {
        let range = 0..self.size() as u32;
        if range.contains(&token) { Ok(()) } else { Err(self.outside(token, "vocabulary", range)) }
    }

    /// [`Self::modality_of`] for a token that is known to be inside.
    pub(crate) fn modality_of_known(&self, token: u32) -> Modality {
        if self.range(Modality::Image).contains(&token) {
            Modality::Image
        } else if token < self.end(Modality::Text) {
            Modality::Text
        } else {
            Modality::Speech
        }
    }

    fn outside_of(&self, modality: Modality, token: u32) -> DataError {
        let name = match modality {
            Modality::Text if self.has_image_in_text() => "text (but for image codes)",
            _ => modality.name(),
        };
        self.outside(token, name, self.range(modality))
    }

    fn outside(&self, token: u32, range: &'static str, bounds: std::ops::Range<u32>) -> DataError {
        DataError::Token { token, range, start: bounds.start, end: bounds.end, size: self.size() as u32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_follow_each_other_and_invert() {
        let vocabulary = Vocabulary::new(512, 256, 128).unwrap();
        assert_eq!(vocabulary.size(), 6 + 512 + 256 + 128);
        for modality in Modality::ALL {
            for code in 0..vocabulary.n_tokens(modality) as u32 {
                let token = vocabulary.token(modality, code).unwrap();
                assert_eq!(vocabulary.code(modality, token).unwrap(), code);
                assert_eq!(vocabulary.modality_of(token).unwrap(), modality);
            }
        }
        assert_eq!(vocabulary.modality_of(Special::EndSpeech.token()).unwrap(), Modality::Text);
    }

    #[test]
    fn image_codes_may_lie_within_text() {
        let vocabulary = Vocabulary::new(20, 8, 5).unwrap().with_image_in_text(4).unwrap();
        assert_eq!(vocabulary.size(), 6 + 20 + 5);
        let mut seen = vec![0; vocabulary.size()];
        for (modality, n) in [(Modality::Text, 20), (Modality::Image, 8), (Modality::Speech, 5)] {
            for code in 0..n {
                let is_image = modality == Modality::Text && (4..12).contains(&code);
                let Ok(token) = vocabulary.token(modality, code) else {
                    assert!(is_image, "{modality:?} {code}");
                    continue;
                };
                assert!(!is_image);
                assert_eq!(
                    (vocabulary.code(modality, token).unwrap(), vocabulary.modality_of(token).unwrap()),
                    (code, modality)
                );
                seen[token as usize] += 1;
            }
        }
        assert!(seen[..6].iter().all(|&n| n == 0) && seen[6..].iter().all(|&n| n == 1), "{seen:?}");
        assert_eq!(vocabulary.token(Modality::Image, 7).unwrap(), 6 + 11);
        assert!(vocabulary.code(Modality::Text, 6 + 11).is_err());
        assert_eq!(vocabulary.modality_of(2).unwrap(), Modality::Text);
        assert!(Vocabulary::new(20, 8, 5).unwrap().with_image_in_text(13).is_err());
    }

    #[test]
    fn a_token_outside_is_named_with_the_size() {
        let vocabulary = Vocabulary::new(10, 4, 0).unwrap();
        let message = vocabulary.modality_of(20).unwrap_err().to_string();
        assert!(message.contains("token 20") && message.contains("vocabulary of 20"), "{message}");
        assert!(vocabulary.token(Modality::Speech, 0).is_err());
        assert!(vocabulary.token(Modality::Image, 4).is_err());
        assert!(vocabulary.token(Modality::Image, u32::MAX).is_err());
        assert!(vocabulary.code(Modality::Text, 3).is_err());
    }
}
