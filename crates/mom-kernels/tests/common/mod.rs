//! Shared by the tests: seeded values, batches of tokens, error measures and finite differences.
#![allow(dead_code, clippy::unwrap_used)]

pub mod mixer;
pub mod ranks;
pub mod scan;

use std::collections::BTreeMap;
use std::ops::Range;

use mom_kernels::{Element, ModalityPlan};

/// Arrays by name: inputs, outputs or gradients of an operation. An input that is absent has no entry.
pub type Fields<T> = BTreeMap<&'static str, Vec<T>>;

/// Seeded values (SplitMix64).
pub struct Noise(u64);

impl Noise {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [-1, 1).
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// `n` values in [centre - spread, centre + spread).
    pub fn values(&mut self, n: usize, centre: f64, spread: f64) -> Vec<f64> {
        (0..n).map(|_| centre + spread * self.unit()).collect()
    }
}

/// A batch of sequences as the loader would hand it over.
#[derive(Debug, Clone)]
pub struct Tokens {
    pub batch: usize,
    pub seqlen: usize,
    pub n_modalities: usize,
    pub ids: Vec<u8>,
    pub starts: Option<Vec<bool>>,
}

impl Tokens {
    /// Random modalities, no document borders.
    pub fn random(seed: u64, batch: usize, seqlen: usize, n_modalities: usize) -> Self {
        let mut noise = Noise::new(seed ^ 0x70_6b_65_6e);
        let ids = (0..batch * seqlen).map(|_| noise.below(n_modalities) as u8).collect();
        Self { batch, seqlen, n_modalities, ids, starts: None }
    }

    /// With a document border at about every seventh position.
    pub fn with_documents(self, seed: u64) -> Self {
        let mut noise = Noise::new(seed);
        let starts = (0..self.batch * self.seqlen).map(|_| noise.below(7) == 0).collect();
        Self { starts: Some(starts), ..self }
    }

    /// With documents of these lengths, one behind the other, in all sequences together.
    pub fn with_lengths(self, lengths: &[usize]) -> Self {
        let mut starts = vec![false; self.batch * self.seqlen];
        let mut first = 0;
        for length in lengths {
            starts[first] = true;
            first += length;
        }
        assert_eq!(first, starts.len(), "documents fill the sequences");
        Self { starts: Some(starts), ..self }
    }

    pub fn plan(&self) -> ModalityPlan {
        ModalityPlan::new(self.batch, self.seqlen, self.n_modalities, &self.ids, self.starts.as_deref()).unwrap()
    }

    pub fn n_rows(&self) -> usize {
        self.batch * self.seqlen
    }

    /// The positions `range` of every sequence.
    pub fn time(&self, range: Range<usize>) -> Self {
        let ids = slice_time(&self.ids, self.batch, range.clone(), 1);
        let starts = self.starts.as_ref().map(|starts| slice_time(starts, self.batch, range.clone(), 1));
        Self { seqlen: range.len(), ids, starts, ..*self }
    }

    pub fn to_rows<T: Copy>(&self, by_position: &[T], width: usize) -> Vec<T> {
        let plan = self.plan();
        plan.position_of_row().iter().flat_map(|&p| by_position[p as usize * width..][..width].to_vec()).collect()
    }

    pub fn to_positions<T: Copy>(&self, by_row: &[T], width: usize) -> Vec<T> {
        let plan = self.plan();
        plan.row_of_position().iter().flat_map(|&r| by_row[r as usize * width..][..width].to_vec()).collect()
    }

    /// Rows of this batch as rows of [`Self::time`].
    pub fn rows_of_time<T: Copy>(&self, by_row: &[T], width: usize, range: Range<usize>) -> Vec<T> {
        let by_position = self.to_positions(by_row, width);
        self.time(range.clone()).to_rows(&slice_time(&by_position, self.batch, range, width), width)
    }
}

