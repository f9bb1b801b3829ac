//! Which word follows which in captions: bigrams, counted over captions of scenes that no data set has.
//!
//! P(next | word) = (n(word, next) + m P(next)) / (n(word) + m), with m = [`UNSEEN`]: a word that never followed another may do so all
//! the same, so that what a model says wrongly is not read as what it should have said.

use super::super::super::{caption, scene};
use super::words::{BEGIN, END, N_WORDS, PAUSE, Word, word_of};
use crate::rng::{Domain, Stream};

/// Seed of the captions.
const SEED: u64 = 0x6c61_6e67_7561_6765;
/// Captions that are counted.
const N_CAPTIONS: u64 = 8000;
/// Weight of what a word is followed by anywhere, in occurrences of it.
const UNSEEN: f64 = 100.0;

/// Logarithms of the probabilities of what follows.
pub(super) struct Language {
    /// (word, next), row by row.
    log_p: Vec<f32>,
}

impl Language {
    pub fn of_captions() -> Self {
        let mut counts = vec![0.0f64; N_WORDS * N_WORDS];
        for index in 0..N_CAPTIONS {
            let words = caption::describe(&scene(SEED, index), &mut Stream::new(SEED, Domain::Caption, index, 0));
            let known = words.iter().filter_map(|word| if *word == "," { Some(PAUSE) } else { word_of(word) });
            let mut before = BEGIN;
            for word in known.chain([END]) {
                counts[before * N_WORDS + word] += 1.0;
                before = word;
            }
        }
        // Each word was seen once more than it was; nothing begins again.
        let mut anywhere = vec![1.0f64; N_WORDS];
        counts.chunks_exact(N_WORDS).for_each(|row| anywhere.iter_mut().zip(row).for_each(|(sum, n)| *sum += n));
        anywhere[BEGIN] = 0.0;
        let all: f64 = anywhere.iter().sum();
        let log_p = counts.chunks_exact(N_WORDS).flat_map(|row| {
            let seen: f64 = row.iter().sum();
            let p = |(n, anywhere): (&f64, &f64)| (n + UNSEEN * anywhere / all) / (seen + UNSEEN);
            row.iter().zip(&anywhere).map(move |pair| p(pair).ln() as f32).collect::<Vec<f32>>()
        });
        Self { log_p: log_p.collect() }
    }

    /// What follows a word, for every word.
    pub fn behind(&self, word: Word) -> &[f32] {
        &self.log_p[word * N_WORDS..(word + 1) * N_WORDS]
    }
}
