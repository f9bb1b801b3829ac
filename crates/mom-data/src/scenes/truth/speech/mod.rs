//! Reads speech of the small world back to its words, from the units of a codebook.
//!
//! ```text
//! words  <-  language (which word follows which),  lessons (what is heard of each word)  <-  sounds (how words sound)
//!   ^----   search (the likeliest words behind units)
//! ```
//!
//! The synthesiser that speaks captions is its teacher: it says words of which it is known when, a codebook hears them, and what is heard
//! of each word makes a hidden Markov model of it (Rabiner 1989). What it makes of units is the likeliest row of words, for the
//! likeliest of the speakers, by how they sound and by which word follows which in captions.

mod language;
mod lessons;
mod search;
mod sounds;
mod words;

use language::Language;
use rayon::prelude::*;
use sounds::Sounds;

use super::super::speech::N_SPEAKERS;
use crate::error::require;
use crate::{Result, SpeechCodebook};

/// Reads units of one codebook.
pub struct Recogniser {
    language: Language,
    sounds: Sounds,
}

impl std::fmt::Debug for Recogniser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recogniser").field("n_units", &self.sounds.n_units).finish_non_exhaustive()
    }
}

impl Recogniser {
    /// Learns how a codebook hears the words of captions: some seconds of all cores.
    pub fn learn(codebook: &SpeechCodebook) -> Self {
        let examples = lessons::examples(codebook);
        let sounds = Sounds::of_examples(&examples, codebook.n_units());
        Self { language: Language::of_captions(), sounds }
    }

    /// The words that units say.
    ///
    /// # Errors
    /// [`crate::DataError::Config`] for a unit outside the codebook.
    pub fn read(&self, units: &[u32]) -> Result<Vec<&'static str>> {
        let n_units = self.sounds.n_units;
        if let Some(unit) = units.iter().find(|&&unit| unit as usize >= n_units) {
            require(false, "speech unit", &format!("below {n_units}"), unit)?;
        }
        let of_speaker = |speaker| search::search(&self.sounds, &self.language, units, speaker);
        let heard: Vec<_> = (0..N_SPEAKERS).into_par_iter().map(of_speaker).collect();
        let likeliest = heard.into_iter().max_by(|(_, a), (_, b)| a.total_cmp(b));
        Ok(likeliest.into_iter().flat_map(|(words, _)| words).filter_map(words::name_of).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{SceneSource, lexicon, speech};
    use super::super::edits;
    use super::*;
    use crate::rng::{Domain, Stream};
    use crate::{ImageNeed, Needs, SourceConfig, TokenizerConfig, Tokenizers};

    #[test]
    fn it_hears_what_is_said_and_not_what_a_caption_would_say() {
        let source = SceneSource { seed: 5, documents: 600, ..SceneSource::default() };
        let sources = [SourceConfig::generated(source)];
        let needs = Needs { image: ImageNeed::None, ..Needs::CODES_AND_UNITS };
        let tokenizers = Tokenizers::fit(&sources, &TokenizerConfig::default(), needs, |_| {}).unwrap();
        let codebook = tokenizers.speech_codebook().unwrap();
        let recogniser = Recogniser::learn(codebook);
        let known: Vec<&str> = lexicon::words().collect();
        let (mut wrong, mut n) = (0, 0);
        for index in 0..100 {
            let mut stream = Stream::new(9, Domain::Voice, index, 0);
            let words: Vec<&str> = (0..12).map(|_| stream.pick(&known)).collect();
            let said = speech::speak(&words, codebook.sample_rate(), &mut stream);
            let heard = recogniser.read(&codebook.encode(&said.wave)).unwrap();
            (wrong, n) = (wrong + edits(&heard, &words), n + words.len());
        }
        let rate = wrong as f64 / n as f64;
        println!("words in no order: {:.1} % wrong", 100.0 * rate);
        // Few units tell words apart by sound alone, and grammar is against these: were captions heard into them, all would be wrong.
        assert!(rate < 0.45, "{rate}");
        // Nothing, silence, and what is no unit.
        assert!(recogniser.read(&[]).unwrap().len() < 3);
        assert!(recogniser.read(&[codebook.n_units() as u32]).unwrap_err().to_string().contains("below 128, got 128"));
    }
}
