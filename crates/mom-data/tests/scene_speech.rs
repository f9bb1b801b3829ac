//! Spoken captions are read back from the units of a codebook, and how often that errs is measured.
#![allow(clippy::unwrap_used, reason = "a helper of a test may fail as the test does")]

use mom_data::scenes::truth::{Recogniser, edits, spoken_words};
use mom_data::scenes::{self, SceneConfig, SceneDocument, SceneSource};
use mom_data::{ImageNeed, Needs, Repeats, SourceConfig, SpeechCodebook, SpeechConfig, TokenizerConfig, Tokenizers};
use rayon::prelude::*;

fn codebook(speech: SpeechConfig) -> SpeechCodebook {
    let source = SceneSource { seed: 5, documents: 600, ..SceneSource::default() };
    let config = TokenizerConfig { speech, ..TokenizerConfig::default() };
    let needs = Needs { image: ImageNeed::None, ..Needs::CODES_AND_UNITS };
    Tokenizers::fit(&[SourceConfig::generated(source)], &config, needs, |_| {})
        .unwrap()
        .speech_codebook()
        .unwrap()
        .clone()
}

/// Documents of another seed than those that codebook and recogniser were made with.
fn documents(n: u64, sample_rate: u32) -> Vec<SceneDocument> {
    let config = SceneConfig { sample_rate, ..SceneConfig::default() };
    (0..n).map(|index| scenes::document(13, index, &config)).collect()
}

/// Word error rate of what is read in units, beside documents' own captions and the next one's.
fn measured(name: &str, recogniser: &Recogniser, documents: &[SceneDocument], units: &[Vec<u32>]) -> [f64; 2] {
    let read: Vec<_> = units.par_iter().map(|units| recogniser.read(units).unwrap()).collect();
    let of = |i: usize| spoken_words(&documents[i % documents.len()].caption);
    let n: usize = (0..read.len()).map(|i| of(i).len()).sum();
    let rate = |next: usize| {
        read.iter().enumerate().map(|(i, read)| edits(read, &of(i + next))).sum::<usize>() as f64 / n as f64
    };
    let rates = [rate(0), rate(1)];
    println!("{name}: own {:.1} % others' {:.1} % of {n} words", 100.0 * rates[0], 100.0 * rates[1]);
    rates
}

#[test]
fn the_error_of_the_reader_of_speech() {
    let documents = documents(240, 8000);
    let read_by = |name: &str, speech: SpeechConfig| {
        let codebook = codebook(speech);
        let recogniser = Recogniser::learn(&codebook);
        let units: Vec<Vec<u32>> = documents.iter().map(|document| codebook.encode(&document.speech)).collect();
        let rates = measured(name, &recogniser, &documents, &units);
        (codebook, recogniser, units, rates)
    };
    let (codebook, recogniser, units, [own, others]) = read_by("128 units", SpeechConfig::default());
    assert!(own < 0.065 && others > 0.9, "{own} of their own, {others} of others'");
    // As a model's speech comes to it: as sound that was made of units.
    let again = |units: &Vec<u32>| codebook.encode(&codebook.synthesize(units).unwrap());
    let again: Vec<Vec<u32>> = units[..60].par_iter().map(again).collect();
    let [own, _] = measured("128 units, made into sound", &recogniser, &documents[..60], &again);
    assert!(own < 0.08, "{own}");
    let kept = SpeechConfig { units: 500, repeats: Repeats::Kept, ..SpeechConfig::default() };
    let (.., [own, _]) = read_by("500 units, repeats kept", kept);
    assert!(own < 0.045, "{own}");
}
