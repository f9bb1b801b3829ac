//! Images of any kind become RGB pixels.
//!
//! PNG, JPEG, WebP, GIF, BMP and TIFF, told by their bytes; of animations the first frame. A picture is turned upright by
//! its EXIF orientation, and transparent pixels are laid over white. [`prepare`] makes of a picture what a published image
//! tokenizer takes.

mod mean;
mod pillow;
mod prepare;
mod whole;

use std::io::Cursor;

use image::error::ImageError;
use image::imageops::{self, FilterType};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageReader, Limits};
pub use prepare::{Preparation, over_white, prepare};
use serde::Serialize;

use crate::pixels::RgbImage;
use crate::readers::{Skip, SkipReason};

/// Pixels of the largest image that is read: 11,585 squared.
pub const MAX_PIXELS: u64 = 1 << 27;

/// Bytes that a decoder may ask for: the largest image with 16 bits of R, G, B and alpha.
const MAX_DECODER_BYTES: u64 = MAX_PIXELS * 8;

/// An image as its file shows it: the first frame, upright.
#[derive(Debug, Clone, PartialEq)]
pub struct DecodedImage {
    /// Pixels with transparency laid over white.
    pub rgb: RgbImage,
    /// See [`ImageFacts::mean_rgb`].
    pub mean_rgb: [f64; 3],
}

/// What `inspect` tells of an image.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ImageFacts {
    /// Columns, after the EXIF orientation.
    pub width: usize,
    /// Rows, after the EXIF orientation.
    pub height: usize,
    /// Mean R, G and B of the first frame, 0 to 255, alpha ignored.
    pub mean_rgb: [f64; 3],
}

impl DecodedImage {
    /// Size and mean.
    pub fn facts(&self) -> ImageFacts {
        ImageFacts { width: self.rgb.width, height: self.rgb.height, mean_rgb: self.mean_rgb }
    }
}

/// Decodes an image of any size, up to [`MAX_PIXELS`].
///
/// # Errors
/// A [`Skip`] with the decoder's words.
pub fn decode(bytes: &[u8]) -> Result<DecodedImage, Skip> {
    super::guarded(SkipReason::BrokenImage, || {
        let decoded = open(bytes)?;
        let mean_rgb = mean::rgb(&decoded);
        Ok(DecodedImage { mean_rgb, rgb: own(flatten(decoded)) })
    })
}

/// Decodes an image to a square of `size` pixels: the middle square, resized with a triangle filter that is as wide as the
/// reduction, so that nothing aliases.
///
/// # Errors
/// As [`decode`].
pub fn decode_square(bytes: &[u8], size: usize) -> Result<RgbImage, Skip> {
    super::guarded(SkipReason::BrokenImage, || resized(flatten(open(bytes)?), size))
}

/// Decodes an image and prepares it as a publisher does. Transparency is laid over white by the publisher's rule too
/// ([`over_white`]), which cuts fractions off where [`decode`] rounds.
///
/// # Errors
/// As [`decode`] and [`prepare`].
pub fn decode_prepared(bytes: &[u8], preparation: Preparation) -> Result<RgbImage, Skip> {
    super::guarded(SkipReason::BrokenImage, || {
        let decoded = open(bytes)?;
        let rgb = if decoded.color().has_alpha() {
            let rgba = decoded.into_rgba8();
            over_white(rgba.as_raw(), rgba.width() as usize, rgba.height() as usize)
        } else {
            own(decoded.into_rgb8())
        };
        prepare(&rgb, preparation)
    })
}

/// The middle square of pixels that are there already, resized as by [`decode_square`].
///
/// # Errors
/// [`SkipReason::TooLargeImage`] for a size of 0 or too large, [`SkipReason::BrokenImage`] for an image whose pixels are
/// not as many as its sides say.
pub fn square(image: &RgbImage, size: usize) -> Result<RgbImage, Skip> {
    if image.width == size && image.height == size && image.pixels.len() == 3 * size * size {
        return Ok(image.clone());
    }
    let pixels = image::RgbImage::from_raw(image.width as u32, image.height as u32, image.pixels.clone());
    let pixels = pixels.filter(|pixels| pixels.width() > 0 && pixels.height() > 0);
    resized(pixels.ok_or_else(|| broken("its pixels are not as many as its sides say"))?, size)
}

fn resized(mut rgb: image::RgbImage, size: usize) -> Result<RgbImage, Skip> {
    let target = match u32::try_from(size) {
        Ok(target) if target > 0 && u64::from(target).pow(2) <= MAX_PIXELS => target,
        _ => return Err(Skip::new(SkipReason::TooLargeImage, format!("a square of {size} pixels is asked for"))),
    };
    let (width, height) = rgb.dimensions();
    let side = width.min(height);
    if width != height {
        rgb = imageops::crop_imm(&rgb, (width - side) / 2, (height - side) / 2, side, side).to_image();
    }
    if side != target {
        rgb = imageops::resize(&rgb, target, target, FilterType::Triangle);
    }
    Ok(own(rgb))
}

/// The first frame, upright, in the kind of pixel that it is stored with.
fn open(bytes: &[u8]) -> Result<DynamicImage, Skip> {
    let mut reader =
        ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|error| broken(error.to_string()))?;
    let format = reader.format().ok_or_else(|| broken("neither PNG, JPEG, WebP, GIF, BMP nor TIFF"))?;
    whole::check(bytes, format)?;
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MAX_DECODER_BYTES);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(refused)?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MAX_PIXELS || decoder.total_bytes() > MAX_DECODER_BYTES {
        return Err(Skip::new(SkipReason::TooLargeImage, format!("{width}x{height} pixels, {MAX_PIXELS} are read")));
    }
    if width == 0 || height == 0 {
        return Err(broken("no pixels"));
    }
    // Metadata that do not parse say nothing about the pixels.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut decoded = DynamicImage::from_decoder(decoder).map_err(refused)?;
    decoded.apply_orientation(orientation);
    Ok(decoded)
}

/// RGB of 8 bits; transparent pixels are laid over white.
fn flatten(decoded: DynamicImage) -> image::RgbImage {
    if !decoded.color().has_alpha() {
        return decoded.into_rgb8();
    }
    let rgba = decoded.into_rgba8();
    image::RgbImage::from_fn(rgba.width(), rgba.height(), |x, y| {
        let [r, g, b, a] = rgba.get_pixel(x, y).0;
        let over = |v: u8| ((u32::from(v) * u32::from(a) + 255 * (255 - u32::from(a)) + 127) / 255) as u8;
        image::Rgb([over(r), over(g), over(b)])
    })
}

fn own(rgb: image::RgbImage) -> RgbImage {
    RgbImage { width: rgb.width() as usize, height: rgb.height() as usize, pixels: rgb.into_raw() }
}

fn refused(error: ImageError) -> Skip {
    let reason =
        if matches!(error, ImageError::Limits(_)) { SkipReason::TooLargeImage } else { SkipReason::BrokenImage };
    Skip::new(reason, error.to_string())
}

fn broken(words: impl Into<String>) -> Skip {
    Skip::new(SkipReason::BrokenImage, words)
}
