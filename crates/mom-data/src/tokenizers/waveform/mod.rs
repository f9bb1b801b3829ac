//! A waveform from log-mel frames: the way back from `mel`.
//!
//! A buzz with some noise, as a voice has, is given the wanted energies by passes after Griffin and Lim: first at a quarter of
//! the hop, to frames interpolated between the wanted ones, so that it sounds smooth; then at the frames themselves. A hop has
//! several times more samples than a frame has values, so nearly every sequence of frames can be met. Everything is a pure
//! function of the frames.

mod griffin_lim;
#[cfg(test)]
mod tests;

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
