//! Pictures as the publishers of image tokenizers prepare them, pixel for pixel.
//!
//! Source: `chameleon/inference/image_tokenizer.py` of facebookresearch/chameleon (Chameleon), `VaeImageProcessor` of
//! diffusers; both resize with Pillow's `resize` on 8-bit pixels.

use super::{MAX_PIXELS, pillow};
use crate::pixels::RgbImage;
use crate::readers::{Skip, SkipReason};

/// How a picture of any size becomes one that an image tokenizer takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Preparation {
    /// Chameleon's: the shorter side to `size` pixels, the longer one in proportion, then the square in the middle.
    Square {
        /// Pixels of a side.
        size: usize,
    },
    /// diffusers': both sides to the next multiple below.
    Multiple {
        /// Of how many pixels.
        of: usize,
    },
}

/// Prepares a picture.
///
/// # Errors
/// A [`Skip`] for a picture without pixels, one that is smaller than the multiple asked for, a size of 0 or too large.
pub fn prepare(image: &RgbImage, preparation: Preparation) -> Result<RgbImage, Skip> {
    let (width, height) = (image.width, image.height);
    if width == 0 || height == 0 || width.checked_mul(height).and_then(|n| n.checked_mul(3)) != Some(image.pixels.len())
    {
        return Err(super::broken("its pixels are not as many as its sides say"));
    }
    match preparation {
        Preparation::Square { size } => {
            let scale = size as f64 / width.min(height) as f64;
            // As Python rounds: half to even.
            let side = |side: usize| (side as f64 * scale).round_ties_even() as usize;
            let resized = resize(image, side(width), side(height))?;
            Ok(middle(&resized, size))
        }
        Preparation::Multiple { of } => {
            let side = |side: usize| side.checked_div(of).map_or(0, |n| n * of);
            resize(image, side(width), side(height))
        }
    }
}

fn resize(image: &RgbImage, width: usize, height: usize) -> Result<RgbImage, Skip> {
    let fits = width.checked_mul(height).is_some_and(|n| n > 0 && n as u64 <= MAX_PIXELS);
    if !fits {
        let detail = format!("{}x{} pixels would become {width}x{height}", image.width, image.height);
        return Err(Skip::new(SkipReason::TooLargeImage, detail));
    }
    Ok(pillow::resize(image, width, height))
}

/// The square in the middle, which is inside of a picture whose shorter side it is.
fn middle(image: &RgbImage, size: usize) -> RgbImage {
    let size = size.min(image.width).min(image.height);
    let (left, top) = ((image.width - size) / 2, (image.height - size) / 2);
    let rows = image.pixels.chunks_exact(3 * image.width).skip(top).take(size);
    let pixels = rows.flat_map(|row| row[3 * left..3 * (left + size)].iter().copied()).collect();
    RgbImage { width: size, height: size, pixels }
}

/// Pixels (height, width, 4) with transparency laid over white, as Chameleon does: in floats, fraction cut off.
pub fn over_white(rgba: &[u8], width: usize, height: usize) -> RgbImage {
    let over = |&[r, g, b, a]: &[u8; 4]| {
        let alpha = f64::from(a) / 255.0;
        // `as` cuts the fraction off.
        [r, g, b].map(|value| ((1.0 - alpha) * 255.0 + alpha * f64::from(value)) as u8)
    };
    let pixels = rgba.as_chunks().0.iter().flat_map(over).collect();
    RgbImage { width, height, pixels }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_prepared_is_refused() {
        let image = |width, height| RgbImage::new(width, height);
        assert!(prepare(&image(0, 4), Preparation::Square { size: 8 }).is_err());
        assert!(prepare(&image(7, 9), Preparation::Multiple { of: 8 }).is_err());
        assert!(prepare(&image(7, 9), Preparation::Multiple { of: 0 }).is_err());
        assert!(prepare(&image(7, 9), Preparation::Square { size: 0 }).is_err());
        assert!(prepare(&image(1, 60_000), Preparation::Square { size: 512 }).is_err());
        assert!(
            prepare(&RgbImage { width: 2, height: 2, pixels: vec![0; 5] }, Preparation::Square { size: 8 }).is_err()
        );
    }

    #[test]
    fn pictures_of_the_right_size_stay() {
        let pixels: Vec<u8> = (0..16 * 16 * 3).map(|i| (i % 251) as u8).collect();
        let image = RgbImage { width: 16, height: 16, pixels };
        assert_eq!(prepare(&image, Preparation::Square { size: 16 }).unwrap(), image);
        assert_eq!(prepare(&image, Preparation::Multiple { of: 8 }).unwrap(), image);
        let small = prepare(&image, Preparation::Square { size: 5 }).unwrap();
        assert_eq!((small.width, small.height, small.pixels.len()), (5, 5, 75));
    }
}
