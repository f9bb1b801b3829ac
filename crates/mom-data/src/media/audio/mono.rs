//! Samples of all channels become the mean of the channels, checked as they come.

use super::{AudioFacts, MAX_FRAMES, MAX_LEVEL, Recording, SAMPLE_RATES, broken};
use crate::readers::{Skip, SkipReason};

/// A mono mix that grows.
#[derive(Debug)]
pub(super) struct Mono {
    sample_rate: u32,
    channels: usize,
    values: Vec<f32>,
}

impl Mono {
    /// An empty mix, with room for `n_frames` that are known to be there.
    pub fn new(sample_rate: u32, channels: usize, n_frames: usize) -> Result<Self, Skip> {
        if !SAMPLE_RATES.contains(&sample_rate) {
            return Err(broken(format!("{sample_rate} samples per second")));
        }
        if channels == 0 || channels > usize::from(u16::MAX) {
            return Err(broken(format!("{channels} channels")));
        }
        if n_frames as u64 > MAX_FRAMES {
            return Err(too_long());
        }
        Ok(Self { sample_rate, channels, values: Vec::with_capacity(n_frames) })
    }

    pub fn sample_rate(&self) -> u32 {
        self.sample_rate
    }

    pub fn frames(&self) -> u64 {
        self.values.len() as u64
    }

    /// Whether samples of this kind may follow.
    pub fn fits(&self, sample_rate: u32, channels: usize) -> bool {
        (self.sample_rate, self.channels) == (sample_rate, channels)
    }

    /// Appends interleaved samples.
    pub fn extend(&mut self, interleaved: &[f32]) -> Result<(), Skip> {
        if self.frames() + (interleaved.len() / self.channels) as u64 > MAX_FRAMES {
            return Err(too_long());
        }
        for frame in interleaved.chunks_exact(self.channels) {
            if let Some(value) = frame.iter().find(|value| value.is_nan() || value.abs() > MAX_LEVEL) {
                let place = self.values.len();
                return Err(Skip::new(SkipReason::NonFiniteAudio, format!("sample {place} is {value:e}")));
            }
            self.values.push(frame.iter().sum::<f32>() / self.channels as f32);
        }
        Ok(())
    }

    /// The recording without its first `delay` frames, at most `length` frames long.
    pub fn finish(mut self, delay: u64, length: u64) -> Result<Recording, Skip> {
        let delay = usize::try_from(delay).unwrap_or(usize::MAX).min(self.values.len());
        self.values.drain(..delay);
        self.values.truncate(usize::try_from(length).unwrap_or(usize::MAX));
        if self.values.is_empty() {
            return Err(Skip::new(SkipReason::EmptyAudio, ""));
        }
        let power: f64 = self.values.iter().map(|&value| f64::from(value).powi(2)).sum();
        let facts = AudioFacts {
            sample_rate: self.sample_rate,
            channels: self.channels as u16,
            frames: self.frames(),
            seconds: self.values.len() as f64 / f64::from(self.sample_rate),
            rms: (power / self.values.len() as f64).sqrt(),
        };
        Ok(Recording { facts, mono: self.values })
    }
}

fn too_long() -> Skip {
    broken(format!("longer than the {MAX_FRAMES} samples per channel that are read"))
}
