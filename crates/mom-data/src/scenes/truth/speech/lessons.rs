//! What a recogniser learns from: utterances of which it is known which units belong to which word.

use rayon::prelude::*;

use super::super::super::{caption, lexicon, scene, speech};
use super::words::{BEGIN, END, PAUSE, Word, word_of};
use crate::rng::{Domain, Stream};
use crate::{SPEECH_UNITS_PER_SEC, SpeechCodebook};

/// Seed of the lessons: no data set's, which are small numbers.
const SEED: u64 = 0x6c65_7373_6f6e_7321;
/// Utterances that are learned from.
const N_LESSONS: u64 = 8000;
/// Words of an utterance that is no sentence.
const N_WORDS: usize = 14;
/// Seconds by which sound comes after its gesture, which the synthesiser reaches smoothly.
const LAG_SECS: f32 = 0.012;

/// A word as it was heard once.
pub(super) struct Example {
    pub word: Word,
    pub speaker: usize,
    /// Of the word; none of a short one between two frames.
    pub units: Vec<u32>,
}

/// All words of all lessons, as a codebook hears them.
pub(super) fn examples(codebook: &SpeechCodebook) -> Vec<Example> {
    (0..N_LESSONS).into_par_iter().flat_map_iter(|index| of_lesson(index, codebook)).collect()
}

/// Captions show how words follow one another; words in any order make sure that each is heard often enough.
fn words_of(index: u64) -> Vec<&'static str> {
    let mut stream = Stream::new(SEED, Domain::Caption, index, 0);
    if index.is_multiple_of(2) {
        return caption::describe(&scene(SEED, index), &mut stream);
    }
    let known: Vec<&str> = lexicon::words().collect();
    (0..N_WORDS).map(|_| stream.pick(&known)).collect()
}

fn of_lesson(index: u64, codebook: &SpeechCodebook) -> Vec<Example> {
    let words = words_of(index);
    let mut voice = Stream::new(SEED, Domain::Voice, index, 0);
    let said = speech::speak(&words, codebook.sample_rate(), &mut voice);
    let spoken = words.iter().map(|word| if *word == "," { Some(PAUSE) } else { word_of(word) });
    let names = std::iter::once(Some(BEGIN)).chain(spoken);
    // A full stop has no sound and no length, and what is not in the lexicon neither.
    let mut ends: Vec<(Word, f32)> = names.zip(&said.ends).filter_map(|(word, end)| Some((word?, *end))).collect();
    ends.push((END, f32::INFINITY));
    let mut examples: Vec<Example> =
        ends.iter().map(|&(word, _)| Example { word, speaker: said.speaker, units: Vec::new() }).collect();
    let mut at = 0;
    let mut before = None;
    for (frame, unit) in codebook.nearest(&said.wave).into_iter().enumerate() {
        let secs = (frame as f32 + 0.5) / SPEECH_UNITS_PER_SEC as f32 - LAG_SECS;
        while ends[at].1 <= secs {
            at += 1;
        }
        // A run that goes on from one word to the next is the first one's.
        if !(codebook.merges() && before == Some(unit)) {
            examples[at].units.push(unit);
        }
        before = Some(unit);
    }
    examples
}
