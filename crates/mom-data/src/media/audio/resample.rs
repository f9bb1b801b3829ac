//! Resampling: a spectrum is cut or extended, block by block, behind a filter that keeps what cannot be represented out.

use rubato::audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Fft, FixedSync, ResampleError, Resampler, WindowFunction};

use super::SAMPLE_RATES;

/// Samples of a block at the lower of the two rates, at least: the filter is as long, and passes what lies below 98 % of
/// the lower Nyquist frequency.
const MIN_BLOCK: usize = 1024;

/// Resamples mono samples from one rate to another, in Hz. The result has `ceil(n * to / from)` samples, of which each
/// stands for the same time as before; what lies outside of the recording is silence. Nothing comes of a rate outside of
/// [`SAMPLE_RATES`].
pub fn resample(mono: &[f32], from: u32, to: u32) -> Vec<f32> {
    if from == to {
        return mono.to_vec();
    }
    if mono.is_empty() || !SAMPLE_RATES.contains(&from) || !SAMPLE_RATES.contains(&to) {
        return Vec::new();
    }
    let n_out = (mono.len() as u64 * u64::from(to)).div_ceil(u64::from(from)) as usize;
    let mut out = blocks(mono, from as usize, to as usize).unwrap_or_default();
    // The resampler finds the length with floats, which may be one off.
    out.resize(n_out, 0.0);
    out
}

fn blocks(mono: &[f32], from: usize, to: usize) -> Option<Vec<f32>> {
    let common = gcd(from, to);
    let (unit_in, unit_out) = (from / common, to / common);
    // An even number of samples, so that half a block, by which the filter delays, is whole at both rates.
    let n_units = MIN_BLOCK.div_ceil(unit_in.min(unit_out)).next_multiple_of(2);
    let window = WindowFunction::BlackmanHarris2;
    let mut resampler = Fft::<f32>::new_custom(from, to, n_units * unit_in, 1, 1, window, FixedSync::Both).ok()?;
    let input = InterleavedSlice::new(mono, 1, mono.len()).ok()?;
    let out: Result<_, ResampleError> = resampler.process_all(&input, mono.len(), None);
    Some(out.ok()?.take_data())
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}
