//! Passes after Griffin and Lim (1984), "Signal estimation from modified short-time Fourier transform".
//!
//! The spectrum of each window is changed to what is wanted, and the waveform becomes the one whose windows are nearest to
//! these in least squares: x_n = sum_f w y_f / sum_f w^2 (their equation 6), which is x_n + sum_f w (y_f - w x) / sum_f w^2.
//! They know the magnitude of each bin; here only the energy in each mel filter is known, so each bin is scaled by
//! exp((wanted - actual) / 2), the mean over the filters that hear it. Bins that none hears fall silent.

use std::sync::Arc;

use realfft::num_complex::Complex;
use realfft::{ComplexToReal, RealFftPlanner};

use crate::tokenizers::mel::LogMel;

/// Largest difference of a log-mel value, in nats, that one pass takes away.
const STEP: f32 = 20.0;

/// One pass over windows that begin every hop / `finer` samples, towards `frames` (n_frames, n_mels), in between
/// interpolated. Gives the largest difference of a log-mel value that it met.
pub(super) fn pass(mel: &LogMel, wave: &mut [f32], frames: &[f32], finer: usize) -> f32 {
    let n_mels = mel.n_mels();
    let squares = squares(mel, wave.len(), finer);
    let (mut window, mut inverse) = (mel.window(), Inverse::new(mel));
    let mut gains = vec![(0.0f32, 0.0f32); window.spectrum.len()];
    let before = wave.to_vec();
    let mut worst = 0.0f32;
    for (at, first) in firsts(mel, wave.len(), finer).enumerate() {
        let here = &frames[at / finer * n_mels..][..n_mels];
        let next = frames.get((at / finer + 1) * n_mels..).filter(|next| !next.is_empty()).unwrap_or(here);
        let share = (at % finer) as f32 / finer as f32;
        window.look(&before, first);
        gains.fill((0.0, 0.0));
        for (((here, next), actual), (bin, weights)) in here.iter().zip(next).zip(window.log_mels()).zip(mel.filters())
        {
            let difference = here + share * (next - here) - actual;
            worst = worst.max(difference.abs());
            let gain = (0.5 * difference.clamp(-STEP, STEP)).exp();
            for ((sum, heard), weight) in gains[*bin..].iter_mut().zip(weights) {
                *sum += weight * gain;
                *heard += weight;
            }
        }
        for (value, (sum, heard)) in window.spectrum.iter_mut().zip(&gains) {
            *value *= if *heard > 0.0 { sum / heard - 1.0 } else { -1.0 };
        }
        let change = inverse.run(&mut window.spectrum);
        let start = usize::try_from(first).unwrap_or(0);
        for ((i, value), square) in under(wave, first, mel.weights().len()).zip(&squares[start..]) {
            *value += mel.weights()[i] * change[i] / square.max(f32::MIN_POSITIVE);
        }
    }
    // Nothing is NaN but for a codebook of absurd values.
    wave.iter_mut().for_each(|value| *value = if value.is_nan() { 0.0 } else { value.clamp(-1.0, 1.0) });
    worst
}

/// The samples of `wave` under the window whose first sample is `first`: each with its place in the window.
fn under(wave: &mut [f32], first: isize, len: usize) -> impl Iterator<Item = (usize, &mut f32)> {
    let skipped = usize::try_from(-first).unwrap_or(0);
    let start = usize::try_from(first).unwrap_or(0).min(wave.len());
    wave[start..].iter_mut().enumerate().map(move |(i, value)| (i + skipped, value)).take_while(move |(i, _)| *i < len)
}

/// Sum of the squared weights of all windows over each of n samples.
fn squares(mel: &LogMel, n: usize, finer: usize) -> Vec<f32> {
    let mut squares = vec![0.0; n];
    for first in firsts(mel, n, finer) {
        for (i, square) in under(&mut squares, first, mel.weights().len()) {
            *square += mel.weights()[i] * mel.weights()[i];
        }
    }
    squares
}

/// First sample of each window.
fn firsts(mel: &LogMel, n: usize, finer: usize) -> impl Iterator<Item = isize> {
    let n_windows = (n / mel.hop()).saturating_sub(1) * finer + usize::from(n >= mel.hop());
    (0..n_windows).map(move |at| mel.first(at * mel.hop() / finer))
}

/// The way back from the spectrum of a window.
struct Inverse {
    fft: Arc<dyn ComplexToReal<f32>>,
    scratch: Vec<Complex<f32>>,
    values: Vec<f32>,
}

impl Inverse {
    fn new(mel: &LogMel) -> Self {
        let fft = RealFftPlanner::new().plan_fft_inverse(mel.weights().len().next_power_of_two());
        Self { scratch: fft.make_scratch_vec(), values: fft.make_output_vec(), fft }
    }

    /// The values (fft_len) of a spectrum, which is lost.
    fn run(&mut self, spectrum: &mut [Complex<f32>]) -> &[f32] {
        // The spectrum of real values is real at both ends.
        spectrum.iter_mut().take(1).for_each(|value| value.im = 0.0);
        spectrum.iter_mut().last().into_iter().for_each(|value| value.im = 0.0);
        // Lengths come from the plan itself, so that this cannot fail; were it to, nothing would be changed.
        if self.fft.process_with_scratch(spectrum, &mut self.values, &mut self.scratch).is_err() {
            self.values.fill(0.0);
        }
        let scale = 1.0 / self.values.len() as f32;
        self.values.iter_mut().for_each(|value| *value *= scale);
        &self.values
    }
}
