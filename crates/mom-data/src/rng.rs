//! Seeded random streams. A stream is a pure function of its seed, a domain and two counters: nothing depends on the
//! number of threads, on call order, or on the platform. All draws come from ChaCha8 words by integer arithmetic or an
//! exact scaling, so that the permutation of an epoch is the same everywhere.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Separates the streams that share a seed. The numbers are part of the data format: never renumber.
#[derive(Debug, Clone, Copy)]
#[repr(u64)]
pub(crate) enum Domain {
    Scene = 1,
    Caption = 2,
    Voice = 3,
    Noise = 4,
    Form = 6,
    Codebook = 7,
    FitSubset = 8,
    Packing = 9,
}

/// A random stream.
pub(crate) struct Stream(ChaCha8Rng);

impl Stream {
    /// The stream of `(seed, domain, a, b)`.
    pub fn new(seed: u64, domain: Domain, a: u64, b: u64) -> Self {
        let mut key = [0u8; 32];
        for (bytes, word) in key.chunks_exact_mut(8).zip([seed, domain as u64, a, b]) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        Self(ChaCha8Rng::from_seed(key))
    }

    /// Uniform over all 32-bit words.
    pub fn word(&mut self) -> u32 {
        self.0.next_u32()
    }

    /// Fills a slice with uniform bytes.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        self.0.fill_bytes(bytes);
    }

    /// Uniform in `0..n`, by Lemire's multiplication (bias below n / 2^64).
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.0.next_u64()) * n as u128) >> 64) as usize
    }

    /// Uniform in [0, 1), with 53 bits.
    pub fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform in [low, high).
    pub fn range(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit() as f32
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f64) -> bool {
        self.unit() < p
    }

    /// One entry of a non-empty slice.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// An index drawn in proportion to non-negative weights whose sum is positive.
    pub fn weighted(&mut self, weights: &[f64]) -> usize {
        let mut left = self.unit() * weights.iter().sum::<f64>();
        for (index, &weight) in weights.iter().enumerate() {
            if left < weight {
                return index;
            }
            left -= weight;
        }
        // Rounding only: the last index that can be drawn at all.
        weights.iter().rposition(|&weight| weight > 0.0).unwrap_or(0)
    }

    /// Fisher-Yates shuffle.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// FNV-1a over the bytes, then the finaliser of splitmix64 so that keys which differ in one digit are spread evenly.
///
/// Written out because the held-out split of a data set must never change with a library version.
pub(crate) fn stable_hash(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for &byte in bytes {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_by_every_argument() {
        let first = |seed, domain, a, b| Stream::new(seed, domain, a, b).word();
        let base = first(1, Domain::Scene, 2, 3);
        assert_eq!(base, first(1, Domain::Scene, 2, 3));
        for other in [
            first(2, Domain::Scene, 2, 3),
            first(1, Domain::Voice, 2, 3),
            first(1, Domain::Scene, 3, 3),
            first(1, Domain::Scene, 2, 4),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn permutation_and_hash_are_frozen() {
        let mut items: Vec<u32> = (0..10).collect();
        Stream::new(7, Domain::Packing, 0, 0).shuffle(&mut items);
        assert_eq!(items, GOLDEN_PERMUTATION);
        assert_eq!(stable_hash(b"00000042"), GOLDEN_HASH);
    }

    const GOLDEN_PERMUTATION: [u32; 10] = [8, 9, 4, 5, 1, 0, 7, 2, 6, 3];
    const GOLDEN_HASH: u64 = 0x921bd50a495ebb48;

    #[test]
    fn weights_of_zero_are_never_drawn() {
        let mut stream = Stream::new(1, Domain::Form, 0, 0);
        let mut counts = [0; 3];
        (0..3000).for_each(|_| counts[stream.weighted(&[0.0, 2.0, 1.0])] += 1);
        assert_eq!(counts[0], 0);
        assert!((1850..2150).contains(&counts[1]), "{counts:?}");
    }
}
