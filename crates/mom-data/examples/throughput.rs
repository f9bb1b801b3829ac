//! Times every stage from generated documents to batches:
//!
//! `cargo run --release -p mom-data --example throughput -- [folder] [documents]`

use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use mom_data::scenes::{self, SceneConfig, ShardOptions, Speech};
use mom_data::{Batch, Corpus, Dataset, Loader, Order, Recipe, Special, TokenizerConfig, Tokenizers};

/// Runs `work` and prints how many `things` it did in a second.
fn timed<T>(what: &str, n: usize, things: &str, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    let secs = start.elapsed().as_secs_f64();
    println!("{what:<34} {secs:8.3} s {:12.0} {things}/s", n as f64 / secs);
    result
}

/// The exponential of the entropy of single tokens: how many are in real use.
fn perplexity<'a>(tokens: impl Iterator<Item = &'a u32>) -> f64 {
    let mut counts: BTreeMap<u32, f64> = BTreeMap::new();
    tokens.for_each(|&token| *counts.entry(token).or_default() += 1.0);
    let total: f64 = counts.values().sum();
    counts.values().map(|count| -count / total * (count / total).ln()).sum::<f64>().exp()
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().map_or_else(|| std::env::temp_dir().join("mom-data-throughput"), PathBuf::from);
    let documents: usize = arguments.next().map_or(Ok(3000), |text| text.parse())?;

    let spoken = SceneConfig::default();
    let silent = SceneConfig { speech: Speech::Silent, ..spoken };
    let generate = |config: SceneConfig| {
        move || (0..1000).map(|i| scenes::document(1, i, &config).image.pixels.len()).sum::<usize>()
    };
    timed("image and caption, one core", 1000, "documents", generate(silent));
    timed("image, caption, speech, one core", 1000, "documents", generate(spoken));

    let options = ShardOptions { documents, ..ShardOptions::default() };
    let written = timed("write shards", documents, "documents", || scenes::write_shards(&folder, &options, |_, _| {}))?;
    println!("  {written:?} in {}", folder.display());
    let corpus = timed("open shards", documents, "samples", || Corpus::open(&folder))?;
    let config = TokenizerConfig::default();
    for recipe in [Recipe::transfusion(), Recipe::chameleon(), Recipe::three_modality()] {
        println!("{recipe:?}");
        let tokenizers =
            timed("  fit tokenizers", documents, "samples", || Tokenizers::fit(&corpus, &config, recipe.needs()))?;
        let data = timed("  tokenise", documents, "samples", || Dataset::load(&corpus, &tokenizers, &recipe))?;
        let train = &data.train;
        let mean =
            |length: &dyn Fn(usize) -> usize| (0..train.len()).map(length).sum::<usize>() as f64 / train.len() as f64;
        println!(
            "  {} + {} documents; text {:.1}, image {:.1}, speech {:.1} tokens; vocabulary {}",
            train.len(),
            data.held_out.len(),
            mean(&|document| train.text(document).len()),
            mean(&|document| train.image_codes(document).len()),
            mean(&|document| train.speech_units(document).len()),
            tokenizers.vocabulary().size(),
        );
        println!(
            "  unigram perplexity: text {:.0}, image {:.0}, speech {:.0}",
            perplexity((0..train.len()).flat_map(|document| train.text(document))),
            perplexity((0..train.len()).flat_map(|document| train.image_codes(document))),
            perplexity((0..train.len()).flat_map(|document| train.speech_units(document))),
        );
        let mut loader = Loader::new(data.train, recipe, 8, 256, Order::Shuffled { seed: 1 })?;
        let batches = timed("  batches of 8 x 256", 500 * 8 * 256, "positions", || {
            (0..500).map(|_| loader.next_batch()).collect::<mom_data::Result<Vec<_>>>()
        })?;
        let pad = |batch: &Batch| batch.tokens.iter().filter(|&&token| token == Special::Pad.token()).count();
        let padding: usize = batches.iter().map(|batch| pad(batch) - batch.n_patches()).sum();
        println!("  {:.1} % padding", padding as f64 / (500.0 * 8.0 * 256.0) * 100.0);
    }
    Ok(())
}
