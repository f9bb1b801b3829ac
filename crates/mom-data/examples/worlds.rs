//! How much there is to learn in the two worlds of generated scenes, at the same sizes of the tokenizers:
//!
//! `cargo run --release -p mom-data --example worlds -- [documents] [vocabulary] [image codes] [speech units] [image size]`
//!
//! For each world and modality: tokens of a document, how many of the vocabulary occur, the entropy of single tokens, and the
//! held-out cross-entropy, in bits a token, of a model that counts: orders 1 to 3, each backing off to the one below by Witten
//! and Bell's rule, from a tenth of the training documents and from all. Where ten times the documents help little, little is
//! left to learn of what neighbours tell.

use std::collections::{BTreeSet, HashMap};
use std::error::Error;
use std::time::Instant;

use mom_data::scenes::{self, SceneConfig, SceneSource, Speech, World};
use mom_data::{Content, Dataset, Documents, Needs, SourceConfig, TokenizerConfig, Tokenizers};

const NAMES: [&str; 3] = ["text", "image", "speech"];

/// Tokens of each document of a split, by modality.
fn tokens(documents: &Documents) -> mom_data::Result<[Vec<Vec<u32>>; 3]> {
    let mut tokens = [Vec::new(), Vec::new(), Vec::new()];
    for at in 0..documents.len() {
        for part in documents.document(at)?.parts {
            match part {
                Content::Text(codes) => tokens[0].push(codes),
                Content::ImageCodes(codes) => tokens[1].push(codes),
                Content::Speech(codes) => tokens[2].push(codes),
                Content::Pixels(_) | Content::Patches(_) => {}
            }
        }
    }
    Ok(tokens)
}

/// Counts of what follows each context of 0, 1 and 2 tokens.
#[derive(Default)]
struct Counts {
    follows: HashMap<Vec<u32>, HashMap<u32, u32>>,
    totals: HashMap<Vec<u32>, u32>,
}

impl Counts {
    fn add(&mut self, document: &[u32]) {
        for at in 0..document.len() {
            for order in 0..=at.min(2) {
                let context = document[at - order..at].to_vec();
                *self.totals.entry(context.clone()).or_default() += 1;
                *self.follows.entry(context).or_default().entry(document[at]).or_default() += 1;
            }
        }
    }

    fn probability(&self, context: &[u32], token: u32, vocabulary: f64) -> f64 {
        let lower = match context {
            [] => 1.0 / vocabulary,
            [_, shorter @ ..] => self.probability(shorter, token, vocabulary),
        };
        let Some(follows) = self.follows.get(context) else { return lower };
        let kinds = follows.len() as f64;
        let count = f64::from(follows.get(&token).copied().unwrap_or(0));
        (count + kinds * lower) / (f64::from(self.totals[context]) + kinds)
    }

    /// Bits a token of documents that were not counted.
    fn bits(&self, documents: &[Vec<u32>], vocabulary: f64) -> f64 {
        let (mut bits, mut n) = (0.0, 0);
        for document in documents {
            for at in 0..document.len() {
                bits -= self.probability(&document[at - at.min(2)..at], document[at], vocabulary).log2();
                n += 1;
            }
        }
        bits / f64::from(n.max(1))
    }
}

/// Kinds of tokens, and the entropy of single ones in bits.
fn unigram(documents: &[Vec<u32>]) -> (usize, f64) {
    let mut counts: HashMap<u32, f64> = HashMap::new();
    documents.iter().flatten().for_each(|&token| *counts.entry(token).or_default() += 1.0);
    let total: f64 = counts.values().sum();
    (counts.len(), counts.values().map(|count| -count / total * (count / total).log2()).sum())
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<usize> = std::env::args().skip(1).map(|text| text.parse()).collect::<Result<_, _>>()?;
    let of = |at: usize, default: usize| arguments.get(at).copied().unwrap_or(default);
    let (documents, image_size) = (of(0, 6000), of(4, 32));
    let mut config = TokenizerConfig::default();
    config.text.vocab_size = of(1, 4096);
    (config.image.size, config.image.codes, config.speech.units) = (image_size, of(2, 512), of(3, 200));
    for world in [World::Small, World::Large] {
        let spoken = SceneConfig { world, image_size, ..SceneConfig::default() };
        for (name, speech) in [("without speech", Speech::Silent), ("with speech", Speech::Spoken)] {
            let config = SceneConfig { speech, ..spoken };
            let start = Instant::now();
            let pixels: usize = (0..1000).map(|index| scenes::document(1, index, &config).image.pixels.len()).sum();
            let rate = 1000.0 / start.elapsed().as_secs_f64();
            println!("{world:?}, {name}: {rate:.0} documents a second on one core ({pixels} values of pixels)");
        }
        let scenes = SceneSource { documents, image_size, world, ..SceneSource::default() };
        let sources = [SourceConfig::generated(scenes)];
        let tokenizers = Tokenizers::fit(&sources, &config, Needs::CODES_AND_UNITS, |_| {})?;
        let data = Dataset::load(&sources, &tokenizers)?;
        let (train, held_out) = (tokens(&data.train)?, tokens(&data.held_out)?);
        let words: BTreeSet<String> = (0..documents as u64)
            .flat_map(|index| {
                let config = SceneConfig { speech: Speech::Silent, ..spoken };
                let caption = scenes::document(0, index, &config).caption;
                caption.split([' ', ',', '.']).map(str::to_owned).collect::<Vec<_>>()
            })
            .collect();
        println!("{world:?}: {} documents, {} words", data.train.len() + data.held_out.len(), words.len());
        println!("| modality | tokens a document | kinds | entropy | counting, a tenth | counting, all |");
        for (modality, name) in NAMES.iter().enumerate() {
            let (kinds, entropy) = unigram(&train[modality]);
            let n: usize = train[modality].iter().map(Vec::len).sum();
            let mut counts = Counts::default();
            let mut bits = Vec::new();
            let tenth = train[modality].len() / 10;
            for part in [&train[modality][..tenth], &train[modality][tenth..]] {
                part.iter().for_each(|document| counts.add(document));
                bits.push(counts.bits(&held_out[modality], kinds as f64));
            }
            let mean = n as f64 / train[modality].len() as f64;
            println!("| {name} | {mean:.1} | {kinds} | {entropy:.2} | {:.2} | {:.2} |", bits[0], bits[1]);
        }
    }
    Ok(())
}
