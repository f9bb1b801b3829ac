//! A waveform from log-mel frames: the way back from `mel`.
//!
//! A buzz with some noise, as a voice has, is given the wanted energies by passes after Griffin and Lim: first at a quarter of
//! the hop, to frames interpolated between the wanted ones, so that it sounds smooth; then at the frames themselves. A hop has
//! several times more samples than a frame has values, so nearly every sequence of frames can be met. Everything is a pure
//! function of the frames.

mod griffin_lim;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use realfft::num_complex::Complex;
use realfft::{ComplexToReal, RealFftPlanner};

use super::mel::LogMel;
use crate::rng::{Domain, Stream};

/// Pitch of the buzz, between the usual ones of men and women.
const PITCH_HERTZ: f64 = 120.0;
const PULSE: f32 = 0.5;
/// Largest value of the noise.
const NOISE: f32 = 0.05;
/// Passes at a quarter of the hop.
const FINE_PASSES: usize = 8;
const FINER: usize = 4;
/// Passes at the frames, at most.
const PASSES: usize = 20;
/// Difference of a log-mel value, in nats, that is left as it is: 0.2 dB.
const TOLERANCE: f32 = 0.05;

/// The waveform (n_frames * hop), in [-1, 1], whose frames are nearly `frames` (n_frames, n_mels).
pub(super) fn of_frames(mel: &LogMel, sample_rate: u32, frames: &[f32]) -> Vec<f32> {
    let mut wave = excitation(frames.len() / mel.n_mels() * mel.hop(), sample_rate);
    for _ in 0..FINE_PASSES {
        griffin_lim::pass(mel, &mut wave, frames, FINER);
    }
    refine(mel, &mut wave, frames);
    wave
}

/// Brings the frames of a waveform (n_frames * hop) nearer to `frames` (n_frames, n_mels).
pub(super) fn refine(mel: &LogMel, wave: &mut [f32], frames: &[f32]) {
    for _ in 0..PASSES {
        if griffin_lim::pass(mel, wave, frames, 1) <= TOLERANCE {
            break;
        }
    }
}

/// Pulses at a constant pitch, in noise.
fn excitation(n: usize, sample_rate: u32) -> Vec<f32> {
    let mut stream = Stream::new(0, Domain::Noise, 0, 0);
    let period = |at: usize| (at as f64 * PITCH_HERTZ / f64::from(sample_rate)) as u64;
    let pulse = |at: usize| if period(at) == period(at + 1) { 0.0 } else { PULSE };
    (0..n).map(|at| pulse(at) + stream.range(-NOISE, NOISE)).collect()
}

/// The samples of `wave` under the window whose first sample is `first`: each with its place in the window.
fn under(wave: &mut [f32], first: isize, len: usize) -> impl Iterator<Item = (usize, &mut f32)> {
    let skipped = usize::try_from(-first).unwrap_or(0);
    let start = usize::try_from(first).unwrap_or(0).min(wave.len());
    wave[start..].iter_mut().enumerate().map(move |(i, value)| (i + skipped, value)).take_while(move |(i, _)| *i < len)
}

/// Sum of the squared weights of all windows over each of n samples, for windows that begin every hop / `finer` samples.
fn squares(mel: &LogMel, n: usize, finer: usize) -> Vec<f32> {
    let mut squares = vec![0.0; n];
    for first in firsts(mel, n, finer) {
        for (i, square) in under(&mut squares, first, mel.weights().len()) {
            *square += mel.weights()[i] * mel.weights()[i];
        }
    }
    squares
}

/// First samples of these windows.
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
