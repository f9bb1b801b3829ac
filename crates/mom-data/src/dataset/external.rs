//! What external tokenizers make of the raw media of samples, many at a time.

use std::collections::{BTreeMap, HashMap};

use rayon::prelude::*;

use crate::media::image::{decode_prepared, prepare};
use crate::media::part;
use crate::needs::{ImageNeed, SpeechNeed};
use crate::pixels::RgbImage;
use crate::readers::{Chunk, Outcome, Part, Picture, Sample, Skip, SkipReason, Sound};
use crate::source::SourceConfig;
use crate::tokenizers::{ImageTokenizer, ImageTokens, Repeats, SpeechTokenizer, Tokenizers};
use crate::{DataError, Modality, Result, rng};

/// Pictures that are held decoded.
const DECODED: usize = 256;
/// Sounds that are held decoded: each may be long.
const SOUNDS: usize = 32;

/// A part by the numbers of its chunk, of its outcome and of its own.
pub(super) type Place = (usize, usize, usize);

/// Parts in place of raw ones, as if they had stood in the data.
pub(super) type Ready = HashMap<Place, Result<Part, Skip>>;

/// What was encoded since the last word of it.
pub(super) struct Done {
    /// Pictures.
    pub pictures: usize,
    /// Seconds of sound.
    pub sound_secs: f64,
}

/// Encodes the raw media of a load by the external tokenizers that there are, and tells of every batch.
pub(super) fn encode(
    load: &[Chunk],
    source: &SourceConfig,
    tokenizers: &Tokenizers,
    tell: &mut dyn FnMut(Done),
) -> Result<Ready> {
    let mut ready = Ready::new();
    if tokenizers.external_identities().is_empty() {
        return Ok(ready);
    }
    let (mut pictures, mut sounds) = (Vec::new(), Vec::new());
    for (place, sample, part) in parts(load) {
        match part {
            Part::Image(picture) if source.takes(Modality::Image) && tokenizers.needs().image != ImageNeed::None => {
                let key = rng::stable_hash(format!("{} {} {}", source.name(), sample.key, place.2).as_bytes());
                pictures.push((place, picture, key));
            }
            Part::Audio(sound) if source.takes(Modality::Speech) && tokenizers.needs().speech == SpeechNeed::Units => {
                sounds.push((place, sound));
            }
            _ => {}
        }
    }
    if !pictures.is_empty()
        && let Some(tokenizer) = tokenizers.external_image()?
    {
        let first = source.first_token.of(Modality::Image);
        for some in pictures.chunks(DECODED) {
            encode_pictures(some, tokenizer, first, &mut ready, tell)?;
        }
    }
    if !sounds.is_empty()
        && let Some(tokenizer) = tokenizers.external_speech()?
    {
        let (first, repeats) = (source.first_token.of(Modality::Speech), tokenizers.config().speech.repeats);
        for some in sounds.chunks(SOUNDS) {
            encode_sounds(some, tokenizer, first, repeats, &mut ready, tell)?;
        }
    }
    Ok(ready)
}

fn parts(load: &[Chunk]) -> impl Iterator<Item = (Place, &Sample, &Part)> {
    let outcomes = load.iter().enumerate().flat_map(|(chunk, loaded)| match loaded {
        Chunk::Outcomes(outcomes) => outcomes.iter().enumerate().map(|(at, outcome)| (chunk, at, outcome)).collect(),
        Chunk::End(..) => Vec::new(),
    });
    outcomes.flat_map(|(chunk, at, outcome)| {
        let sample = match outcome {
            Outcome::Sample(sample) => Some(sample),
            _ => None,
        };
        let parts = sample.into_iter().flat_map(|sample| sample.parts.iter().map(move |part| (sample, part)));
        parts.enumerate().map(move |(i, (sample, part))| ((chunk, at, i), sample, part))
    })
}

