//! Denoising diffusion (DDPM, arXiv 2006.11239) with the cosine schedule (arXiv 2102.09672).
//!
//! ```text
//! x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) epsilon
//! loss = mean (epsilon_model(x_t, t) - epsilon)^2
//! ```

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::Result;
use crate::error::require;

/// Steps of the forward process.
pub const N_TIMESTEPS: u32 = 1000;

/// Share of the signal's variance that is left after step t in 0..[`N_TIMESTEPS`].
///
/// Cosine schedule with offset 0.008; each step's beta is at most 0.999.
pub fn alpha_bar(t: u32) -> f64 {
    let f = |t: f64| {
        let angle = (t / f64::from(N_TIMESTEPS) + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2;
        angle.cos().powi(2)
    };
    let step = f64::from(t) + 1.0;
    if t + 1 >= N_TIMESTEPS {
        // f is zero at the end; the bound on beta keeps a thousandth of the step before.
        return f(step - 1.0) / f(0.0) * 1e-3;
    }
    f(step) / f(0.0)
}

/// The sinusoidal features of a timestep: cosines, then sines, of `n / 2` frequencies from 1 to 1e-4.
pub fn time_features(t: u32, n: usize) -> impl Iterator<Item = f64> {
    let half = n / 2;
    let angle = move |i: usize| f64::from(t) * 1e-4f64.powf(i as f64 / half as f64);
    (0..half).map(move |i| angle(i).cos()).chain((0..half).map(move |i| angle(i).sin()))
}

/// Ancestral sampling: from noise to an image, step by step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampler {
    n_steps: u32,
}

impl Sampler {
    /// So many of the [`N_TIMESTEPS`] steps, evenly spaced.
    ///
    /// # Errors
    /// No step, or more than there are.
    pub fn new(n_steps: u32) -> Result<Self> {
        require((1..=N_TIMESTEPS).contains(&n_steps), "n_steps", "between 1 and 1000", n_steps)?;
        Ok(Self { n_steps })
    }

    /// Runs all steps and gives the values of the image, in [-1, 1].
    ///
    /// `noise()` draws as many standard normal values as the image has; `epsilon(x, t)` is the model: the noise that it sees in
    /// x at timestep t. In every step the clean image is estimated and kept in range, and x moves to the mean of the posterior
    /// of the step before (DDPM, equation 7), with the posterior's noise in all steps but the last.
    ///
    /// # Errors
    /// Those of `noise` and `epsilon`.
    pub fn run(
        self,
        mut noise: impl FnMut() -> Result<Vec<f64>>,
        mut epsilon: impl FnMut(&[f64], u32) -> Result<Vec<f64>>,
    ) -> Result<Vec<f64>> {
        // Evenly spaced up to the last timestep, where nothing of an image is left: however few the steps, the first one
        // sees what it was trained on.
        let timestep = |i: u32| ((i + 1) * N_TIMESTEPS).div_ceil(self.n_steps) - 1;
        let mut x = noise()?;
        for i in (0..self.n_steps).rev() {
            let t = timestep(i);
            let epsilon = epsilon(&x, t)?;
            let bar = alpha_bar(t);
            let previous = if i == 0 { 1.0 } else { alpha_bar(timestep(i - 1)) };
            let alpha = bar / previous;
            let from_clean = previous.sqrt() * (1.0 - alpha) / (1.0 - bar);
            let from_noisy = alpha.sqrt() * (1.0 - previous) / (1.0 - bar);
            let deviation = ((1.0 - alpha) * (1.0 - previous) / (1.0 - bar)).sqrt();
            let noise = if i > 0 { noise()? } else { vec![0.0; x.len()] };
            for ((x, e), noise) in x.iter_mut().zip(epsilon).zip(noise) {
                let clean = ((*x - (1.0 - bar).sqrt() * e) / bar.sqrt()).clamp(-1.0, 1.0);
                *x = from_clean * clean + from_noisy * *x + deviation * noise;
            }
        }
        Ok(x)
    }
}

/// Timesteps of the images of a batch and the noise of their patches.
#[derive(Debug, Clone, PartialEq)]
pub struct Noise {
    /// One for each image, in 0..[`N_TIMESTEPS`].
    pub timesteps: Vec<u32>,
    /// `(n_patches, patch_dim)`, standard normal.
    pub epsilon: Vec<f32>,
}

/// Standard normal draws, by Box and Muller: two at a time. (A ziggurat, as rand_distr has it, takes a varying number of random
/// words, and no thread could find its place in the stream.)
pub(crate) fn normals(rng: &mut impl Rng, n: usize) -> Vec<f64> {
    let mut values: Vec<f64> = std::iter::repeat_with(|| normal_pair(rng)).take(n.div_ceil(2)).flatten().collect();
    values.truncate(n);
    values
}

