//! What is drawn, for several documents at once.

use std::slice;

use candle_core::{DType, Tensor};
use mom_data::{Modality, RgbImage, Special};
use mom_models::Setting;
use mom_models::decode::{Decoder, Guidance};

use super::draft::Draft;
use super::generator::{GenerateOptions, Generator, Part};
use crate::Result;
use crate::error::{config, require};

/// Draws a part of each of some documents of one generator, which go through the model together. Each document has its own
/// generator of random numbers: what is drawn does not depend on those beside it, but for rounding.
///
/// Sampling, diffusion steps, guidance and lengths are those of the first document's options.
///
/// # Errors
/// A part that the model does not have, or that another program decodes: codes and latents that were brought along; weights that
/// are absent, or have no decoder; what the model reports. The documents are then of no use.
pub fn draw(drafts: &mut [Draft<'_>], modality: Modality) -> Result<Vec<Part>> {
    let Some(first) = drafts.first() else { return Ok(Vec::new()) };
    let same = drafts.iter().all(|draft| std::ptr::eq(draft.generator, first.generator));
    require(same, "drafts", "of one generator", "several")?;
    match modality {
        Modality::Text => texts(drafts),
        Modality::Image => images(drafts),
        Modality::Speech => speech(drafts),
    }
}

impl Draft<'_> {
    /// Draws text: up to where the model ends the document or begins another part, or up to as many tokens as the options
    /// allow. It is not empty.
    ///
    /// # Errors
    /// As [`draw`].
    pub fn draw_text(&mut self) -> Result<String> {
        match self.draw(Modality::Text)? {
            Part::Text(text) => Ok(text),
            other => Err(config("part", "text", format!("{other:?}"))),
        }
    }

    /// Draws a picture.
    ///
    /// # Errors
    /// As [`draw`].
    pub fn draw_image(&mut self) -> Result<RgbImage> {
        match self.draw(Modality::Image)? {
            Part::Image(image) => Ok(image),
            other => Err(config("part", "an image", format!("{other:?}"))),
        }
    }

    /// Draws speech: up to where the model ends it, or up to as many units as the options allow. A waveform of
    /// [`Generator::sample_rate`].
    ///
    /// # Errors
    /// As [`draw`]; units that cannot be heard ([`Part::Units`]).
    pub fn draw_speech(&mut self) -> Result<Vec<f32>> {
        match self.draw(Modality::Speech)? {
            Part::Speech(wave) => Ok(wave),
            other => Err(config("part", "speech", format!("{other:?}"))),
        }
    }

    /// Draws a part.
    ///
    /// # Errors
    /// As [`draw`].
    pub fn draw(&mut self, modality: Modality) -> Result<Part> {
        let mut parts = draw(slice::from_mut(self), modality)?;
        parts.pop().ok_or_else(|| config("part", "one", 0))
    }
}

impl Generator {
    /// An image for a caption.
    ///
    /// # Errors
    /// A caption that the tokenizer refuses; options out of range.
    pub fn image(&self, caption: &str, options: &GenerateOptions) -> Result<RgbImage> {
        let mut draft = self.draft(options)?;
        draft.push_text(caption)?;
        draft.draw_image()
    }

    /// A caption for an image of [`Self::image_size`].
    ///
    /// # Errors
    /// An image of another size; options out of range.
    pub fn caption(&self, image: &RgbImage, options: &GenerateOptions) -> Result<String> {
        let mut draft = self.draft(options)?;
        draft.push_image(image)?;
        draft.draw_text()
    }

    /// Speech for a text.
    ///
    /// # Errors
    /// A model without speech; a text that the tokenizer refuses; options out of range.
    pub fn speech(&self, text: &str, options: &GenerateOptions) -> Result<Vec<f32>> {
        let mut draft = self.draft(options)?;
        draft.push_text(text)?;
        draft.draw_speech()
    }
}