fn encode_pictures(
    pictures: &[(Place, &Picture, u64)],
    tokenizer: &dyn ImageTokenizer,
    first: u32,
    ready: &mut Ready,
    tell: &mut dyn FnMut(Done),
) -> Result<()> {
    let preparation = tokenizer.preparation();
    let prepared: Vec<_> = pictures
        .par_iter()
        .map(|&(place, picture, key)| {
            let image = match picture {
                Picture::File { bytes, .. } => decode_prepared(bytes, preparation),
                Picture::Pixels(pixels) => prepare(pixels, preparation),
            };
            (place, key, image)
        })
        .collect();
    // Pictures of one size go together, in the order of sizes.
    let mut by_size: BTreeMap<_, (Vec<Place>, Vec<u64>, Vec<RgbImage>)> = BTreeMap::new();
    for (place, key, image) in prepared {
        match image {
            Ok(image) => {
                let (places, keys, images) = by_size.entry((image.height, image.width)).or_default();
                places.push(place);
                keys.push(key);
                images.push(image);
            }
            Err(skip) => drop(ready.insert(place, Err(skip))),
        }
    }
    let batch = tokenizer.batch().max(1);
    for (places, keys, images) in by_size.into_values() {
        for ((places, keys), images) in places.chunks(batch).zip(keys.chunks(batch)).zip(images.chunks(batch)) {
            let encoded = tokenizer.encode(images, keys)?;
            check_count("pictures", images.len(), encoded.len())?;
            for (&place, tokens) in places.iter().zip(encoded) {
                ready.insert(place, picture_part(tokens, first));
            }
            tell(Done { pictures: images.len(), sound_secs: 0.0 });
        }
    }
    Ok(())
}

fn picture_part(tokens: ImageTokens, first: u32) -> Result<Part, Skip> {
    match tokens {
        ImageTokens::Codes { shape, values } => {
            let (modality, shape) = (Modality::Image, shape.to_vec());
            Ok(Part::Codes { modality, shape, values: shifted(values, first) })
        }
        ImageTokens::Latents { shape, values } if values.iter().all(|value| value.is_finite()) => {
            Ok(Part::Latents { shape: shape.to_vec(), values })
        }
        ImageTokens::Latents { .. } => Err(Skip::new(SkipReason::BrokenArray, "latents that are not finite")),
    }
}

fn encode_sounds(
    sounds: &[(Place, &Sound)],
    tokenizer: &dyn SpeechTokenizer,
    first: u32,
    repeats: Repeats,
    ready: &mut Ready,
    tell: &mut dyn FnMut(Done),
) -> Result<()> {
    let rate = tokenizer.sample_rate();
    let decoded: Vec<_> = sounds.par_iter().map(|&(place, sound)| (place, part::wave(sound, rate))).collect();
    let (mut places, mut waves) = (Vec::new(), Vec::new());
    for (place, wave) in decoded {
        match wave {
            Ok(wave) => {
                places.push(place);
                waves.push(wave);
            }
            Err(skip) => drop(ready.insert(place, Err(skip))),
        }
    }
    let encoded = tokenizer.encode(&waves)?;
    check_count("sounds", waves.len(), encoded.len())?;
    let samples: usize = waves.iter().map(Vec::len).sum();
    tell(Done { pictures: 0, sound_secs: samples as f64 / f64::from(rate) });
    for (place, mut units) in places.into_iter().zip(encoded) {
        if repeats == Repeats::Merged {
            units.dedup();
        }
        let (modality, shape) = (Modality::Speech, vec![units.len()]);
        ready.insert(place, Ok(Part::Codes { modality, shape, values: shifted(units, first) }));
    }
    Ok(())
}

/// Ready tokens of a source begin at its first one; these are made to look like them.
fn shifted(values: Vec<u32>, first: u32) -> Vec<u32> {
    if first == 0 { values } else { values.into_iter().map(|value| value.saturating_add(first)).collect() }
}

fn check_count(what: &'static str, expected: usize, got: usize) -> Result<()> {
    if expected == got {
        return Ok(());
    }
    Err(DataError::Length { what, expected, got })
}
