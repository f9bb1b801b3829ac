//! A sample becomes a document: media are decoded, everything wanted becomes tokens, pixels or patches.

use crate::document::{Content, Document};
use crate::latents;
use crate::media::part::{self, square, wave};
use crate::needs::{ImageNeed, SpeechNeed};
use crate::readers::{Part, PartOrder, Sample, Skip, SkipReason};
use crate::source::SourceConfig;
use crate::split::hash_of;
use crate::store::MAX_PARTS;
use crate::tokenizers::{CodeKind, Tokenizers};
use crate::{Modality, Result};

/// Encodes the samples of one source.
pub(crate) struct Encoder<'a> {
    pub source: &'a SourceConfig,
    pub tokenizers: &'a Tokenizers,
}

impl Encoder<'_> {
    /// The document of a sample, and the bytes of its text; or why it is skipped. `ready`: what external tokenizers made of
    /// the parts, by their numbers.
    pub fn encode<'r>(
        &self,
        sample: &'r Sample,
        ready: impl Fn(usize) -> Option<&'r Result<Part, Skip>>,
    ) -> Result<(Document, u64), Skip> {
        let mut parts = Vec::new();
        let mut text_bytes = 0;
        for (i, part) in sample.parts.iter().enumerate() {
            let part = match ready(i) {
                Some(made) => made.as_ref().map_err(Clone::clone)?,
                None => part,
            };
            parts.extend(self.part(part, &mut text_bytes)?);
        }
        if parts.is_empty() {
            return Err(Skip::new(SkipReason::NoPart, ""));
        }
        if parts.len() > MAX_PARTS {
            return Err(Skip::new(SkipReason::BrokenRecord, format!("{} parts", parts.len())));
        }
        if sample.order == PartOrder::Free {
            parts.sort_by_key(|content| modality(content).id());
            let twice = parts.windows(2).find(|pair| modality(&pair[0]) == modality(&pair[1]));
            if let Some(pair) = twice {
                return Err(Skip::new(SkipReason::DuplicatePart, modality(&pair[0]).name()));
            }
        }
        let document = Document { key: sample.key.clone(), hash: hash_of(sample), order: sample.order, parts };
        Ok((document, text_bytes))
    }

    fn part(&self, part: &Part, text_bytes: &mut u64) -> Result<Option<Content>, Skip> {
        let (config, needs) = (self.tokenizers.config(), self.tokenizers.needs());
        let takes = |modality| self.source.takes(modality);
        match part {
            Part::Text(text) if takes(Modality::Text) && config.text.kind == CodeKind::Fitted => {
                let text = part::text(text);
                if text.is_empty() {
                    return Ok(None);
                }
                let refused = |error: crate::DataError| Skip::new(SkipReason::UnknownText, error.to_string());
                let tokens = self.tokenizers.text().encode(text).map_err(refused)?;
                let vocabulary = self.tokenizers.vocabulary();
                if vocabulary.has_image_in_text() {
                    // A text that spells the name of an image code is none.
                    tokens
                        .iter()
                        .try_for_each(|&code| vocabulary.token(Modality::Text, code).map(drop))
                        .map_err(refused)?;
                }
                *text_bytes += text.len() as u64;
                Ok((!tokens.is_empty()).then_some(Content::Text(tokens)))
            }
            Part::Image(picture) if takes(Modality::Image) && config.image.kind == CodeKind::Fitted => {
                match needs.image {
                    ImageNeed::None => Ok(None),
                    ImageNeed::Patches => Ok(Some(Content::Pixels(square(picture, config.image.size)?.pixels))),
                    ImageNeed::Codes => {
                        let image = square(picture, config.image.size)?;
                        let broken = |error: crate::DataError| Skip::new(SkipReason::BrokenImage, error.to_string());
                        let codes = self.tokenizers.image_codebook().and_then(|book| book.encode(&image));
                        codes.map(|codes| Some(Content::ImageCodes(codes))).map_err(broken)
                    }
                }
            }
            Part::Audio(sound)
                if takes(Modality::Speech)
                    && needs.speech == SpeechNeed::Units
                    && config.speech.kind == CodeKind::Fitted =>
            {
                let wave = wave(sound, config.speech.sample_rate)?;
                let broken = |error: crate::DataError| Skip::new(SkipReason::BrokenAudio, error.to_string());
                let units = self.tokenizers.speech_codebook().map_err(broken)?.encode(&wave);
                Ok((!units.is_empty()).then_some(Content::Speech(units)))
            }
            Part::Codes { modality, shape, values } if takes(*modality) => self.codes(*modality, shape, values),
            Part::Latents { shape, values } if takes(Modality::Image) && needs.image == ImageNeed::Patches => {
                if config.image.kind == CodeKind::Fitted {
                    return Err(ready("latents", "image"));
                }
                let (channels, patch) = (config.image.channels, config.image.patch);
                let broken = |error: crate::DataError| Skip::new(SkipReason::BrokenArray, error.to_string());
                if config.image.square || config.image.kind == CodeKind::Vae {
                    latents::expect_square(shape).map_err(broken)?;
                }
                latents::to_patches(shape, values, channels, patch).map(|v| Some(Content::Patches(v))).map_err(broken)
            }
            _ => Ok(None),
        }
    }

    fn codes(&self, modality: Modality, shape: &[usize], values: &[u32]) -> Result<Option<Content>, Skip> {
        let (config, needs) = (self.tokenizers.config(), self.tokenizers.needs());
        let (wanted, fitted) = match modality {
            // Text that was tokenised before has its place beside text that is tokenised here: by the same tokenizer.
            Modality::Text => (true, false),
            Modality::Image => (needs.image == ImageNeed::Codes, config.image.kind == CodeKind::Fitted),
            Modality::Speech => (needs.speech == SpeechNeed::Units, config.speech.kind == CodeKind::Fitted),
        };
        if !wanted {
            return Ok(None);
        }
        if fitted {
            return Err(ready("codes", modality.name()));
        }
        // Of several codebooks of one utterance (K x N) the first, which carries what is said.
        let values = match (modality, shape) {
            (Modality::Speech, &[_, n]) => values.get(..n).unwrap_or(values),
            _ => values,
        };
        let first = self.source.first_token.of(modality);
        let n_codes = self.tokenizers.vocabulary().n_tokens(modality) as u32;
        let code = |&value: &u32| {
            let code = value.checked_sub(first).filter(|&code| code < n_codes);
            let end = first.saturating_add(n_codes);
            let detail = || format!("{} token {value}, expected {first} to {}", modality.name(), end.saturating_sub(1));
            code.ok_or_else(|| Skip::new(SkipReason::UnknownToken, detail()))
        };
        // Looked at as a whole first: in billions of tokens none is wrong as a rule.
        let (least, most) = values.iter().fold((u32::MAX, 0), |(least, most), &v| (least.min(v), most.max(v)));
        let codes: Vec<u32> = if least >= first && most.wrapping_sub(first) < n_codes {
            values.iter().map(|&value| value - first).collect()
        } else {
            values.iter().map(code).collect::<Result<_, _>>()?
        };
        if codes.is_empty() {
            return Ok(None);
        }
        let vocabulary = self.tokenizers.vocabulary();
        if modality == Modality::Text && vocabulary.has_image_in_text() {
            let unknown = |error: crate::DataError| Skip::new(SkipReason::UnknownToken, error.to_string());
            codes.iter().try_for_each(|&code| vocabulary.token(modality, code).map(drop)).map_err(unknown)?;
        }
        Ok(Some(match modality {
            Modality::Text => Content::Text(codes),
            Modality::Image => Content::ImageCodes(codes),
            Modality::Speech => Content::Speech(codes),
        }))
    }
}

fn ready(what: &str, modality: &str) -> Skip {
    let detail = format!("ready {what}, and tokenizers.{modality}.kind is not \"precomputed\"");
    Skip::new(SkipReason::UnknownToken, detail)
}

fn modality(content: &Content) -> Modality {
    match content {
        Content::Text(_) => Modality::Text,
        Content::ImageCodes(_) | Content::Pixels(_) | Content::Patches(_) => Modality::Image,
        Content::Speech(_) => Modality::Speech,
    }
}
