//! Pixels of 8 bits as the tensors that image codecs take, and back.

use candle_core::{DType, Device, Tensor};

use super::error::require_argument;
use crate::Result;

/// How a decoded picture's values become 8 bits: the two publishers' rules differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToBytes {
    /// Chameleon's and BFL's: clamp to [-1, 1], `(x + 1) / 2 * 255`, fraction cut off.
    CutOff,
    /// diffusers': `x / 2 + 0.5` clamped to [0, 1], `* 255`, rounded half to even.
    Round,
}

/// Pixels `(batch, height, width, 3)` of 8 bits as `(batch, 3, height, width)` f32 in [-1, 1]: `x / 255 * 2 - 1`.
///
/// # Errors
/// No pixels, or not as many as the sides say; out of memory.
pub fn from_bytes(pixels: &[u8], batch: usize, height: usize, width: usize, device: &Device) -> Result<Tensor> {
    let expected = [height, width, 3].iter().try_fold(batch, |n, &side| n.checked_mul(side));
    let shape = format!("({batch}, {height}, {width}, 3)");
    let fits = Some(pixels.len()) == expected && !pixels.is_empty();
    require_argument(fits, "pixels", "pixels", shape, format!("{} values", pixels.len()))?;
    // A table, so that every value is the publishers' to the last bit: candle divides by multiplying.
    let values: Vec<f32> = (0..=255u8).map(|byte| (f64::from(byte) / 255.0 * 2.0 - 1.0) as f32).collect();
    let area = height * width;
    let mut planes = vec![0.0; pixels.len()];
    for (plane, pixels) in planes.chunks_exact_mut(3 * area).zip(pixels.chunks_exact(3 * area)) {
        for channel in 0..3 {
            let of = pixels[channel..].iter().step_by(3);
            for (value, &byte) in plane[channel * area..(channel + 1) * area].iter_mut().zip(of) {
                *value = values[usize::from(byte)];
            }
        }
    }
    Ok(Tensor::from_vec(planes, (batch, 3, height, width), device)?)
}

/// A decoded picture `(batch, 3, height, width)` as pixels `(batch, height, width, 3)` of 8 bits; NaN becomes 0.
///
/// # Errors
/// A tensor of another shape.
pub fn to_bytes(image: &Tensor, rule: ToBytes) -> Result<Vec<u8>> {
    let dims = image.dims().to_vec();
    let fits = dims.len() == 4 && dims[1] == 3;
    require_argument(fits, "pixels", "image", "(batch, 3, height, width)", format!("{dims:?}"))?;
    let values = image.to_dtype(DType::F32)?.permute((0, 2, 3, 1))?.flatten_all()?.to_vec1::<f32>()?;
    // `as` saturates, and takes NaN for 0.
    let byte = |x: f32| match rule {
        ToBytes::CutOff => ((x.clamp(-1.0, 1.0) + 1.0) / 2.0 * 255.0) as u8,
        ToBytes::Round => ((x / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8,
    };
    Ok(values.into_iter().map(byte).collect())
}
