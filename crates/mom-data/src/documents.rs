//! The tokenised samples of a split, and the rule that splits.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;

use crate::recipe::{ImageNeed, Needs, Recipe, SpeechNeed};
use crate::shards::{Corpus, Sample, SkipReason, SkipReport};
use crate::tokenizers::Tokenizers;
use crate::tokens::{Part, Table, Tokenised};
use crate::vocabulary::{Modality, Vocabulary};
use crate::{DataError, Result, files, pixels, rng};

/// Samples that are read and tokenised together, in parallel.
const CHUNK: usize = 256;

/// Samples of a file of [`Dataset::prepare`].
pub const PART: usize = 4096;

/// Raised whenever the same samples and tokenizers would give other tokens, or another file.
const FORMAT_VERSION: u32 = 1;

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

/// The tokenised samples of one split. Tokens are those of the whole vocabulary.
#[derive(Debug, Clone)]
pub struct DocumentSet {
    vocabulary: Vocabulary,
    needs: Needs,
    image_size: usize,
    parts: Vec<Table>,
    /// Documents before each part, and of all.
    starts: Vec<usize>,
}

impl DocumentSet {
    fn new(vocabulary: Vocabulary, needs: Needs, image_size: usize) -> Self {
        Self { vocabulary, needs, image_size, parts: Vec::new(), starts: vec![0] }
    }

    fn push(&mut self, part: Table) {
        self.starts.push(self.len() + part.len());
        self.parts.push(part);
    }

    /// The part of a document, and its place there.
    fn find(&self, document: usize) -> (&Table, usize) {
        assert!(document < self.len(), "document {document} of {}", self.len());
        let part = self.starts.partition_point(|&start| start <= document) - 1;
        (&self.parts[part], document - self.starts[part])
    }

    /// Number of documents.
    pub fn len(&self) -> usize {
        self.starts.last().copied().unwrap_or(0)
    }

