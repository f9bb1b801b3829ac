//! Speech units: k-means over log-mel frames, as HuBERT-like units are over learned features.
//!
//! Frames are shifted and scaled per mel band to mean 0 and variance 1 (fitted on the training split); the unit of a frame
//! is the index of the nearest centroid; runs of one unit are merged unless configured otherwise. The way back goes from
//! units to centroids, held for as long as runs of their unit last on average, to a waveform.

use std::ops::Range;
use std::path::Path;

use super::mel::LogMel;
use super::{Repeats, SPEECH_UNITS_PER_SEC, SpeechConfig, kmeans, tensors, waveform};
use crate::{DataError, Result};

/// Frames that a run of one unit lasts on average where no consecutive frames told: as in generated speech, where it is 1.14
/// with 128 units at 8 kHz and 1.07 with 500 at 16 kHz.
const FRAMES_OF_RUN: f32 = 1.1;
/// Frames of the longest average run that is believed: ten seconds.
const MAX_FRAMES_OF_RUN: f32 = 250.0;
/// How often frames that stand for another unit are aimed farther away from it, at most.
const ROUNDS: usize = 30;
const RUN_LENGTHS: &str = "run_lengths";

/// A codebook of log-mel frames.
#[derive(Clone)]
pub struct SpeechCodebook {
    mel: LogMel,
    repeats: Repeats,
    mean: Vec<f32>,
    deviation: Vec<f32>,
    centroids: kmeans::Centroids,
    /// Mean frames of a run of each unit (n_units), 1 at least. No token depends on it.
    run_lengths: Vec<f32>,
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
    /// Fits to log-mel frames (n_frames, n_mels), at least one; also how many units no frame is nearest to. `stretches` are
    /// the frames that follow one another in a recording: runs of units are measured there.
    pub(crate) fn fit(
        mel: LogMel,
        mut frames: Vec<f32>,
        stretches: &[Range<usize>],
        config: &SpeechConfig,
        seed: u64,
        progress: &mut dyn FnMut(usize, usize),
    ) -> (Self, usize) {
        let (mean, deviation) = statistics(&frames, config.n_mels);
        normalise(&mut frames, &mean, &deviation);
        let fitted = kmeans::fit(&frames, config.n_mels, config.units, seed, progress);
        let centroids = fitted.centroids;
        let units = stretches.iter().filter_map(|stretch| {
            let frames = frames.get(stretch.start * config.n_mels..stretch.end * config.n_mels)?;
            Some(centroids.assign(frames))
        });
        let run_lengths = run_lengths(units, centroids.len());
        let codebook = Self { mel, repeats: config.repeats, mean, deviation, centroids, run_lengths };
        (codebook, fitted.n_empty)
    }

    /// Number of units.
    pub fn n_units(&self) -> usize {
        self.centroids.len()
    }

    /// Units of a waveform at the configured rate; one per frame, runs merged if so configured.
    pub fn encode(&self, wave: &[f32]) -> Vec<u32> {
        let mut units = self.nearest(wave);
        if self.repeats == Repeats::Merged {
            units.dedup();
        }
        units
    }

    /// Whether runs of one unit are merged.
    pub(crate) fn merges(&self) -> bool {
        self.repeats == Repeats::Merged
    }

    /// Samples a second of the waveforms that it reads and makes.
    pub fn sample_rate(&self) -> u32 {
        self.mel.hop() as u32 * SPEECH_UNITS_PER_SEC
    }

    /// Unit of each frame of a waveform.
    pub(crate) fn nearest(&self, wave: &[f32]) -> Vec<u32> {
        let mut frames = self.mel.frames(wave);
        normalise(&mut frames, &self.mean, &self.deviation);
        self.centroids.assign(&frames)
    }

    /// Log-mel frame (n_mels) that a unit stands for.
    ///
    /// # Errors
    /// [`DataError::Token`] for a unit outside the codebook.
    pub fn decode(&self, unit: u32) -> Result<Vec<f32>> {
        let row = self.centroids.row(unit).ok_or_else(|| self.outside(unit))?;
        Ok(row.iter().zip(&self.mean).zip(&self.deviation).map(|((v, mean), dev)| v * dev + mean).collect())
    }

    fn outside(&self, token: u32) -> DataError {
        let size = self.n_units() as u32;
        DataError::Token { token, range: "speech unit", start: 0, end: size, size }
    }

