//! Images and waveforms as files, in memory.

use std::io::Cursor;

use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder};

use crate::pixels::{RgbImage, check_length};
use crate::{DataError, Result};

/// An image as a PNG file.
///
/// # Errors
/// [`DataError::Length`] if the image has not (height, width, 3) values; [`DataError::Encode`] if it has no pixel.
pub fn png(image: &RgbImage) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let encoder = PngEncoder::new_with_quality(&mut bytes, CompressionType::Fast, FilterType::Adaptive);
    write_image(encoder, image, "png")?;
    Ok(bytes)
}

/// An image as a JPEG file of a quality from 1 to 100.
///
/// # Errors
/// As [`png`].
pub fn jpeg(image: &RgbImage, quality: u8) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    write_image(JpegEncoder::new_with_quality(&mut bytes, quality), image, "jpeg")?;
    Ok(bytes)
}

fn write_image(encoder: impl ImageEncoder, image: &RgbImage, what: &'static str) -> Result<()> {
    check_length("pixels", image.width * image.height * 3, image.pixels.len())?;
    encoder
        .write_image(&image.pixels, image.width as u32, image.height as u32, ExtendedColorType::Rgb8)
        .map_err(|e| DataError::Encode { what, reason: e.to_string() })
}

/// A mono waveform as a 16-bit wav file; values outside [-1, 1] are clipped.
///
/// # Errors
/// [`DataError::Encode`] if the waveform is longer than a wav file can be (2^31 samples).
pub fn wav(wave: &[f32], sample_rate: u32) -> Result<Vec<u8>> {
    let failed = |reason: String| DataError::Encode { what: "wav", reason };
    let n_samples = u32::try_from(wave.len()).ok().filter(|&n| n < 1 << 31);
    let n_samples = n_samples.ok_or_else(|| failed(format!("{} samples are too many", wave.len())))?;
    let spec =
        hound::WavSpec { channels: 1, sample_rate, bits_per_sample: 16, sample_format: hound::SampleFormat::Int };
    let mut bytes = Cursor::new(Vec::with_capacity(wave.len() * 2 + 64));
    let mut writer = hound::WavWriter::new(&mut bytes, spec).map_err(|e| failed(e.to_string()))?;
    let mut samples = writer.get_i16_writer(n_samples);
    for value in wave {
        // `as` saturates.
        samples.write_sample((value * 32767.0).round() as i16);
    }
    samples.flush().map_err(|e| failed(e.to_string()))?;
    writer.finalize().map_err(|e| failed(e.to_string()))?;
    Ok(bytes.into_inner())
}
