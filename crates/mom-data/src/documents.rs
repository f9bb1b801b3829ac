//! The tokenised samples of a split, and the rule that splits.

use std::sync::Arc;

use rayon::prelude::*;

use crate::recipe::{ImageNeed, Needs, Recipe, SpeechNeed};
use crate::shards::{Corpus, Sample, SkipReason, SkipReport};
use crate::tokenizers::Tokenizers;
use crate::vocabulary::{Modality, Vocabulary};
use crate::{DataError, Result, pixels, rng};

/// Samples that are read and tokenised together, in parallel.
const CHUNK: usize = 256;

/// Which split a sample belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// For training and for fitting tokenizers.
    Train,
    /// For validation only.
    HeldOut,
}

impl Split {
    /// The split of a sample: held-out if a stable hash of its key, as a fraction of 2^64, is below `held_out`.
    ///
    /// The rule looks at the key alone, so a sample stays in its split when shards are added, merged or renamed.
    pub fn of(key: &str, held_out: f64) -> Self {
        let fraction = (rng::stable_hash(key.as_bytes()) >> 11) as f64 * (1.0 / (1u64 << 53) as f64);
        if fraction < held_out { Self::HeldOut } else { Self::Train }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Train => "training",
            Self::HeldOut => "held-out",
        }
    }
}

/// Rows of different lengths, end to end.
#[derive(Debug, Clone)]
struct Ragged {
    values: Vec<u32>,
    ends: Vec<usize>,
}

impl Ragged {
    const EMPTY: Self = Self { values: Vec::new(), ends: Vec::new() };

    fn push(&mut self, row: &[u32]) {
        self.values.extend_from_slice(row);
        self.ends.push(self.values.len());
    }

    fn row(&self, index: usize) -> &[u32] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.values[start..self.ends[index]]
    }
}

/// The tokenised samples of one split. Tokens are those of the whole vocabulary.
#[derive(Debug, Clone)]
pub struct DocumentSet {
    vocabulary: Vocabulary,
    needs: Needs,
    image_size: usize,
    keys: Vec<String>,
    text: Ragged,
    image_codes: Ragged,
    images: Vec<u8>,
    speech: Ragged,
}

impl DocumentSet {
    fn new(vocabulary: Vocabulary, needs: Needs, image_size: usize) -> Self {
        Self {
            vocabulary,
            needs,
            image_size,
            keys: Vec::new(),
            text: Ragged::EMPTY,
            image_codes: Ragged::EMPTY,
            images: Vec::new(),
            speech: Ragged::EMPTY,
        }
    }

    fn push(&mut self, document: Tokenised) {
        self.keys.push(document.key);
        self.text.push(&document.text);
        self.image_codes.push(&document.image_codes);
        self.images.extend_from_slice(&document.pixels);
        self.speech.push(&document.speech);
    }

    /// Number of documents.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// True if there is no document; [`Dataset::load`] never makes such a set.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The token space.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// What was taken from each sample.
    pub fn needs(&self) -> Needs {
        self.needs
    }

    /// Side of the images, in pixels.
    pub fn image_size(&self) -> usize {
        self.image_size
    }

    /// Key of a document's sample.
    ///
    /// # Panics
    /// This and the following accessors panic if `document` is not below [`Self::len`].
    pub fn key(&self, document: usize) -> &str {
        &self.keys[document]
    }

    /// Caption tokens (n_tokens), at least one.
    pub fn text(&self, document: usize) -> &[u32] {
        self.text.row(document)
    }

    /// Image code tokens (n_codes), row-major; empty if the recipe takes none.
    pub fn image_codes(&self, document: usize) -> &[u32] {
        self.image_codes.row(document)
    }

    /// Speech unit tokens (n_units); empty if the recipe takes none.
    pub fn speech_units(&self, document: usize) -> &[u32] {
        self.speech.row(document)
    }

    /// Image pixels (image_size, image_size, 3), kept only for continuous patches; else empty.
    pub fn pixels(&self, document: usize) -> &[u8] {
        match self.needs.image {
            ImageNeed::Patches => {
                let n = self.image_size * self.image_size * 3;
                &self.images[document * n..][..n]
            }
            ImageNeed::None | ImageNeed::Codes => &[],
        }
    }

    /// Fails unless the set holds what `needs` asks for.
    pub(crate) fn require(&self, needs: Needs) -> Result<()> {
        let missing = |what| Err(DataError::Missing { what, holder: "documents" });
        match needs.image {
            ImageNeed::Patches if self.needs.image != ImageNeed::Patches => return missing("images"),
            ImageNeed::Codes if self.needs.image != ImageNeed::Codes => return missing("image codes"),
            _ => {}
        }
        match needs.speech {
            SpeechNeed::Units if self.needs.speech != SpeechNeed::Units => missing("speech units"),
            _ => Ok(()),
        }
    }

    /// Appends the continuous patches of a document's image, if the recipe has them.
    pub(crate) fn write_patches(&self, document: usize, recipe: &Recipe, out: &mut Vec<f32>) -> Result<()> {
        match recipe.patch() {
            Some(patch) => pixels::to_patches(self.pixels(document), self.image_size, patch, out),
            None => Ok(()),
        }
    }
}

