//! Times every stage from generated documents to batches:
//!
//! `cargo run --release -p mom-data --example throughput -- [folder] [documents]`

use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use mom_data::scenes::{self, SceneConfig, ShardOptions, Speech};
use mom_data::{Content, Dataset, Documents, Forms, Loader, Needs, Order, SourceConfig, TokenizerConfig, Tokenizers};

/// Runs `work` and prints how many `things` it did in a second.
fn timed<T>(what: &str, n: usize, things: &str, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    let secs = start.elapsed().as_secs_f64();
    println!("{what:<34} {secs:8.3} s {:12.0} {things}/s", n as f64 / secs);
    result
}

/// The exponential of the entropy of single tokens: how many are in real use.
fn perplexity(tokens: &[u32]) -> f64 {
    let mut counts: BTreeMap<u32, f64> = BTreeMap::new();
    tokens.iter().for_each(|&token| *counts.entry(token).or_default() += 1.0);
    let total: f64 = counts.values().sum();
    counts.values().map(|count| -count / total * (count / total).ln()).sum::<f64>().exp()
}

/// All tokens of a split: text, image, speech.
fn tokens(documents: &Documents) -> mom_data::Result<[Vec<u32>; 3]> {
    let mut tokens = [Vec::new(), Vec::new(), Vec::new()];
    for at in 0..documents.len() {
        for part in documents.document(at)?.parts {
            match part {
                Content::Text(codes) => tokens[0].extend(codes),
                Content::ImageCodes(codes) => tokens[1].extend(codes),
                Content::Speech(codes) => tokens[2].extend(codes),
                Content::Pixels(_) | Content::Patches(_) => {}
            }
        }
    }
    Ok(tokens)
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
    let sources = [SourceConfig::at(&folder)];
    let config = TokenizerConfig::default();
    for (name, needs) in
        [("transfusion", Needs::PATCHES), ("chameleon", Needs::CODES), ("three-modality", Needs::CODES_AND_UNITS)]
    {
        println!("{name}");
        let tokenizers =
            timed("  fit tokenizers", documents, "samples", || Tokenizers::fit(&sources, &config, needs, |_| {}))?;
        let data = timed("  tokenise", documents, "samples", || Dataset::load(&sources, &tokenizers))?;
        let [text, image, speech] = tokens(&data.train)?;
        let mean = |tokens: &[u32]| tokens.len() as f64 / data.train.len() as f64;
        println!(
            "  {} + {} documents; text {:.1}, image {:.1}, speech {:.1} tokens; vocabulary {}",
            data.train.len(),
            data.held_out.len(),
            mean(&text),
            mean(&image),
            mean(&speech),
            tokenizers.vocabulary().size(),
        );
        println!(
            "  unigram perplexity: text {:.0}, image {:.0}, speech {:.0}",
            perplexity(&text),
            perplexity(&image),
            perplexity(&speech)
        );
        for seqlen in [256, 512, 1024, 4096] {
            let batch = 8 * 256 * 8 / seqlen;
            let order = Order::Shuffled { seed: 1 };
            let mut loader = Loader::new(data.train.clone(), Forms::default(), batch, seqlen, order)?;
            let n = 100 * batch * seqlen;
            timed(&format!("  batches of {batch} x {seqlen}"), n, "positions", || {
                (0..100).try_for_each(|_| loader.next_batch().map(drop))
            })?;
            println!("  {:.1} % padding, {} documents cut", 100.0 * loader.padding(), loader.n_cut());
        }
    }
    Ok(())
}
