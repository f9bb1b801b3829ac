//! Which of 16 texts belongs to a picture, or to an utterance, by what the model takes to be likely.
//!
//! For a document with a text t and a picture x, and 15 texts of other documents that are different: the text with the largest
//! log p(t | x), summed over its tokens (`likelihood`), and the one with the largest log p(t | x) - log p(t), where p(t) is that of
//! the text with nothing before it (`pmi`). The first prefers texts that are short or likely anyway; the second does not.
//! Of texts that are as likely as each other each counts its share, so that a model that tells nothing apart comes to chance: 1/16.

use std::collections::BTreeSet;

use mom_data::Content;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::{BATCH, by};
use crate::config::CANDIDATES;
use crate::samples::Prompt;
use crate::telemetry::Figure;
use crate::{GenerateOptions, Generator, Result};

/// Tokens of a text that are looked at: those of a long one are told apart by their beginnings.
const MAX_TOKENS: usize = 256;
/// Seed of the candidates.
const SEED: u64 = 0x00ca_5e1e;

/// Figures of texts picked by what stands before them; or why there are none.
pub(super) fn figures(generator: &Generator, prompts: &[Prompt]) -> Result<std::result::Result<Vec<Figure>, String>> {
    let texts: Vec<&[u32]> = prompts.iter().map(|prompt| text(&prompt.truth)).collect();
    let Some(candidates) = candidates(&texts) else {
        let n = texts.iter().collect::<BTreeSet<_>>().len();
        return Ok(Err(format!("{CANDIDATES} different texts are needed to pick of, and there are {n}")));
    };
    let mut alone = Vec::new();
    for some in texts.chunks(BATCH) {
        alone.extend(generator.draft(&GenerateOptions::default())?.text_log_likelihoods(some)?);
    }
    let (mut by_likelihood, mut by_pmi) = (0.0, 0.0);
    for (prompt, candidates) in prompts.iter().zip(&candidates) {
        let mut draft = generator.draft(&GenerateOptions::default())?;
        draft.push_content(&prompt.content)?;
        let of_candidates: Vec<&[u32]> = candidates.iter().map(|&at| texts[at]).collect();
        let given = draft.text_log_likelihoods(&of_candidates)?;
        let pmi: Vec<f64> = given.iter().zip(candidates).map(|(given, &at)| given - alone[at]).collect();
        by_likelihood += share_of_first(&given);
        by_pmi += share_of_first(&pmi);
    }
    let n = prompts.len();
    let figure = |measure: &str, sum: f64| Figure {
        task: by(prompts[0].given),
        measure: measure.to_owned(),
        value: sum / n as f64,
        documents: Some(n),
        n,
        ceiling: Some(1.0),
        chance: Some(1.0 / CANDIDATES as f64),
    };
    Ok(Ok(vec![figure("likelihood", by_likelihood), figure("pmi", by_pmi)]))
}

fn text(content: &Content) -> &[u32] {
    match content {
        Content::Text(codes) => &codes[..codes.len().min(MAX_TOKENS)],
        _ => &[],
    }
}

/// For each text itself first, then others that differ from it and from each other; `None` where there are too few.
fn candidates(texts: &[&[u32]]) -> Option<Vec<Vec<usize>>> {
    let mut candidates = Vec::new();
    let mut seen = BTreeSet::new();
    let distinct: Vec<usize> = (0..texts.len()).filter(|&at| seen.insert(texts[at])).collect();
    for (own, text) in texts.iter().enumerate() {
        let mut different: Vec<usize> = distinct.iter().copied().filter(|&at| texts[at] != *text).collect();
        let mut rng = ChaCha8Rng::seed_from_u64(SEED ^ own as u64);
        let (others, _) = different.partial_shuffle(&mut rng, CANDIDATES - 1);
        if others.len() < CANDIDATES - 1 {
            return None;
        }
        candidates.push([&[own][..], &*others].concat());
    }
    (!candidates.is_empty()).then_some(candidates)
}

/// Whether the first of some values is the largest: 1, or its share among those as large. A value that is no number is not.
fn share_of_first(values: &[f64]) -> f64 {
    let largest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let n_largest = values.iter().filter(|value| **value == largest).count();
    if values.first() == Some(&largest) { 1.0 / n_largest as f64 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_are_different_and_the_same_every_time() {
        let owned: Vec<Vec<u32>> = (0..40).map(|i| vec![i % 20, 7]).collect();
        let texts: Vec<&[u32]> = owned.iter().map(Vec::as_slice).collect();
        let all = candidates(&texts).unwrap();
        for (own, of) in all.iter().enumerate() {
            assert_eq!((of.len(), of[0]), (CANDIDATES, own));
            let different: BTreeSet<&[u32]> = of.iter().map(|&at| texts[at]).collect();
            assert_eq!(different.len(), CANDIDATES);
        }
        assert_eq!(candidates(&texts), Some(all.clone()));
        assert_ne!(all[0][1..], all[20][1..], "each document has its own");
        assert_eq!((candidates(&texts[..15]), candidates(&[])), (None, None));
    }

    #[test]
    fn who_knows_is_right_and_who_tells_nothing_apart_is_at_chance() {
        let mut known = [-9.0; CANDIDATES];
        known[0] = -1.0;
        assert_eq!(share_of_first(&known), 1.0);
        assert_eq!(share_of_first(&[-3.5; CANDIDATES]), 1.0 / CANDIDATES as f64);
        known[7] = -0.5;
        assert_eq!(share_of_first(&known), 0.0);
        assert_eq!(share_of_first(&[f64::NAN; 3]), 0.0);
    }
}
