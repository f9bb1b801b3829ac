//! Samples of a WAV become floats, full scale 1.0.

use super::broken;
use super::mono::Mono;
use crate::readers::Skip;

/// How one sample is stored, little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// 8 bits, 128 is zero.
    Unsigned8,
    /// Two's complement of 2, 3 or 4 bytes. A sample of fewer bits stands in the upper ones, so full scale is that of the
    /// bytes.
    Signed {
        /// Bytes of a sample.
        n_bytes: usize,
    },
    Float32,
    Float64,
    /// G.711.
    ALaw,
    /// G.711.
    MuLaw,
}

impl Layout {
    pub const fn n_bytes(self) -> usize {
        match self {
            Self::Unsigned8 | Self::ALaw | Self::MuLaw => 1,
            Self::Signed { n_bytes } => n_bytes,
            Self::Float32 => 4,
            Self::Float64 => 8,
        }
    }

    /// The sample in `bytes`, which are as many as [`Self::n_bytes`].
    fn value(self, bytes: &[u8]) -> f32 {
        match (self, bytes) {
            (Self::Unsigned8, &[byte]) => (f32::from(byte) - 128.0) / 128.0,
            (Self::ALaw, &[byte]) => a_law(byte),
            (Self::MuLaw, &[byte]) => mu_law(byte),
            (Self::Signed { .. }, &[a, b]) => f32::from(i16::from_le_bytes([a, b])) / 32_768.0,
            (Self::Signed { .. }, &[a, b, c]) => (i32::from_le_bytes([0, a, b, c]) >> 8) as f32 / 8_388_608.0,
            (Self::Signed { .. }, &[a, b, c, d]) => i32::from_le_bytes([a, b, c, d]) as f32 / 2_147_483_648.0,
            (Self::Float32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
            (Self::Float64, &[a, b, c, d, e, f, g, h]) => f64::from_le_bytes([a, b, c, d, e, f, g, h]) as f32,
            // No layout has another number of bytes; NaN is refused.
            _ => f32::NAN,
        }
    }
}

/// Mixes interleaved samples. Bytes behind the last whole frame are dropped.
pub(super) fn mix(data: &[u8], layout: Layout, sample_rate: u32, channels: usize) -> Result<Mono, Skip> {
    /// Frames that are converted at a time.
    const BLOCK: usize = 4096;
    let frame_bytes = layout.n_bytes() * channels;
    if frame_bytes == 0 {
        return Err(broken("no channels"));
    }
    let mut mono = Mono::new(sample_rate, channels, data.len() / frame_bytes)?;
    let mut values = Vec::with_capacity(channels * BLOCK.min(data.len() / frame_bytes));
    for block in data.chunks(frame_bytes * BLOCK) {
        values.clear();
        values.extend(block.chunks_exact(layout.n_bytes()).map(|bytes| layout.value(bytes)));
        mono.extend(&values)?;
    }
    Ok(mono)
}

/// G.711's 13-bit A-law: even bits inverted, then sign, three bits of exponent, four of mantissa.
fn a_law(byte: u8) -> f32 {
    let code = byte ^ 0x55;
    let (exponent, mantissa) = (code >> 4 & 7, i16::from(code & 15));
    let magnitude = if exponent == 0 { 2 * mantissa + 1 } else { (2 * mantissa + 33) << (exponent - 1) };
    // In A-law a set sign bit is positive.
    f32::from(if code & 0x80 == 0 { -magnitude } else { magnitude }) / 4096.0
}

/// G.711's 14-bit mu-law: all bits inverted, then as A-law, with a bias of 33.
fn mu_law(byte: u8) -> f32 {
    let code = !byte;
    let (exponent, mantissa) = (code >> 4 & 7, i16::from(code & 15));
    let magnitude = ((2 * mantissa + 33) << exponent) - 33;
    f32::from(if code & 0x80 == 0 { magnitude } else { -magnitude }) / 8192.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g711_spans_its_range() {
        let ends = [0x00, 0x7f, 0x80, 0xff].map(mu_law);
        assert_eq!(ends, [-8031.0 / 8192.0, 0.0, 8031.0 / 8192.0, 0.0]);
        assert_eq!(
            [0xaa, 0x2a, 0xd5, 0x55].map(a_law),
            [4032.0 / 4096.0, -4032.0 / 4096.0, 1.0 / 4096.0, -1.0 / 4096.0]
        );
    }
}
