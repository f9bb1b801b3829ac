//! Parts of samples, decoded to the size and rate that are configured.

use super::{audio, image};
use crate::pixels::RgbImage;
use crate::readers::{Picture, Skip, Sound};

/// A text as it is tokenised: without byte order mark, and without white space around it.
pub(crate) fn text(text: &str) -> &str {
    text.trim_start_matches('\u{feff}').trim()
}

/// The pixels of an image, as a square of `size`.
pub(crate) fn square(picture: &Picture, size: usize) -> Result<RgbImage, Skip> {
    match picture {
        Picture::File { bytes, name } => image::decode_square(bytes, size).map_err(|skip| named(skip, name)),
        Picture::Pixels(pixels) => image::square(pixels, size),
    }
}

/// The samples of a recording at `rate`.
pub(crate) fn wave(sound: &Sound, rate: u32) -> Result<Vec<f32>, Skip> {
    match sound {
        Sound::File { bytes, name } => {
            let recording = audio::decode(bytes, name).map_err(|skip| named(skip, name))?;
            Ok(audio::resample(&recording.mono, recording.facts.sample_rate, rate))
        }
        Sound::Wave { sample_rate, values } => Ok(audio::resample(values, *sample_rate, rate)),
    }
}

fn named(skip: Skip, name: &str) -> Skip {
    let detail = if skip.detail.is_empty() { name.to_owned() } else { format!("{name}: {}", skip.detail) };
    Skip { detail, ..skip }
}