fn texts(drafts: &mut [Draft<'_>]) -> Result<Vec<Part>> {
    let most = drafts[0].options.max_tokens;
    // It ends where the document ends or another part begins.
    let tokens = tokens(drafts, Span { modality: Modality::Text, ends: 1..Special::COUNT, most }, None)?;
    let texts = drafts.iter().zip(&tokens).map(|(draft, tokens)| draft.tokenizers().decode_text(tokens));
    Ok(texts.map(|text| text.map(Part::Text)).collect::<Result<_, _>>()?)
}

fn speech(drafts: &mut [Draft<'_>]) -> Result<Vec<Part>> {
    let generator = drafts[0].generator;
    generator.tokenizers.has_voice()?;
    let end = Special::EndSpeech.token();
    drafts.iter_mut().for_each(|draft| draft.mark(Special::BeginSpeech));
    let span = Span { modality: Modality::Speech, ends: end..end + 1, most: drafts[0].options.max_tokens };
    let tokens = tokens(drafts, span, None)?;
    drafts.iter_mut().for_each(|draft| draft.mark(Special::EndSpeech));
    tokens.iter().map(|tokens| generator.spoken(tokens)).collect()
}

fn images(drafts: &mut [Draft<'_>]) -> Result<Vec<Part>> {
    let (generator, options) = (drafts[0].generator, drafts[0].options);
    let tokenizers = &generator.tokenizers;
    tokenizers.check_pictures()?;
    let n_positions = tokenizers.image_positions()?;
    let discrete = generator.setting() != Setting::Transfusion;
    // Where nothing stands before any of the pictures, there is nothing to be guided by.
    let weight = generator.guidance(&options);
    let guided = weight != 1.0 && !drafts.iter().all(|draft| draft.is_empty);
    drafts.iter_mut().for_each(|draft| draft.mark(Special::BeginImage));
    let mut free = None;
    if guided {
        // A document that begins with its picture.
        let mut one = Decoder::new(&generator.model, 1)?;
        let begin = [Special::BeginDocument, Special::BeginImage].map(Special::token);
        let logits = rows(&one.push(&begin, &[Modality::Text.id(); 2])?)?;
        let all = vec![0; drafts.len()];
        free =
            Some(Free { decoder: one.select(&all)?, logits: all.iter().map(|&i| logits[i].clone()).collect(), weight });
    }
    let images: Vec<Part> = if discrete {
        let span = Span { modality: Modality::Image, ends: 0..0, most: n_positions };
        let tokens = tokens(drafts, span, free)?;
        let images = tokens.iter().map(|tokens| tokenizers.decode_image(tokens));
        images.map(|image| image.map(Part::Image)).collect::<Result<_, _>>()?
    } else {
        for draft in &mut *drafts {
            draft.read()?;
        }
        let mut decoder = Decoder::join(drafts.iter().map(|draft| &draft.decoder))?;
        let mut rngs: Vec<_> = drafts.iter_mut().map(|draft| &mut draft.rng).collect();
        let guidance = free.as_ref().map(|free| Guidance { free: &free.decoder, weight });
        let patches = decoder.sample_image(n_positions, options.n_steps, guidance, &mut rngs)?;
        for (i, draft) in drafts.iter_mut().enumerate() {
            draft.decoder = decoder.select(&[i])?;
        }
        let of_image = patches.chunks_exact(patches.len() / drafts.len());
        of_image.map(|patches| tokenizers.decode_patches(patches).map(Part::Image)).collect::<Result<_, _>>()?
    };
    drafts.iter_mut().for_each(|draft| draft.mark(Special::EndImage));
    Ok(images)
}

/// Tokens of one part.
struct Span {
    modality: Modality,
    /// Tokens that end it, once it is not empty.
    ends: std::ops::Range<u32>,
    /// Tokens, at most.
    most: usize,
}

/// The same sequences with nothing before this part, and what they say comes next.
struct Free<'a> {
    decoder: Decoder<'a>,
    logits: Vec<Vec<f32>>,
    weight: f64,
}

/// Draws a span of each document. A document that has ended leaves the batch with its state as it is there.
fn tokens<'a>(drafts: &mut [Draft<'a>], span: Span, mut free: Option<Free<'a>>) -> Result<Vec<Vec<u32>>> {
    let (vocabulary, sampling) = (*drafts[0].tokenizers().vocabulary(), drafts[0].options.sampling);
    let belongs = |token: u32| vocabulary.has(span.modality, token);
    let mut logits = drafts.iter_mut().map(|draft| draft.read().map(<[f32]>::to_vec)).collect::<Result<Vec<_>>>()?;
    let mut decoder = Decoder::join(drafts.iter().map(|draft| &draft.decoder))?;
    let mut active: Vec<usize> = (0..drafts.len()).collect();
    let mut drawn = vec![Vec::new(); drafts.len()];
    loop {
        let (mut going, mut next) = (Vec::new(), Vec::new());
        for (row, &i) in active.iter().enumerate() {
            let (draft, drawn) = (&mut drafts[i], &mut drawn[i]);
            let allowed = |token: u32| belongs(token) || (!drawn.is_empty() && span.ends.contains(&token));
            let token = match (&free, drawn.len() < span.most) {
                (_, false) => None,
                (None, true) => Some(sampling.draw(&logits[row], allowed, &mut draft.rng)?),
                (Some(free), true) => {
                    let guided = guided(&logits[row], &free.logits[row], free.weight);
                    Some(sampling.draw(&guided, allowed, &mut draft.rng)?)
                }
            };
            match token.filter(|&token| belongs(token)) {
                Some(token) => {
                    drawn.push(token);
                    next.push(token);
                    going.push(row);
                }
                None => {
                    draft.decoder = decoder.select(&[row])?;
                    draft.logits = std::mem::take(&mut logits[row]);
                }
            }
        }
        if going.is_empty() {
            return Ok(drawn);
        }
        if going.len() < active.len() {
            decoder = decoder.select(&going)?;
            if let Some(free) = &mut free {
                free.decoder = free.decoder.select(&going)?;
            }
            active = going.iter().map(|&row| active[row]).collect();
        }
        let modalities = vec![span.modality.id(); next.len()];
        logits = rows(&decoder.push(&next, &modalities)?)?;
        if let Some(free) = &mut free {
            free.logits = rows(&free.decoder.push(&next, &modalities)?)?;
        }
    }
}

/// Logits under classifier-free guidance.
fn guided(given: &[f32], free: &[f32], weight: f64) -> Vec<f32> {
    let weight = weight as f32;
    given.iter().zip(free).map(|(given, free)| free + weight * (given - free)).collect()
}

/// Logits of each sequence.
fn rows(logits: &Tensor) -> Result<Vec<Vec<f32>>> {
    Ok(mom_core::convert(logits, DType::F32)?.to_vec2::<f32>()?)
}
