//! The colours of an object: one, or two where its surface shows as many.

use super::super::super::kinds::Colour;
use super::canvas::{Rgb, squared_distance};

/// Mean squared distance from one colour, lit more and less, above which a surface has two.
const ONE: f32 = 0.012;
/// Least squared distance of two colours from each other.
const APART: f32 = 0.06;

/// Names of the colours that pixels of an object have, and their mean.
pub(super) fn of_pixels(pixels: &[Rgb]) -> (Vec<Colour>, Rgb) {
    let all = mean(pixels.iter());
    let from_one: f32 =
        pixels.iter().map(|pixel| apart_from_lit(*pixel, all)).sum::<f32>() / pixels.len().max(1) as f32;
    let ends = ends(pixels, all);
    if from_one < ONE || squared_distance(ends[0], ends[1]) < APART {
        return (vec![nearest(all)], all);
    }
    let mut names = ends.map(nearest).to_vec();
    names.dedup();
    (names, all)
}

/// The colour that is nearest.
pub(super) fn nearest(rgb: Rgb) -> Colour {
    let mut best = (Colour::ALL[0], f32::MAX);
    for colour in Colour::ALL {
        let distance = squared_distance(rgb, colour.rgb());
        if distance < best.1 {
            best = (colour, distance);
        }
    }
    best.0
}

fn mean<'a>(pixels: impl Iterator<Item = &'a Rgb>) -> Rgb {
    let (mut sum, mut n) = ([0.0; 3], 0);
    for pixel in pixels {
        sum.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += value);
        n += 1;
    }
    sum.map(|value: f32| value / n.max(1) as f32)
}

/// Squared distance of a pixel from a colour that is lit as the pixel is; light itself is a little of a distance.
fn apart_from_lit(pixel: Rgb, colour: Rgb) -> f32 {
    let norm: f32 = colour.iter().map(|c| c * c).sum::<f32>().max(1e-4);
    let lit = colour.iter().zip(pixel).map(|(c, p)| c * p).sum::<f32>() / norm;
    let lit = lit.clamp(0.55, 1.45);
    squared_distance(pixel, colour.map(|c| c * lit)) + 0.1 * (lit - 1.0) * (lit - 1.0) * norm
}

/// Means of the quarter of the pixels that lie farthest to either end of the direction in which they differ most.
fn ends(pixels: &[Rgb], mean_of_all: Rgb) -> [Rgb; 2] {
    let centred = |pixel: &Rgb| -> Rgb { std::array::from_fn(|i| pixel[i] - mean_of_all[i]) };
    // The first principal axis, by powers of the covariance.
    let mut axis: Rgb = [0.61, 0.57, 0.55];
    for _ in 0..12 {
        let mut next = [0.0f32; 3];
        for pixel in pixels.iter().map(centred) {
            let along: f32 = pixel.iter().zip(axis).map(|(p, a)| p * a).sum();
            next.iter_mut().zip(pixel).for_each(|(next, p)| *next += along * p);
        }
        let norm = next.iter().map(|v| v * v).sum::<f32>().sqrt();
        if norm < 1e-9 {
            break;
        }
        axis = next.map(|v| v / norm);
    }
    let along = |pixel: &Rgb| -> f32 { centred(pixel).iter().zip(axis).map(|(p, a)| p * a).sum() };
    let mut sorted: Vec<&Rgb> = pixels.iter().collect();
    sorted.sort_by(|a, b| along(a).total_cmp(&along(b)));
    let quarter = (sorted.len() / 4).max(1).min(sorted.len());
    [mean(sorted[..quarter].iter().copied()), mean(sorted[sorted.len() - quarter..].iter().copied())]
}