/// Both splits of a corpus, tokenised for a recipe.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// The training split.
    pub train: Arc<DocumentSet>,
    /// The held-out split.
    pub held_out: Arc<DocumentSet>,
    /// Samples that could not be used, in both splits.
    pub skipped: SkipReport,
}

/// One sample after tokenisation.
struct Tokenised {
    key: String,
    text: Vec<u32>,
    image_codes: Vec<u32>,
    pixels: Vec<u8>,
    speech: Vec<u32>,
}

impl Dataset {
    /// Reads and tokenises all samples of a corpus.
    ///
    /// # Errors
    /// As [`Self::load_with_progress`].
    pub fn load(corpus: &Corpus, tokenizers: &Tokenizers, recipe: &Recipe) -> Result<Self> {
        Self::load_with_progress(corpus, tokenizers, recipe, |_, _| {})
    }

    /// [`Self::load`], with a call of `progress(done, total)` samples now and then.
    ///
    /// # Errors
    /// [`DataError::Config`] for an invalid recipe; [`DataError::Missing`] if the tokenizers lack a codebook that the
    /// recipe needs; [`DataError::Io`] if a shard cannot be read; [`DataError::AllSkipped`] and
    /// [`DataError::EmptySplit`] if too little is left. Samples that cannot be used are skipped and counted.
    pub fn load_with_progress(
        corpus: &Corpus,
        tokenizers: &Tokenizers,
        recipe: &Recipe,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<Self> {
        recipe.validate()?;
        let needs = recipe.needs();
        tokenizers.require(needs)?;
        let config = tokenizers.config();
        if let Some(patch) = recipe.patch() {
            pixels::n_patches(config.image.size, patch)?;
        }
        let empty = DocumentSet::new(*tokenizers.vocabulary(), needs, config.image.size);
        let (mut train, mut held_out) = (empty.clone(), empty);
        let mut skipped = SkipReport::default();
        for start in (0..corpus.len()).step_by(CHUNK) {
            let end = (start + CHUNK).min(corpus.len());
            let tokenised: Vec<_> =
                (start..end).into_par_iter().map(|at| tokenise(corpus, at, tokenizers, needs)).collect();
            for (at, outcome) in (start..end).zip(tokenised) {
                match outcome? {
                    Ok(document) => match Split::of(&document.key, config.held_out) {
                        Split::Train => train.push(document),
                        Split::HeldOut => held_out.push(document),
                    },
                    Err(reason) => skipped.add(corpus.shard_name(at), corpus.key(at), reason),
                }
            }
            progress(end, corpus.len());
        }
        let n_samples = train.len() + held_out.len();
        if n_samples == 0 {
            return Err(DataError::AllSkipped { report: skipped });
        }
        for (split, set) in [(Split::Train, &train), (Split::HeldOut, &held_out)] {
            if set.is_empty() {
                let (split, held_out) = (split.name(), config.held_out);
                return Err(DataError::EmptySplit { split, n_samples, held_out, report: skipped });
            }
        }
        Ok(Self { train: Arc::new(train), held_out: Arc::new(held_out), skipped })
    }
}

/// The sample at `at` as tokens, or why it is skipped.
fn tokenise(
    corpus: &Corpus,
    at: usize,
    tokenizers: &Tokenizers,
    needs: Needs,
) -> Result<std::result::Result<Tokenised, SkipReason>> {
    let sample: Sample = match corpus.sample(at, tokenizers.config(), needs)? {
        Ok(sample) => sample,
        Err(reason) => return Ok(Err(reason)),
    };
    let vocabulary = tokenizers.vocabulary();
    let tokens = |modality, codes: Vec<u32>| -> Result<Vec<u32>> {
        codes.into_iter().map(|code| vocabulary.token(modality, code)).collect()
    };
    let text = tokens(Modality::Text, tokenizers.text().encode(&sample.caption)?)?;
    if text.is_empty() {
        return Ok(Err(SkipReason::EmptyCaption));
    }
    let (mut image_codes, mut pixels) = (Vec::new(), Vec::new());
    match (needs.image, sample.image) {
        (ImageNeed::Codes, Some(image)) => {
            image_codes = tokens(Modality::Image, tokenizers.image_codebook()?.encode(&image)?)?;
        }
        (ImageNeed::Patches, Some(image)) => pixels = image.pixels,
        _ => {}
    }
    let speech = match (needs.speech, sample.speech) {
        (SpeechNeed::Units, Some(speech)) => tokens(Modality::Speech, tokenizers.speech_codebook()?.encode(&speech))?,
        _ => Vec::new(),
    };
    Ok(Ok(Tokenised { key: corpus.key(at).to_owned(), text, image_codes, pixels, speech }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_split_is_frozen_and_has_its_fraction() {
        let n = 12_000;
        let held_out = (0..n).filter(|i| Split::of(&format!("{i:08}"), 1.0 / 12.0) == Split::HeldOut).count();
        assert!((900..1100).contains(&held_out), "{held_out}");
        assert_eq!(Split::of("any", 0.0), Split::Train);
        let first: Vec<_> = (0..60).filter(|i| Split::of(&format!("{i:08}"), 1.0 / 12.0) == Split::HeldOut).collect();
        assert_eq!(first, GOLDEN_HELD_OUT);
    }

    const GOLDEN_HELD_OUT: [i32; 7] = [0, 3, 4, 6, 14, 26, 51];
}