fn normal_pair(rng: &mut impl Rng) -> [f64; 2] {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    let (sin, cos) = (std::f64::consts::TAU * rng.random::<f64>()).sin_cos();
    [radius * cos, radius * sin]
}

/// What [`normals`] draws, by as many threads as there are: each finds its place in the generator's stream.
fn normals_in_parallel(rng: &ChaCha8Rng, n: usize) -> Vec<f32> {
    const CHUNK: usize = 4096;
    // Two draws take two random numbers of 64 bits each, in words of 32.
    const WORDS_PER_VALUE: u128 = 2;
    let first = rng.get_word_pos();
    let mut values = vec![0.0; n];
    values.par_chunks_mut(CHUNK).enumerate().for_each(|(i, values)| {
        let mut rng = rng.clone();
        rng.set_word_pos(first + WORDS_PER_VALUE * (i * CHUNK) as u128);
        for pair in values.chunks_mut(2) {
            for (value, drawn) in pair.iter_mut().zip(normal_pair(&mut rng)) {
                *value = drawn as f32;
            }
        }
    });
    values
}

/// How timesteps are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timesteps {
    /// Each uniformly, on its own: for training.
    Independent,
    /// One in each of n equal parts of the range, in a drawn order: for validation, where it lowers the variance.
    Stratified,
}

