//! Log-mel frames of a waveform.
//!
//! Frame f covers a Hann window of 1.6 hops around the sample (f + 1/2) * hop; outside the waveform lies silence. The power
//! spectrum, scaled so that a full-scale sine has power 1/4, is summed by triangular filters that are equally wide on the
//! mel scale m = 2595 log10(1 + Hz / 700), and the natural logarithm of 1e-7 + power is taken.

use std::sync::Arc;

use realfft::num_complex::Complex;
use realfft::{RealFftPlanner, RealToComplex};

use super::SpeechConfig;

/// Lower edge of the lowest filter, in Hz.
const LOWEST_HERTZ: f64 = 60.0;
const FLOOR: f32 = 1e-7;

/// Computes log-mel frames at one sample rate.
#[derive(Clone)]
pub(crate) struct LogMel {
    hop: usize,
    window: Vec<f32>,
    fft: Arc<dyn RealToComplex<f32>>,
    /// First bin and weights of each filter.
    filters: Vec<(usize, Vec<f32>)>,
}

impl LogMel {
    pub fn new(config: &SpeechConfig) -> Self {
        let hop = config.hop();
        let window_len = hop * 8 / 5;
        let fft_len = window_len.next_power_of_two();
        let hann = |i: usize| 0.5 - 0.5 * (std::f64::consts::TAU * (i as f64 + 0.5) / window_len as f64).cos();
        // The sum of a Hann window is half its length.
        let scale = 2.0 / window_len as f64;
        Self {
            hop,
            window: (0..window_len).map(|i| (hann(i) * scale) as f32).collect(),
            fft: RealFftPlanner::new().plan_fft_forward(fft_len),
            filters: mel_filters(config.n_mels, fft_len, f64::from(config.sample_rate)),
        }
    }

    pub fn n_mels(&self) -> usize {
        self.filters.len()
    }

    /// Samples from one frame to the next.
    pub fn hop(&self) -> usize {
        self.hop
    }

    /// Frames (n_frames, n_mels) of a waveform; n_frames = ceil(n / hop).
    pub fn frames(&self, wave: &[f32]) -> Vec<f32> {
        let n_frames = wave.len().div_ceil(self.hop);
        let mut out = Vec::with_capacity(n_frames * self.n_mels());
        let mut window = self.window();
        for frame in 0..n_frames {
            window.look(wave, self.first(frame * self.hop));
            out.extend(window.log_mels());
        }
        out
    }

    /// First sample under the window of the frame that begins at `start`; below 0 at the beginning of a waveform.
    pub(super) fn first(&self, start: usize) -> isize {
        (start + self.hop / 2) as isize - (self.window.len() / 2) as isize
    }

    /// Room to look at one window after another.
    pub(super) fn window(&self) -> Window<'_> {
        let spectrum = self.fft.make_output_vec();
        Window {
            mel: self,
            buffer: self.fft.make_input_vec(),
            scratch: self.fft.make_scratch_vec(),
            power: vec![0.0; spectrum.len()],
            spectrum,
        }
    }

    /// The window (1.6 hops), scaled as the power is.
    pub(super) fn weights(&self) -> &[f32] {
        &self.window
    }

    /// First bin and weights of each filter.
    pub(super) fn filters(&self) -> &[(usize, Vec<f32>)] {
        &self.filters
    }
}

/// The spectrum of one window of a waveform.
pub(super) struct Window<'a> {
    mel: &'a LogMel,
    buffer: Vec<f32>,
    scratch: Vec<Complex<f32>>,
    power: Vec<f32>,
    /// Of the waveform times [`LogMel::weights`], (fft_len / 2 + 1).
    pub spectrum: Vec<Complex<f32>>,
}

impl Window<'_> {
    /// Computes the spectrum of the window whose first sample is `first`.
    pub fn look(&mut self, wave: &[f32], first: isize) {
        self.buffer.fill(0.0);
        for (i, (slot, weight)) in self.buffer.iter_mut().zip(&self.mel.window).enumerate() {
            let at = first + i as isize;
            *slot = usize::try_from(at).ok().and_then(|at| wave.get(at)).map_or(0.0, |value| value * weight);
        }
        // Lengths come from the plan itself, so that this cannot fail; were it to, the frame would be silence.
        if self.mel.fft.process_with_scratch(&mut self.buffer, &mut self.spectrum, &mut self.scratch).is_err() {
            self.spectrum.fill(Complex::default());
        }
    }

    /// The log-mel frame (n_mels) of this spectrum.
    pub fn log_mels(&mut self) -> impl Iterator<Item = f32> {
        self.power.iter_mut().zip(&self.spectrum).for_each(|(power, value)| *power = value.norm_sqr());
        self.mel.filters.iter().map(|(first, weights)| {
            let sum: f32 = weights.iter().zip(&self.power[*first..]).map(|(weight, power)| weight * power).sum();
            (FLOOR + sum).ln()
        })
    }
}

fn mel_filters(n_mels: usize, fft_len: usize, sample_rate: f64) -> Vec<(usize, Vec<f32>)> {
    let mel = |hertz: f64| 2595.0 * (1.0 + hertz / 700.0).log10();
    let hertz = |mel: f64| 700.0 * (10f64.powf(mel / 2595.0) - 1.0);
    let (low, high) = (mel(LOWEST_HERTZ), mel(sample_rate / 2.0));
    let bin_of =
        |edge: usize| hertz(low + (high - low) * edge as f64 / (n_mels + 1) as f64) * fft_len as f64 / sample_rate;
    (0..n_mels)
        .map(|filter| {
            let (left, centre, right) = (bin_of(filter), bin_of(filter + 1), bin_of(filter + 2));
            // The lowest filters may be narrower than a bin: each takes at least the bin nearest to its centre.
            let first = (left.ceil() as usize).min(centre.round() as usize);
            let last = (right.floor() as usize).max(centre.round() as usize).min(fft_len / 2);
            let weight = |bin: usize| {
                let x = bin as f64;
                let slope = if x <= centre { (x - left) / (centre - left) } else { (right - x) / (right - centre) };
                if bin == centre.round() as usize { slope.max(0.5) } else { slope.max(0.0) }
            };
            (first, (first..=last).map(|bin| weight(bin) as f32).collect())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tone_peaks_in_the_filter_of_its_frequency() {
        let config = SpeechConfig::default();
        let mel = LogMel::new(&config);
        let mut last_peak = 0;
        for hertz in [200.0f32, 600.0, 1500.0, 3000.0] {
            let wave: Vec<f32> = (0..8000).map(|i| (std::f32::consts::TAU * hertz * i as f32 / 8000.0).sin()).collect();
            let frames = mel.frames(&wave);
            assert_eq!(frames.len(), 25 * 40);
            let frame = &frames[12 * 40..13 * 40];
            let peak = (0..40).max_by(|&a, &b| frame[a].total_cmp(&frame[b])).unwrap();
            assert!(peak > last_peak, "{hertz} Hz peaks in filter {peak}");
            assert!(frame[peak] > frame[(peak + 20) % 40] + 5.0);
            last_peak = peak;
        }
    }

    #[test]
    fn every_filter_hears_something_and_short_waves_have_a_frame() {
        for (_, weights) in mel_filters(40, 512, 8000.0) {
            assert!(weights.iter().sum::<f32>() >= 0.5);
        }
        let mel = LogMel::new(&SpeechConfig::default());
        assert_eq!(mel.frames(&[0.1]).len(), 40);
        assert!(mel.frames(&[0.0; 400]).iter().all(|v| v.is_finite()));
    }
}