fn slice_time<T: Copy>(x: &[T], batch: usize, range: Range<usize>, width: usize) -> Vec<T> {
    let per_sequence = x.len() / batch;
    (0..batch).flat_map(|b| x[b * per_sequence + range.start * width..][..range.len() * width].to_vec()).collect()
}

/// Puts chunks of time behind each other; the inverse of slicing, both by position.
pub fn join_time<T: Copy>(chunks: &[Vec<T>], batch: usize) -> Vec<T> {
    let chunk = |x: &Vec<T>, b: usize| x[b * (x.len() / batch)..][..x.len() / batch].to_vec();
    (0..batch).flat_map(|b| chunks.iter().flat_map(move |x| chunk(x, b))).collect()
}

pub fn to_f64<T: Element>(x: &[T]) -> Vec<f64> {
    x.iter().map(|x| x.to_f64()).collect()
}

pub fn cast<T: Element>(x: &[f64]) -> Vec<T> {
    x.iter().map(|&x| T::from_f64(x)).collect()
}

/// An output before a call: whatever is not written shows.
pub fn poisoned<T: Element>(n: usize) -> Vec<T> {
    vec![T::from_f64(f64::NAN); n]
}

/// ||got - want|| / ||want||; infinite where want is zero and got is not, NaN where got has one.
pub fn relative_error<T: Element>(got: &[T], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let difference: f64 = got.iter().zip(want).map(|(g, w)| (g.to_f64() - w).powi(2)).sum();
    let norm: f64 = want.iter().map(|w| w * w).sum();
    if difference == 0.0 { 0.0 } else { (difference / norm).sqrt() }
}

#[track_caller]
pub fn assert_close<T: Element>(name: &str, got: &[T], want: &[f64], tolerance: f64) {
    let error = relative_error(got, want);
    assert!(error <= tolerance, "{name}: relative error {error:e} above {tolerance:e}");
}

/// Every array of `want` against the one of the same name.
#[track_caller]
pub fn assert_all_close<T: Element>(got: &Fields<T>, want: &Fields<f64>, tolerance: f64) {
    for (name, want) in want {
        assert_close(name, &got[name], want, tolerance);
    }
}

/// Holds `grads` against central differences of `loss`, for every input of the same name.
///
/// Of fourth order, so that the step can be wide and rounding stays far below the tolerance.
#[track_caller]
pub fn check_gradients(fields: &Fields<f64>, grads: &Fields<f64>, loss: impl Fn(&Fields<f64>) -> f64) {
    const STEP: f64 = 1e-3;
    for (&name, grad) in grads {
        let mut moved = fields.clone();
        let numeric: Vec<f64> = (0..grad.len())
            .map(|i| {
                let x = fields[name][i];
                let mut at = |steps: f64| {
                    moved.get_mut(name).unwrap()[i] = x + steps * STEP;
                    loss(&moved)
                };
                let (near, far) = (at(1.0) - at(-1.0), at(2.0) - at(-2.0));
                at(0.0);
                (8.0 * near - far) / (12.0 * STEP)
            })
            .collect();
        assert_close(&format!("gradient of {name}"), grad, &numeric, 1e-8);
    }
}

/// sum(x * weight): a scalar whose gradient by x is `weight`.
pub fn dot(x: &[f64], weight: &[f64]) -> f64 {
    x.iter().zip(weight).map(|(x, w)| x * w).sum()
}

/// Runs `f` in a pool of its own.
pub fn with_threads<R: Send>(n: usize, f: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap().install(f)
}

/// Bits, so that NaN equals itself and -0 differs from 0.
pub fn bits<T: Element>(x: &[T]) -> Vec<u64> {
    x.iter().map(|x| x.to_f64().to_bits()).collect()
}

pub fn all_bits<T: Element>(fields: &Fields<T>) -> BTreeMap<&'static str, Vec<u64>> {
    fields.iter().map(|(&name, x)| (name, bits(x))).collect()
}