    /// A waveform that sounds as units say: mono samples at the configured rate, in [-1, 1].
    ///
    /// Where repeats are kept, a unit lasts one frame, 1/25 s. Where they are merged, it lasts as long as its runs did on
    /// average where the codebook was fitted to consecutive frames of a recording; units that follow one another share what
    /// rounding leaves over. Passes after Griffin and Lim (1984, see `waveform`) bring the frames of the waveform to the
    /// centroids of its units; a frame that [`Self::encode`] would still take for another unit is then aimed farther away
    /// from that one. So the same units are heard again, as far as their frames can follow one another at all; two equal
    /// neighbours, which no merged encoding has, are heard as one.
    ///
    /// # Shapes
    /// `units` (n_units); returns (n_frames * sample_rate / 25), empty for no units.
    ///
    /// # Errors
    /// [`DataError::Token`] for a unit outside the codebook.
    pub fn synthesize(&self, units: &[u32]) -> Result<Vec<f32>> {
        let held = self.held(units)?;
        let wanted: Vec<f32> = held.iter().map(|&unit| self.decode(unit)).collect::<Result<Vec<_>>>()?.concat();
        let mut wave = waveform::of_frames(&self.mel, self.sample_rate(), &wanted);
        let mut aims = wanted;
        for _ in 0..ROUNDS {
            let heard = self.nearest(&wave);
            if heard == held {
                break;
            }
            for (aim, (unit, heard)) in aims.chunks_exact_mut(self.mel.n_mels()).zip(held.iter().zip(heard)) {
                let (right, wrong) = (self.decode(*unit)?, self.decode(heard)?);
                aim.iter_mut().zip(right.iter().zip(wrong)).for_each(|(aim, (right, wrong))| *aim += right - wrong);
            }
            waveform::refine(&self.mel, &mut wave, &aims);
        }
        Ok(wave)
    }

    /// The unit of each frame.
    fn held(&self, units: &[u32]) -> Result<Vec<u32>> {
        // Frames that are due so far.
        let mut due = 0.0;
        let mut held = Vec::new();
        for &unit in units {
            due += match (self.repeats, self.run_lengths.get(unit as usize)) {
                (_, None) => return Err(self.outside(unit)),
                (Repeats::Kept, _) => 1.0,
                (Repeats::Merged, Some(length)) => f64::from(*length),
            };
            let n = (due - held.len() as f64).round().max(1.0) as usize;
            held.extend(std::iter::repeat_n(unit, n));
        }
        Ok(held)
    }

    pub(super) fn save(&self, path: &Path) -> Result<()> {
        let (units, mels) = (self.centroids.len(), self.centroids.dim());
        tensors::save(
            path,
            &[
                ("centroids", &[units, mels], self.centroids.rows()),
                ("deviation", &[mels], &self.deviation),
                ("mean", &[mels], &self.mean),
                (RUN_LENGTHS, &[units], &self.run_lengths),
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
        // Files of before there was a way back lack it.
        let run_lengths = match file.has(RUN_LENGTHS)? {
            true => file.take(RUN_LENGTHS, &[config.units])?,
            false => vec![FRAMES_OF_RUN; config.units],
        };
        if !run_lengths.iter().all(|length| (1.0..=MAX_FRAMES_OF_RUN).contains(length)) {
            let reason = format!("tensor {RUN_LENGTHS}: expected 1 to {MAX_FRAMES_OF_RUN} frames");
            return Err(DataError::Codebook { path: path.to_path_buf(), reason });
        }
        Ok(Self {
            mel: LogMel::new(config),
            repeats: config.repeats,
            mean: file.take("mean", &[config.n_mels])?,
            deviation: file.take("deviation", &[config.n_mels])?,
            centroids: kmeans::Centroids::new(rows, config.n_mels),
            run_lengths,
        })
    }
}

/// Mean frames of a run of each unit, from units of consecutive frames: of n frames of a unit that have a next one, those
/// whose next one differs end a run, so that the cut ends of a stretch do not count. The mean of all units counts as one more
/// run of each.
fn run_lengths(stretches: impl Iterator<Item = Vec<u32>>, n_units: usize) -> Vec<f32> {
    let (mut frames, mut ends) = (vec![0.0f64; n_units], vec![0.0f64; n_units]);
    for units in stretches {
        for pair in units.windows(2) {
            frames[pair[0] as usize] += 1.0;
            ends[pair[0] as usize] += if pair[0] == pair[1] { 0.0 } else { 1.0 };
        }
    }
    let (all, all_ends) = (frames.iter().sum::<f64>(), ends.iter().sum::<f64>());
    let mean = if all_ends > 0.0 { all / all_ends } else { f64::from(FRAMES_OF_RUN) };
    let length = |(frames, ends): (&f64, &f64)| ((frames + mean) / (ends + 1.0)) as f32;
    frames.iter().zip(&ends).map(length).map(|length| length.clamp(1.0, MAX_FRAMES_OF_RUN)).collect()
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
