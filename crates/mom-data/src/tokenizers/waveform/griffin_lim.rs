//! Passes after Griffin and Lim (1984), "Signal estimation from modified short-time Fourier transform".
//!
//! The spectrum of each window is changed to what is wanted, and the waveform becomes the one whose windows are nearest to
//! these in least squares: x_n = sum_f w y_f / sum_f w^2 (their equation 6), which is x_n + sum_f w (y_f - w x) / sum_f w^2.
//! They know the magnitude of each bin; here only the energy in each mel filter is known, so each bin is scaled by
//! exp((wanted - actual) / 2), the mean over the filters that hear it. Bins that none hears fall silent.

use super::{Inverse, firsts, squares, under};
use crate::tokenizers::mel::LogMel;

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
            let gain = (0.5 * difference).exp();
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
    wave.iter_mut().for_each(|value| *value = value.clamp(-1.0, 1.0));
    worst
}