impl Noise {
    /// Draws from a stream that is a function of `(seed, index)` alone, so that nothing need be saved to go on.
    pub fn draw(seed: u64, index: u64, n_images: usize, n_values: usize, timesteps: Timesteps) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..16].copy_from_slice(&index.to_le_bytes());
        key[16..24].copy_from_slice(b"epsilon ");
        let mut rng = ChaCha8Rng::from_seed(key);
        let mut strata: Vec<usize> = (0..n_images).collect();
        for i in (1..n_images).rev() {
            strata.swap(i, rng.random_range(0..=i));
        }
        let timesteps = strata
            .iter()
            .map(|&stratum| {
                let u = rng.random::<f64>();
                let share = match timesteps {
                    Timesteps::Independent => u,
                    Timesteps::Stratified => (stratum as f64 + u) / n_images as f64,
                };
                ((share * f64::from(N_TIMESTEPS)) as u32).min(N_TIMESTEPS - 1)
            })
            .collect();
        let epsilon = normals_in_parallel(&rng, n_values);
        Self { timesteps, epsilon }
    }

    /// That of some of its images, whose values are given by their range in all values.
    ///
    /// # Panics
    /// Where it has fewer.
    pub fn images(&self, images: std::ops::Range<usize>, values: std::ops::Range<usize>) -> Self {
        Self { timesteps: self.timesteps[images].to_vec(), epsilon: self.epsilon[values].to_vec() }
    }

    /// That of some of its images, and of some of its patches, `patch_dim` values each.
    ///
    /// # Panics
    /// Where it has fewer.
    pub fn chosen(&self, images: &[usize], patches: &[usize], patch_dim: usize) -> Self {
        let of_patch = |patch: &usize| &self.epsilon[patch * patch_dim..][..patch_dim];
        Self {
            timesteps: images.iter().map(|&image| self.timesteps[image]).collect(),
            epsilon: patches.iter().flat_map(of_patch).copied().collect(),
        }
    }

    /// The noisy patches: `clean` is `(n_patches, patch_dim)`, `images` the image of each patch.
    pub fn add_to(&self, clean: &[f32], images: &[u32]) -> Vec<f32> {
        let patch_dim = (clean.len() / images.len().max(1)).max(1);
        let mut noisy = clean.to_vec();
        noisy
            .par_chunks_exact_mut(patch_dim)
            .zip(self.epsilon.par_chunks_exact(patch_dim))
            .zip(self.factors(images))
            .with_min_len(64)
            .for_each(|((patch, epsilon), [signal, noise])| {
                for (x, epsilon) in patch.iter_mut().zip(epsilon) {
                    *x = signal * *x + noise * epsilon;
                }
            });
        noisy
    }

    /// What each patch's signal and its noise are multiplied by.
    pub(crate) fn factors(&self, images: &[u32]) -> Vec<[f32; 2]> {
        let of_image: Vec<[f32; 2]> = self
            .timesteps
            .iter()
            .map(|&t| {
                let alpha_bar = alpha_bar(t);
                [alpha_bar.sqrt() as f32, (1.0 - alpha_bar).sqrt() as f32]
            })
            .collect();
        images.iter().map(|&image| of_image[image as usize]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedule_falls_from_one_to_zero_and_keeps_its_bound() {
        let bars: Vec<f64> = (0..N_TIMESTEPS).map(alpha_bar).collect();
        assert!(bars[0] > 0.9999 && bars[999] > 0.0 && bars[999] < 1e-6);
        assert!((bars[499] - 0.4938).abs() < 1e-3, "{}", bars[499]);
        for pair in bars.windows(2) {
            let beta = 1.0 - pair[1] / pair[0];
            assert!(beta > 0.0 && beta <= 0.999 + 1e-12, "{beta}");
        }
    }

    #[test]
    fn noise_is_standard_normal_and_a_function_of_its_key() {
        let noise = Noise::draw(1, 2, 100, 40_001, Timesteps::Independent);
        assert_eq!(noise, Noise::draw(1, 2, 100, 40_001, Timesteps::Independent));
        assert_ne!(noise, Noise::draw(1, 3, 100, 40_001, Timesteps::Independent));
        let n = noise.epsilon.len() as f64;
        let moment = |k: i32| noise.epsilon.iter().map(|&e| f64::from(e).powi(k)).sum::<f64>() / n;
        assert!(moment(1).abs() < 0.02 && (moment(2) - 1.0).abs() < 0.03 && (moment(4) - 3.0).abs() < 0.2);
    }

    /// Where an image's values are normal around a mean, the best guess of the noise is known.
    #[test]
    fn the_sampler_finds_the_distribution_that_an_analytic_model_knows() {
        let (mean, deviation) = (0.2, 0.15);
        for (n_steps, off) in [(50, 0.03), (250, 0.01), (1000, 0.004)] {
            let mut rng = ChaCha8Rng::seed_from_u64(3);
            let n = 20_000;
            let epsilon = |x: &[f64], t: u32| {
                let bar = alpha_bar(t);
                let variance = bar * deviation * deviation + 1.0 - bar;
                Ok(x.iter().map(|x| (1.0 - bar).sqrt() * (x - bar.sqrt() * mean) / variance).collect())
            };
            let x = Sampler::new(n_steps).unwrap().run(|| Ok(normals(&mut rng, n)), epsilon).unwrap();
            let m = x.iter().sum::<f64>() / n as f64;
            let d = (x.iter().map(|x| (x - m).powi(2)).sum::<f64>() / n as f64).sqrt();
            // The posterior is that of a clean image that is known; what is not known of it is left out, which counts for
            // less the smaller the steps are.
            assert!((m - mean).abs() < 0.005 && (d - deviation).abs() < off, "{n_steps} steps: {m} {d}");
        }
        // A single image is found to the last digit that f64 keeps, however few the steps.
        let image = [-0.9, 0.1, 1.0];
        let known = |x: &[f64], t: u32| {
            let bar = alpha_bar(t);
            Ok(x.iter().zip(image).map(|(x, clean)| (x - bar.sqrt() * clean) / (1.0 - bar).sqrt()).collect())
        };
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        let x = Sampler::new(4).unwrap().run(|| Ok(normals(&mut rng, 3)), known).unwrap();
        assert!(x.iter().zip(image).all(|(x, clean)| (x - clean).abs() < 1e-9), "{x:?}");
        assert!(Sampler::new(0).is_err() && Sampler::new(1001).is_err());
    }

    #[test]
    fn threads_draw_what_one_would() {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        // An odd place in the stream, as a drawn order leaves it.
        rng.random::<u32>();
        for n in [0, 1, 4096, 4097, 10_000] {
            let one: Vec<f32> = normals(&mut rng.clone(), n).into_iter().map(|e| e as f32).collect();
            assert_eq!(normals_in_parallel(&rng, n), one);
        }
    }

    #[test]
    fn stratified_timesteps_fill_the_range_evenly() {
        let mut timesteps = Noise::draw(1, 2, 20, 0, Timesteps::Stratified).timesteps;
        timesteps.sort_unstable();
        for (i, t) in timesteps.iter().enumerate() {
            assert!((i as u32 * 50..(i as u32 + 1) * 50).contains(t), "{i}: {t}");
        }
    }

    #[test]
    fn noisy_patches_keep_the_variance_of_a_unit_signal() {
        let noise = Noise { timesteps: vec![0, 999], epsilon: vec![1.0, -1.0, 2.0, 0.5] };
        let noisy = noise.add_to(&[0.5, 0.25, 1.0, -1.0], &[0, 1]);
        assert!((noisy[0] - 0.5).abs() < 0.02 && (noisy[2] - 2.0).abs() < 1e-2 && (noisy[3] - 0.5).abs() < 1e-2);
    }
}
