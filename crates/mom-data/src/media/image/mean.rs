//! Mean colour of an image as it is stored: alpha is ignored, and 16-bit values keep their low bits.

use image::{DynamicImage, Primitive};

/// Mean R, G and B, 0 to 255. Grey counts for all three.
pub(super) fn rgb(image: &DynamicImage) -> [f64; 3] {
    match image {
        DynamicImage::ImageLuma8(pixels) => of(pixels, 1, 1.0),
        DynamicImage::ImageLumaA8(pixels) => of(pixels, 2, 1.0),
        DynamicImage::ImageRgb8(pixels) => of(pixels, 3, 1.0),
        DynamicImage::ImageRgba8(pixels) => of(pixels, 4, 1.0),
        DynamicImage::ImageLuma16(pixels) => of(pixels, 1, 255.0 / 65535.0),
        DynamicImage::ImageLumaA16(pixels) => of(pixels, 2, 255.0 / 65535.0),
        DynamicImage::ImageRgb16(pixels) => of(pixels, 3, 255.0 / 65535.0),
        DynamicImage::ImageRgba16(pixels) => of(pixels, 4, 255.0 / 65535.0),
        // What else there is (floats of a TIFF) has no range of its own: as the pixels are shown.
        other => of(&other.to_rgb8(), 3, 1.0),
    }
}

/// Means over pixels of `n_channels` values, one or two of which are grey, and the last of two or four alpha.
fn of<T: Primitive>(values: &[T], n_channels: usize, scale: f64) -> [f64; 3] {
    let n_colours = if n_channels < 3 { 1 } else { 3 };
    let mut sums = [0.0; 3];
    for pixel in values.chunks_exact(n_channels) {
        for (sum, value) in sums.iter_mut().zip(&pixel[..n_colours]) {
            // Whole numbers: exact up to 2^53.
            *sum += value.to_f64().unwrap_or(0.0);
        }
    }
    let n_pixels = (values.len() / n_channels).max(1) as f64;
    let mean = sums.map(|sum| sum / n_pixels * scale);
    if n_colours == 1 { [mean[0]; 3] } else { mean }
}
