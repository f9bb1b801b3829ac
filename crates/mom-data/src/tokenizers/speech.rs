//! Speech units: k-means over log-mel frames, as HuBERT-like units are over learned features.
//!
//! Frames are shifted and scaled per mel band to mean 0 and variance 1 (fitted on the training split); the unit of a frame
//! is the index of the nearest centroid; runs of one unit are merged unless configured otherwise.

use std::path::Path;

use super::mel::LogMel;
use super::{Repeats, SpeechConfig, kmeans, tensors};
use crate::{DataError, Result};

/// A codebook of log-mel frames.
#[derive(Clone)]
pub struct SpeechCodebook {
    mel: LogMel,
    repeats: Repeats,
    mean: Vec<f32>,
    deviation: Vec<f32>,
    centroids: kmeans::Centroids,
}

impl std::fmt::Debug for SpeechCodebook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SpeechCodebook")
            .field("n_units", &self.n_units())
            .field("n_mels", &self.mel.n_mels())
            .field("repeats", &self.repeats)
            .finish_non_exhaustive()
    }
}

impl SpeechCodebook {
    /// Fits to log-mel frames (n_frames, n_mels), at least one; also how many units no frame is nearest to.
    pub(crate) fn fit(
        mel: LogMel,
        mut frames: Vec<f32>,
        config: &SpeechConfig,
        seed: u64,
        progress: &mut dyn FnMut(usize, usize),
    ) -> (Self, usize) {
        let (mean, deviation) = statistics(&frames, config.n_mels);
        normalise(&mut frames, &mean, &deviation);
        let fitted = kmeans::fit(&frames, config.n_mels, config.units, seed, progress);
        let codebook = Self { mel, repeats: config.repeats, mean, deviation, centroids: fitted.centroids };
        (codebook, fitted.n_empty)
    }

    /// Number of units.
    pub fn n_units(&self) -> usize {
        self.centroids.len()
    }

    /// Units of a waveform at the configured rate; one per frame, runs merged if so configured.
    pub fn encode(&self, wave: &[f32]) -> Vec<u32> {
        let mut frames = self.mel.frames(wave);
        normalise(&mut frames, &self.mean, &self.deviation);
        let mut units = self.centroids.assign(&frames);
        if self.repeats == Repeats::Merged {
            units.dedup();
        }
        units
    }

    /// Log-mel frame (n_mels) that a unit stands for.
    ///
    /// # Errors
    /// [`DataError::Token`] for a unit outside the codebook.
    pub fn decode(&self, unit: u32) -> Result<Vec<f32>> {
        let size = self.n_units() as u32;
        let outside = DataError::Token { token: unit, range: "speech unit", start: 0, end: size, size };
        let row = self.centroids.row(unit).ok_or(outside)?;
        Ok(row.iter().zip(&self.mean).zip(&self.deviation).map(|((v, mean), dev)| v * dev + mean).collect())
    }

    pub(super) fn save(&self, path: &Path) -> Result<()> {
        let (units, mels) = (self.centroids.len(), self.centroids.dim());
        tensors::save(
            path,
            &[
                ("centroids", &[units, mels], self.centroids.rows()),
                ("deviation", &[mels], &self.deviation),
                ("mean", &[mels], &self.mean),
            ],
        )
    }

    /// What a fingerprint is made of.
    pub(super) fn bytes(&self) -> Vec<u8> {
        [self.centroids.rows(), &self.mean[..], &self.deviation[..]].map(bytemuck::cast_slice).concat()
    }

    pub(super) fn load(path: &Path, config: &SpeechConfig) -> Result<Self> {
        let file = tensors::load(path)?;
        let rows = file.take("centroids", &[config.units, config.n_mels])?;
        Ok(Self {
            mel: LogMel::new(config),
            repeats: config.repeats,
            mean: file.take("mean", &[config.n_mels])?,
            deviation: file.take("deviation", &[config.n_mels])?,
            centroids: kmeans::Centroids::new(rows, config.n_mels),
        })
    }
}

/// Mean and standard deviation of each column of (n, dim).
fn statistics(points: &[f32], dim: usize) -> (Vec<f32>, Vec<f32>) {
    let n = (points.len() / dim) as f64;
    let (mut sums, mut squares) = (vec![0.0f64; dim], vec![0.0f64; dim]);
    for point in points.chunks_exact(dim) {
        for (d, &value) in point.iter().enumerate() {
            sums[d] += f64::from(value);
            squares[d] += f64::from(value) * f64::from(value);
        }
    }
    let mean: Vec<f64> = sums.iter().map(|sum| sum / n).collect();
    let deviation = squares.iter().zip(&mean).map(|(square, mean)| (square / n - mean * mean).max(1e-6).sqrt());
    (mean.iter().map(|&m| m as f32).collect(), deviation.map(|d| d as f32).collect())
}

fn normalise(frames: &mut [f32], mean: &[f32], deviation: &[f32]) {
    for frame in frames.chunks_exact_mut(mean.len()) {
        for ((value, mean), deviation) in frame.iter_mut().zip(mean).zip(deviation) {
            *value = (*value - mean) / deviation;
        }
    }
}