    /// True if there is no document; [`Dataset::load`] never makes such a set.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
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
        let (part, at) = self.find(document);
        std::str::from_utf8(part.keys.row(at)).unwrap_or_default()
    }

    /// Caption tokens (n_tokens), at least one.
    pub fn text(&self, document: usize) -> &[u32] {
        let (part, at) = self.find(document);
        part.text.row(at)
    }

    /// Image code tokens (n_codes), row-major; empty if the recipe takes none.
    pub fn image_codes(&self, document: usize) -> &[u32] {
        let (part, at) = self.find(document);
        part.image_codes.row(at)
    }

    /// Speech unit tokens (n_units); empty if the recipe takes none.
    pub fn speech_units(&self, document: usize) -> &[u32] {
        let (part, at) = self.find(document);
        part.speech.row(at)
    }

    /// Image pixels (image_size, image_size, 3), kept only for continuous patches; else empty.
    pub fn pixels(&self, document: usize) -> &[u8] {
        match self.needs.image {
            ImageNeed::Patches => {
                let n = self.image_size * self.image_size * 3;
                let (part, at) = self.find(document);
                &part.images[at * n..][..n]
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
    fingerprint: u64,
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
        let needs = checked_needs(tokenizers, recipe)?;
        let part = tokenised(corpus, 0..corpus.len(), tokenizers, needs, |done| progress(done, corpus.len()))?;
        Self::assemble(tokenizers, needs, vec![part])
    }

    /// As [`Self::load_with_progress`], but tokenised once: the samples stay in `folder`, in files of [`PART`] of them, and
    /// are mapped into memory from there. A call that was stopped goes on with what is there.
    ///
    /// # Errors
    /// As [`Self::load`]; [`DataError::Tokens`] for a file that is damaged, or that was made from other samples or
    /// tokenizers.
    pub fn prepare(
        corpus: &Corpus,
        tokenizers: &Tokenizers,
        recipe: &Recipe,
        folder: &Path,
        progress: impl FnMut(usize, usize),
    ) -> Result<Self> {
        Self::prepare_by(PART, corpus, tokenizers, recipe, folder, progress)
    }

    /// [`Self::prepare`] in parts of any size.
    fn prepare_by(
        part_len: usize,
        corpus: &Corpus,
        tokenizers: &Tokenizers,
        recipe: &Recipe,
        folder: &Path,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<Self> {
        let needs = checked_needs(tokenizers, recipe)?;
        files::create_folder(folder)?;
        let of = format!(
            "format {FORMAT_VERSION}, corpus {:016x}, tokenizers {:016x}, {needs:?}",
            corpus.fingerprint(),
            tokenizers.fingerprint()?
        );
        let mut parts = Vec::new();
        for (at, start) in (0..corpus.len()).step_by(part_len).enumerate() {
            let range = start..(start + part_len).min(corpus.len());
            let path = folder.join(format!("part-{at:06}.safetensors"));
            let identity = format!("{of}, samples {} to {}", range.start, range.end);
            if !path.is_file() {
                let part = tokenised(corpus, range.clone(), tokenizers, needs, |done| progress(done, corpus.len()))?;
                part.save(&path, &identity)?;
            }
            // What was just written is read back too: a disk that lies is found out now.
            parts.push(Part::open(&path, &identity)?);
            progress(range.end, corpus.len());
        }
        Self::assemble(tokenizers, needs, parts)
    }

    /// A hash of all tokens and pixels, made of the checksums of the files that they lie in. Files of another length than
    /// [`PART`] and samples in memory have other ones.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    fn assemble(tokenizers: &Tokenizers, needs: Needs, parts: Vec<Part>) -> Result<Self> {
        let config = tokenizers.config();
        let of_part = |part: &Part| [part.checksum() as usize, part.train.len(), part.held_out.len()];
        let words = parts.iter().flat_map(of_part).flat_map(|word| (word as u64).to_le_bytes());
        let fingerprint = rng::stable_hash(&words.collect::<Vec<u8>>());
        let empty = DocumentSet::new(*tokenizers.vocabulary(), needs, config.image.size);
        let (mut train, mut held_out) = (empty.clone(), empty);
        let mut skipped = SkipReport::default();
        for part in parts {
            train.push(part.train);
            held_out.push(part.held_out);
            skipped.append(&part.skipped);
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
        Ok(Self { train: Arc::new(train), held_out: Arc::new(held_out), skipped, fingerprint })
    }
}

/// What a recipe takes from each sample, once it and the tokenizers are known to fit.
fn checked_needs(tokenizers: &Tokenizers, recipe: &Recipe) -> Result<Needs> {
    recipe.validate()?;
    let needs = recipe.needs();
    tokenizers.require(needs)?;
    if let Some(patch) = recipe.patch() {
        pixels::n_patches(tokenizers.config().image.size, patch)?;
    }
    Ok(needs)
}

/// Samples of a corpus as a part in memory; `progress` is told how far in the corpus it is.
fn tokenised(
    corpus: &Corpus,
    samples: Range<usize>,
    tokenizers: &Tokenizers,
    needs: Needs,
    mut progress: impl FnMut(usize),
) -> Result<Part> {
    let held_out = tokenizers.config().held_out;
    let mut part = Part::default();
    for start in samples.clone().step_by(CHUNK) {
        let end = (start + CHUNK).min(samples.end);
        let outcomes: Vec<_> = (start..end).into_par_iter().map(|at| tokenise(corpus, at, tokenizers, needs)).collect();
        for (at, outcome) in (start..end).zip(outcomes) {
            match outcome? {
                Ok(document) => match Split::of(&document.key, held_out) {
                    Split::Train => part.train.push(document),
                    Split::HeldOut => part.held_out.push(document),
                },
                Err(reason) => part.skipped.add(corpus.shard_name(at), corpus.key(at), reason),
            }
        }
        progress(end);
    }
    Ok(part)
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
    use crate::scenes::{ShardOptions, write_shards};
    use crate::{ImageConfig, SpeechConfig, TextConfig, TokenizerConfig};

    fn config(codes: usize) -> TokenizerConfig {
        let defaults = TokenizerConfig::default();
        TokenizerConfig {
            text: TextConfig { vocab_size: 280, ..defaults.text.clone() },
            image: ImageConfig { codes, ..defaults.image.clone() },
            speech: SpeechConfig { units: 8, ..defaults.speech.clone() },
            held_out: 0.3,
            ..defaults
        }
    }

    fn same(a: &DocumentSet, b: &DocumentSet) {
        assert_eq!(a.len(), b.len());
        for document in 0..a.len() {
            assert_eq!(a.key(document), b.key(document));
            assert_eq!(a.text(document), b.text(document));
            assert_eq!(a.image_codes(document), b.image_codes(document));
            assert_eq!(a.speech_units(document), b.speech_units(document));
            assert_eq!(a.pixels(document), b.pixels(document));
        }
    }

    #[test]
    fn prepared_samples_are_the_loaded_ones_and_are_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let shards = ShardOptions { documents: 50, documents_per_shard: 30, ..ShardOptions::default() };
        write_shards(folder.path().join("shards"), &shards, |_, _| {}).unwrap();
        let corpus = Corpus::open(folder.path().join("shards")).unwrap();
        for recipe in [Recipe::transfusion(), Recipe::chameleon(), Recipe::three_modality()] {
            let tokenizers = Tokenizers::fit(&corpus, &config(12), recipe.needs()).unwrap();
            let tokens = folder.path().join(format!("{:?}", recipe.needs()));
            let prepare =
                |tokenizers: &Tokenizers| Dataset::prepare_by(16, &corpus, tokenizers, &recipe, &tokens, |_, _| {});
            let loaded = Dataset::load(&corpus, &tokenizers, &recipe).unwrap();
            let fingerprint = prepare(&tokenizers).unwrap().fingerprint();
            let check = |prepared: Dataset| {
                assert_eq!(prepared.fingerprint(), fingerprint);
                same(&prepared.train, &loaded.train);
                same(&prepared.held_out, &loaded.held_out);
                assert_eq!(prepared.skipped, loaded.skipped);
            };
            check(prepare(&tokenizers).unwrap());
            let parts = || -> Vec<_> {
                let parts = std::fs::read_dir(&tokens).unwrap().map(|entry| entry.unwrap().path());
                let mut parts: Vec<_> =
                    parts.map(|path| (path.clone(), path.metadata().unwrap().modified().unwrap())).collect();
                parts.sort();
                parts
            };
            let before = parts();
            assert_eq!(before.len(), 4, "50 samples in files of 16");
            let other = folder.path().join(format!("other {:?}", recipe.needs()));
            let whole = |folder: &Path| Dataset::prepare_by(50, &corpus, &tokenizers, &recipe, folder, |_, _| {});
            assert_eq!(whole(&other).unwrap().fingerprint(), loaded.fingerprint(), "one file is one part in memory");
            // Stopped before the third: that one alone is made again.
            std::fs::remove_file(&before[2].0).unwrap();
            check(prepare(&tokenizers).unwrap());
            let after = parts();
            assert!(after[2].1 > before[2].1 && [0, 1, 3].iter().all(|&at| after[at] == before[at]));

            let bytes = std::fs::read(&before[1].0).unwrap();
            let mut damaged = bytes.clone();
            *damaged.last_mut().unwrap() ^= 1;
            std::fs::write(&before[1].0, &damaged).unwrap();
            let message = prepare(&tokenizers).unwrap_err().to_string();
            assert!(message.contains("part-000001") && message.contains("damaged"), "{message}");
            std::fs::write(&before[1].0, &bytes[..bytes.len() / 2]).unwrap();
            let message = prepare(&tokenizers).unwrap_err().to_string();
            assert!(message.contains("part-000001"), "{message}");
            std::fs::write(&before[1].0, &bytes).unwrap();
            check(prepare(&tokenizers).unwrap());

            let others = Tokenizers::fit(&corpus, &TokenizerConfig { seed: 9, ..config(12) }, recipe.needs()).unwrap();
            if recipe.needs().image != ImageNeed::Patches {
                let others = Dataset::load(&corpus, &others, &recipe).unwrap();
                assert_ne!(others.fingerprint(), loaded.fingerprint(), "another codebook, other tokens");
            }
            let message = prepare(&others).unwrap_err().to_string();
            assert!(message.contains("part-000000") && message.contains("was made from"), "{message}");
        }
    }

    #[test]
    #[should_panic(expected = "document 3 of 3")]
    fn a_document_that_is_not_there_is_named() {
        let mut set = DocumentSet::new(Vocabulary::new(300, 0, 0).unwrap(), Recipe::chameleon().needs(), 8);
        let mut table = Table::default();
        for key in ["a", "b", "c"] {
            table.push(Tokenised {
                key: key.to_owned(),
                text: vec![1],
                image_codes: Vec::new(),
                pixels: Vec::new(),
                speech: Vec::new(),
            });
        }
        set.push(table);
        assert_eq!((set.key(2), set.text(0)), ("c", &[1][..]));
        set.text(3);
    }

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
