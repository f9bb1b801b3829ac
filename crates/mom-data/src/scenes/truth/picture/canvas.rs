//! A picture as it is read: 32 x 32 pixels, RGB in [0, 1].

use crate::RgbImage;

/// Side of a canvas in pixels.
pub(super) const SIDE: usize = 32;
/// Pixels of a canvas.
pub(super) const AREA: usize = SIDE * SIDE;

pub(super) type Rgb = [f32; 3];

/// Pixels, row by row.
pub(super) struct Canvas {
    pub pixels: Vec<Rgb>,
}

impl Canvas {
    /// Each pixel is the mean over its part of the image.
    pub fn of(image: &RgbImage) -> Self {
        let (across, down) = (shares(image.width), shares(image.height));
        let mut pixels = vec![[0.0; 3]; AREA];
        for (at, pixel) in pixels.iter_mut().enumerate() {
            for &(row, of_row) in &down[at / SIDE] {
                for &(column, of_column) in &across[at % SIDE] {
                    let from = 3 * (row * image.width + column);
                    let Some(rgb) = image.pixels.get(from..from + 3) else { continue };
                    for (value, &byte) in pixel.iter_mut().zip(rgb) {
                        *value += of_row * of_column * f32::from(byte) / 255.0;
                    }
                }
            }
        }
        Self { pixels }
    }
}

/// For each pixel of the canvas the pixels of an image side that it stands for, with weights that sum to one.
fn shares(side: usize) -> Vec<Vec<(usize, f32)>> {
    let scale = side as f32 / SIDE as f32;
    let of = |at: usize| {
        let (low, high) = (at as f32 * scale, (at + 1) as f32 * scale);
        let last = (high.ceil() as usize).min(side);
        let share = |i: usize| ((i + 1) as f32).min(high) - (i as f32).max(low);
        (low as usize..last).map(|i| (i, share(i).max(0.0) / scale)).collect()
    };
    (0..SIDE).map(of).collect()
}

pub(super) fn squared_distance(a: Rgb, b: Rgb) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}
