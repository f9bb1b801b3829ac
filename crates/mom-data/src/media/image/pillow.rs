//! Pillow's `resize` with its `LANCZOS` filter on 8-bit pixels, to the last bit: image tokenizers were trained on what it
//! gives, and codes of pixels that are off by one can differ.
//!
//! `image`'s filter of that name works in floats and rounds once; Pillow rounds coefficients to 22 bits, resizes along rows,
//! rounds to 8 bits, then along columns. Source: `src/libImaging/Resample.c` of Pillow.

use std::f64::consts::PI;

use crate::pixels::RgbImage;

/// Bits behind the point of a coefficient: 32, less 8 of a pixel, less 2 of a sum that overshoots.
const PRECISION: u32 = 32 - 8 - 2;

/// Reach of the filter, in pixels of the smaller picture.
const SUPPORT: f64 = 3.0;

/// A picture of other sides, both above 0.
pub(super) fn resize(image: &RgbImage, width: usize, height: usize) -> RgbImage {
    let mut image = image.clone();
    if width != image.width {
        image = along_rows(&image, &windows(image.width, width));
    }
    if height != image.height {
        image = along_columns(&image, &windows(image.height, height));
    }
    image
}

/// The pixels that one pixel is made of, and their coefficients.
struct Window {
    first: usize,
    coefficients: Vec<i32>,
}

fn windows(size_in: usize, size_out: usize) -> Vec<Window> {
    let scale = size_in as f64 / size_out as f64;
    // Enlarged pictures are interpolated: the filter never gets narrower than its pixels.
    let filter_scale = scale.max(1.0);
    let support = SUPPORT * filter_scale;
    (0..size_out)
        .map(|out| {
            let centre = (out as f64 + 0.5) * scale;
            let first = (centre - support + 0.5).max(0.0) as usize;
            let end = ((centre + support + 0.5) as usize).min(size_in);
            let weights: Vec<f64> =
                (first..end).map(|x| lanczos((x as f64 - centre + 0.5) * (1.0 / filter_scale))).collect();
            let sum: f64 = weights.iter().sum();
            let fixed = |weight: f64| {
                let scaled = if sum == 0.0 { weight } else { weight / sum } * f64::from(1 << PRECISION);
                // Half away from zero.
                (if scaled < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32
            };
            Window { first, coefficients: weights.into_iter().map(fixed).collect() }
        })
        .collect()
}

fn lanczos(x: f64) -> f64 {
    let sinc = |x: f64| if x == 0.0 { 1.0 } else { (x * PI).sin() / (x * PI) };
    if (-SUPPORT..SUPPORT).contains(&x) { sinc(x) * sinc(x / SUPPORT) } else { 0.0 }
}

/// A sum of products as a pixel.
fn pixel(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

const HALF: i32 = 1 << (PRECISION - 1);

fn along_rows(image: &RgbImage, windows: &[Window]) -> RgbImage {
    let mut pixels = Vec::with_capacity(windows.len() * image.height * 3);
    for row in image.pixels.chunks_exact(image.width * 3) {
        for window in windows {
            let mut sums = [HALF; 3];
            let (seen, _) = row[3 * window.first..].as_chunks::<3>();
            for (pixel, &coefficient) in seen.iter().zip(&window.coefficients) {
                for (sum, &value) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(value) * coefficient;
                }
            }
            pixels.extend(sums.map(pixel));
        }
    }
    RgbImage { width: windows.len(), height: image.height, pixels }
}

fn along_columns(image: &RgbImage, windows: &[Window]) -> RgbImage {
    let n = image.width * 3;
    let mut pixels = Vec::with_capacity(windows.len() * n);
    let mut sums = vec![HALF; n];
    for window in windows {
        sums.fill(HALF);
        let rows = image.pixels.chunks_exact(n).skip(window.first);
        for (row, &coefficient) in rows.zip(&window.coefficients) {
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += i32::from(value) * coefficient;
            }
        }
        pixels.extend(sums.iter().copied().map(pixel));
    }
    RgbImage { width: image.width, height: windows.len(), pixels }
}
