//! The order of documents as a function of the seed: nothing is stored, nothing is shuffled in memory.

use crate::batch::Order;
use crate::mixture::Documents;

/// Documents of a window, at least and at most.
const WINDOW: std::ops::RangeInclusive<u64> = 8192..=65_536;
/// Sequences that a window should have, so that its last one, which stays partly empty, is one of many.
const SEQUENCES: f64 = 512.0;

/// Documents of a window.
fn window_of(documents: &Documents, seqlen: usize) -> u64 {
    let (shares, total) = shares(documents);
    let sources = documents.sources.iter().zip(&shares);
    let mean: f64 = sources.map(|(source, share)| source.mean_positions * share / total).sum();
    ((SEQUENCES * seqlen as f64 / mean.max(1.0)) as u64).clamp(*WINDOW.start(), *WINDOW.end())
}

/// A document that is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Draw {
    pub source: usize,
    /// Passes over the source before this one.
    pub epoch: u64,
    /// Within the source's split.
    pub document: u64,
}

/// How far each window reaches into each source's stream.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    seed: u64,
    sources: Vec<Rate>,
}

/// Documents of a source in `windows` windows.
#[derive(Debug, Clone, Copy)]
struct Rate {
    n_documents: u64,
    documents: u64,
    windows: u64,
}

impl Rate {
    /// Documents taken before window `k`.
    fn before(&self, k: u64) -> u64 {
        (u128::from(k) * u128::from(self.documents) / u128::from(self.windows)) as u64
    }
}

impl Schedule {
    /// The endless schedule of a split; weights are shares of tokens.
    pub fn endless(documents: &Documents, order: Order, seqlen: usize) -> Self {
        let window = window_of(documents, seqlen);
        let (shares, total) = shares(documents);
        let n_documents: Vec<u64> = documents.sources.iter().map(|source| source.n_documents()).collect();
        let all: u64 = n_documents.iter().sum();
        let sources = match &n_documents[..] {
            // Windows of one source divide its epochs evenly: no document is drawn twice before all are.
            &[n] => vec![Rate { n_documents: n, documents: n, windows: n.div_ceil(window).max(1) }],
            _ => {
                let window = window.min(all).max(1) as f64;
                let rate = |share: f64| (share / total * window * (1u64 << 32) as f64).round() as u64;
                let rates = shares.iter().zip(&n_documents);
                rates.map(|(&share, &n)| Rate { n_documents: n, documents: rate(share), windows: 1 << 32 }).collect()
            }
        };
        Self { seed: seed(order), sources }
    }

    /// One window with no document twice: for validation.
    pub fn once(documents: &Documents, order: Order, seqlen: usize) -> Self {
        let window = window_of(documents, seqlen);
        let (shares, total) = shares(documents);
        let sources = documents.sources.iter().zip(&shares).map(|(source, share)| {
            let n = source.n_documents();
            let wanted = (share / total * window as f64).ceil() as u64;
            Rate { n_documents: n, documents: wanted.min(n), windows: 1 }
        });
        Self { seed: seed(order), sources: sources.collect() }
    }

    /// The documents of window `k`, source by source.
    pub fn window(&self, k: u64) -> Vec<Draw> {
        let mut draws = Vec::new();
        for (source, rate) in self.sources.iter().enumerate() {
            if rate.n_documents == 0 {
                continue;
            }
            for at in rate.before(k)..rate.before(k + 1) {
                let (epoch, index) = (at / rate.n_documents, at % rate.n_documents);
                let key = mix(mix(self.seed ^ mix(source as u64 + 1)) ^ epoch);
                draws.push(Draw { source, epoch, document: permuted(index, rate.n_documents, key) });
            }
        }
        draws
    }
}

fn seed(order: Order) -> u64 {
    match order {
        Order::Shuffled { seed } => seed,
        Order::Fixed => 0x5eed_0f0e_da7a,
    }
}

/// Documents of each source that make its share of tokens, and their sum.
fn shares(documents: &Documents) -> (Vec<f64>, f64) {
    let share = |source: &super::SourceDocuments| match source.n_documents() {
        0 => 0.0,
        _ => source.weight / source.mean_positions.max(1.0),
    };
    let shares: Vec<f64> = documents.sources.iter().map(share).collect();
    let total = shares.iter().sum();
    (shares, total)
}

/// The finaliser of splitmix64 (Steele, Lea and Flood 2014).
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Where a permutation of `0..n` sends `index`: a Feistel network over the next even number of bits, walked along its cycle
/// until it is below n (Black and Rogaway 2002). Needs no memory, whatever n is.
fn permuted(index: u64, n: u64, key: u64) -> u64 {
    const ROUNDS: u64 = 8;
    let half = (64 - (n - 1).leading_zeros()).div_ceil(2).max(1);
    let mask = (1u64 << half) - 1;
    let mut x = index;
    loop {
        let (mut left, mut right) = (x >> half, x & mask);
        for round in 0..ROUNDS {
            (left, right) = (right, left ^ (mix(key ^ mix((round << 56) ^ right)) & mask));
        }
        x = (left << half) | right;
        if x < n {
            return x;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permutation_has_every_index_once_and_differs_by_key() {
        for n in [1, 2, 3, 5, 16, 17, 1000, 4096, 5001] {
            let of = |key| (0..n).map(|index| permuted(index, n, key)).collect::<Vec<_>>();
            let mut sorted = of(7);
            sorted.sort_unstable();
            assert_eq!(sorted, (0..n).collect::<Vec<_>>(), "{n}");
            assert!(n < 16 || of(7) != of(8));
        }
        // Frozen: a run that goes on must see the order that it began with.
        assert_eq!((0..10).map(|index| permuted(index, 10, 1)).collect::<Vec<_>>(), GOLDEN);
    }

    const GOLDEN: [u64; 10] = [8, 1, 3, 9, 7, 2, 0, 6, 5, 4];

    #[test]
    fn a_permutation_is_even() {
        // Where each index of 64 lands, over many keys: each place about as often.
        let mut counts = vec![0i32; 64 * 64];
        for key in 0..6400 {
            (0..64).for_each(|index| counts[(index * 64 + permuted(index, 64, mix(key))) as usize] += 1);
        }
        let worst = counts.iter().map(|count| (count - 100).abs()).max().unwrap();
        assert!(worst < 55, "{worst}: five deviations of a Poisson count of 100 are 50");
    }
}
