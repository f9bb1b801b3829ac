//! Latents of pictures, and the patches that they are cut into.
//!
//! A patch vector holds its values in the order (channel, y, x), as in FLUX; the patches of a picture are in row-major order
//! (patch row, patch column).

use crate::{DataError, Result};

/// Latents (n_patches, patch_dim) as they are, or (channels, height, width) cut into squares of `patch`.
///
/// # Errors
/// [`DataError::Latents`] for another shape, or not as many values as it says.
pub fn to_patches(shape: &[usize], values: &[f32], channels: usize, patch: usize) -> Result<Vec<f32>> {
    let dim = channels * patch * patch;
    let wrong = || {
        let expected = format!("(n, {dim}) or ({channels}, height, width) with sides that {patch} divides");
        DataError::Latents { shape: shape.to_vec(), expected }
    };
    match *shape {
        [n, d] if d == dim && n > 0 && n.checked_mul(d) == Some(values.len()) => Ok(values.to_vec()),
        [c, height, width] if c == channels && fits(height, width, patch) => {
            let expected = c.checked_mul(height).and_then(|n| n.checked_mul(width));
            if expected != Some(values.len()) {
                return Err(wrong());
            }
            let mut out = Vec::with_capacity(values.len());
            for (_, row) in rows(channels, height, width, patch) {
                out.extend_from_slice(&values[row..row + patch]);
            }
            Ok(out)
        }
        _ => Err(wrong()),
    }
}

/// Fails for latents (channels, height, width) of other than equal sides, and for (n_patches, patch_dim) whose patches make no square.
///
/// # Errors
/// [`DataError::Latents`], with the shape.
pub fn expect_square(shape: &[usize]) -> Result<()> {
    let is_square = match *shape {
        [n, _] => n.isqrt() * n.isqrt() == n,
        [_, height, width] => height == width,
        _ => true,
    };
    let wrong = || DataError::Latents { shape: shape.to_vec(), expected: "those of a square picture".to_owned() };
    if is_square { Ok(()) } else { Err(wrong()) }
}

/// Latents (channels, height, width) of patches (n_patches, patch_dim): the inverse of [`to_patches`].
///
/// # Errors
/// [`DataError::Latents`] for sides that `patch` does not divide, or not as many values as they ask for.
pub fn from_patches(patches: &[f32], channels: usize, height: usize, width: usize, patch: usize) -> Result<Vec<f32>> {
    let n = channels.checked_mul(height).and_then(|n| n.checked_mul(width));
    if !fits(height, width, patch) || n != Some(patches.len()) {
        let expected = format!("patches of {patch} x {patch} that make up ({channels}, {height}, {width})");
        return Err(DataError::Latents { shape: vec![patches.len()], expected });
    }
    let mut latents = vec![0.0; patches.len()];
    for (from, to) in rows(channels, height, width, patch) {
        latents[to..to + patch].copy_from_slice(&patches[from..from + patch]);
    }
    Ok(latents)
}

fn fits(height: usize, width: usize, patch: usize) -> bool {
    patch > 0 && height > 0 && width > 0 && height.is_multiple_of(patch) && width.is_multiple_of(patch)
}

/// Where each row of `patch` values begins in patches, and where in latents.
fn rows(channels: usize, height: usize, width: usize, patch: usize) -> impl Iterator<Item = (usize, usize)> {
    let tops = (0..height).step_by(patch);
    let corners = tops.flat_map(move |top| (0..width).step_by(patch).map(move |left| (top, left)));
    let places = corners.flat_map(move |(top, left)| {
        (0..channels).flat_map(move |channel| (top..top + patch).map(move |y| (channel * height + y) * width + left))
    });
    places.enumerate().map(move |(i, at)| (i * patch, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latents_are_cut_by_channel_row_and_column() {
        // Two channels of 2 x 4, in squares of 2.
        let values: Vec<f32> = (0..16u8).map(f32::from).collect();
        let cut = to_patches(&[2, 2, 4], &values, 2, 2).unwrap();
        assert_eq!(cut, [0., 1., 4., 5., 8., 9., 12., 13., 2., 3., 6., 7., 10., 11., 14., 15.]);
        assert_eq!(from_patches(&cut, 2, 2, 4, 2).unwrap(), values);
        assert_eq!(to_patches(&[2, 8], &values, 2, 2).unwrap(), values);
        for shape in [&[2, 4, 2][..], &[16], &[4, 4], &[2, 3, 4], &[0, 8], &[2, 2, usize::MAX - 1]] {
            let cut = to_patches(shape, &values, 2, 2);
            assert!(shape == [2, 4, 2] || cut.is_err(), "{shape:?}");
        }
        assert!([&[2, 4, 4][..], &[4, 8], &[1, 8]].into_iter().all(|shape| expect_square(shape).is_ok()));
        assert!([&[2, 2, 8][..], &[2, 4, 2], &[8, 8]].into_iter().all(|shape| expect_square(shape).is_err()));
        assert!(from_patches(&cut, 2, 2, 3, 2).is_err() && from_patches(&cut, 2, 4, 4, 2).is_err());
        let message = to_patches(&[2, 3, 4], &values, 2, 2).unwrap_err().to_string();
        assert_eq!(
            message,
            "latents of shape [2, 3, 4], expected (n, 8) or (2, height, width) with sides that 2 divides"
        );
    }
}
