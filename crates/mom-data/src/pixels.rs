//! RGB images, and the patches they are cut into.
//!
//! A patch vector holds its pixels in the order (y, x, channel), scaled from 0..255 to [-1, 1]; the patches of an image
//! are in row-major order (patch row, patch column).

use crate::error::require;
use crate::{DataError, Result};

/// An image of 8-bit RGB pixels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RgbImage {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Pixels (height, width, 3).
    pub pixels: Vec<u8>,
}

impl RgbImage {
    /// A black image.
    pub fn new(width: usize, height: usize) -> Self {
        Self { width, height, pixels: vec![0; width * height * 3] }
    }

    /// The pixel in column `x` of row `y`.
    ///
    /// # Panics
    /// If the pixel is outside the image.
    pub fn pixel(&self, x: usize, y: usize) -> [u8; 3] {
        let at = (y * self.width + x) * 3;
        [self.pixels[at], self.pixels[at + 1], self.pixels[at + 2]]
    }
}

/// Values of one patch: `patch * patch * 3`.
pub const fn patch_dim(patch: usize) -> usize {
    patch * patch * 3
}

/// Patches of a square image of `size` pixels.
///
/// # Errors
/// [`DataError::Config`] if `patch` does not divide `size`.
pub fn n_patches(size: usize, patch: usize) -> Result<usize> {
    let divides = patch > 0 && size > 0 && size.is_multiple_of(patch);
    require(divides, "patch", &format!("a divisor of the image size {size}"), patch)?;
    Ok((size / patch) * (size / patch))
}

/// Appends the patches of a square image to `out`: (n_patches, patch_dim) f32 in [-1, 1].
///
/// # Errors
/// [`DataError::Config`] if `patch` does not divide `size`; [`DataError::Length`] if `pixels` is not (size, size, 3).
pub fn to_patches(pixels: &[u8], size: usize, patch: usize, out: &mut Vec<f32>) -> Result<()> {
    let n = n_patches(size, patch)?;
    check_length("pixels", size * size * 3, pixels.len())?;
    out.reserve(n * patch_dim(patch));
    for top in (0..size).step_by(patch) {
        for left in (0..size).step_by(patch) {
            for y in top..top + patch {
                let row = &pixels[(y * size + left) * 3..][..patch * 3];
                out.extend(row.iter().map(|&value| f32::from(value) * (2.0 / 255.0) - 1.0));
            }
        }
    }
    Ok(())
}

/// The image of patches (n_patches, patch_dim): the inverse of [`to_patches`]; values are rounded and clamped, NaN
/// becomes black.
///
/// # Errors
/// [`DataError::Config`] if `patch` does not divide `size`; [`DataError::Length`] if there are too many or few values.
pub fn from_patches(patches: &[f32], size: usize, patch: usize) -> Result<RgbImage> {
    check_length("patches", n_patches(size, patch)? * patch_dim(patch), patches.len())?;
    let mut image = RgbImage::new(size, size);
    let per_row = size / patch;
    for (index, values) in patches.chunks_exact(patch_dim(patch)).enumerate() {
        let (top, left) = (index / per_row * patch, index % per_row * patch);
        for (y, row) in values.chunks_exact(patch * 3).enumerate() {
            let target = &mut image.pixels[((top + y) * size + left) * 3..][..patch * 3];
            for (pixel, &value) in target.iter_mut().zip(row) {
                // `as` saturates, and sends NaN to 0.
                *pixel = ((value + 1.0) * 127.5).round() as u8;
            }
        }
    }
    Ok(image)
}

pub(crate) fn check_length(what: &'static str, expected: usize, got: usize) -> Result<()> {
    if expected == got { Ok(()) } else { Err(DataError::Length { what, expected, got }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_are_row_major_and_invert() {
        let size = 8;
        let pixels: Vec<u8> = (0..size * size * 3).map(|i| (i % 251) as u8).collect();
        let mut patches = Vec::new();
        to_patches(&pixels, size, 4, &mut patches).unwrap();
        // Patch 1, row 2, column 3, channel 1 is pixel (x 7, y 2).
        let value = patches[48 + (2 * 4 + 3) * 3 + 1];
        assert_eq!(value, f32::from(pixels[(2 * size + 7) * 3 + 1]) * (2.0 / 255.0) - 1.0);
        assert_eq!(from_patches(&patches, size, 4).unwrap().pixels, pixels);
        assert!(patches.iter().all(|v| (-1.0..=1.0).contains(v)));
    }

    #[test]
    fn wrong_sizes_are_errors() {
        assert!(n_patches(32, 5).is_err());
        assert!(n_patches(32, 0).is_err());
        assert!(to_patches(&[0; 5], 8, 4, &mut Vec::new()).is_err());
        assert!(from_patches(&[0.0; 5], 8, 4).is_err());
        let wild = from_patches(&[f32::NAN, 9.0, -9.0], 1, 1).unwrap();
        assert_eq!(wild.pixels, [0, 255, 0]);
    }
}
