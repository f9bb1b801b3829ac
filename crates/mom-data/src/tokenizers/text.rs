//! Text tokens: byte-level BPE in the format of the `tokenizers` library, trained here or brought by the user.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tokenizers::decoders::DecoderWrapper;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, Tokenizer};

use super::bpe;
use crate::{DataError, Result, files};

/// Letters of a word that merges are learned from, at most. A longer one, as a file without a blank has them, teaches
/// nothing and costs hours; it is cut here, and encoded whole.
const MAX_WORD: usize = 64;

/// Different words that are counted, at most; beyond, those that were seen once are forgotten.
const MAX_WORDS: usize = 1 << 22;

/// Largest number of tokens: beyond, an id is a mistake, and a vocabulary of it would not fit in memory.
const MAX_TOKENS: u32 = 1 << 24;

/// How often each word occurs.
#[derive(Debug, Default)]
pub(crate) struct WordCounts {
    counts: BTreeMap<String, u64>,
    pub bytes: u64,
}

impl WordCounts {
    /// The words of a text, in the letters of byte-level BPE.
    pub fn words(text: &str) -> Vec<String> {
        let pre_tokenizer = ByteLevel::new(false, true, true);
        let mut text = PreTokenizedString::from(text);
        // It can only fail by a normaliser, and has none.
        if pre_tokenizer.pre_tokenize(&mut text).is_err() {
            return Vec::new();
        }
        let splits = text.get_splits(OffsetReferential::Normalized, OffsetType::Byte);
        let cut = |(word, _, _): (&str, _, _)| {
            let letters: Vec<char> = word.chars().take(1 << 16).collect();
            letters.chunks(MAX_WORD).map(|letters| letters.iter().collect::<String>()).collect::<Vec<_>>()
        };
        splits.into_iter().flat_map(cut).collect()
    }

    /// Counts the words of a text of so many bytes.
    pub fn add(&mut self, words: Vec<String>, bytes: usize) {
        self.bytes += bytes as u64;
        for word in words {
            *self.counts.entry(word).or_default() += 1;
        }
        if self.counts.len() > MAX_WORDS {
            self.counts.retain(|_, count| *count > 1);
        }
    }
}

/// A text tokenizer.
#[derive(Debug, Clone)]
pub struct TextTokenizer {
    /// `None` where texts come as tokens.
    inner: Option<Tokenizer>,
    n_tokens: u32,
    /// Bytes of text that each token stands for (n_tokens), where that does not depend on its neighbours.
    lengths: Option<Vec<u32>>,
}

impl TextTokenizer {
    /// Trains byte-level BPE with `vocab_size` tokens at most (256 bytes, then merges).
    pub(crate) fn train(words: &WordCounts, vocab_size: usize, progress: &mut dyn FnMut(usize, usize)) -> Result<Self> {
        let pre_tokenizer = ByteLevel::new(false, true, true);
        let alphabet: BTreeSet<char> = ByteLevel::alphabet().into_iter().collect();
        let learned = bpe::learn(&words.counts, &alphabet, vocab_size, progress);
        let vocab: BTreeMap<String, u32> = learned.symbols.into_iter().zip(0..).collect();
        let model = BPE::builder()
            .vocab_and_merges(vocab.into_iter().collect::<Vocab>(), learned.merges)
            .build()
            .map_err(|e| failed(None, e))?;
        let mut inner = Tokenizer::new(model);
        inner.with_pre_tokenizer(Some(pre_tokenizer)).with_decoder(Some(pre_tokenizer));
        Self::checked(inner, None)
    }

    /// No tokenizer: texts come as tokens below `n_tokens`.
    pub(crate) fn precomputed(n_tokens: u32) -> Self {
        Self { inner: None, n_tokens, lengths: None }
    }

    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// [`DataError::TextTokenizer`], naming the file, if it does not parse, has no token, one id for two tokens, or an id
    /// that no vocabulary has.
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| failed(Some(path), e))?;
        let json: serde_json::Value = serde_json::from_slice(&bytes).map_err(|e| failed(Some(path), e))?;
        if has_false_charsmap(&json) {
            return Err(failed(Some(path), "a precompiled_charsmap says that it is longer than it is"));
        }
        guarded(Some(path), || {
            let inner = Tokenizer::from_bytes(&bytes).map_err(|e| failed(Some(path), e))?;
            // What panics at a plain text is refused before a source is read; one that merely lacks a token of it is not.
            let _ = inner.encode_fast(PROBE, false);
            Self::checked(inner, Some(path))
        })
    }

    fn checked(mut inner: Tokenizer, path: Option<&Path>) -> Result<Self> {
        // A user's file may cut or fill up its encodings; documents are packed here.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| failed(path, e))?;
        let mut ids: Vec<(u32, String)> = inner.get_vocab(true).into_iter().map(|(token, id)| (id, token)).collect();
        ids.sort();
        if let Some(pair) = ids.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            let names = format!("{:?} and {:?}", pair[0].1, pair[1].1);
            return Err(failed(path, format!("the id {} stands for two tokens, {names}", pair[0].0)));
        }
        match ids.last() {
            None => Err(failed(path, "its vocabulary is empty")),
            Some((id, token)) if *id >= MAX_TOKENS => {
                Err(failed(path, format!("token {token:?} has the id {id}, expected below {MAX_TOKENS}")))
            }
            Some((id, _)) => {
                let (n_tokens, lengths) = (id + 1, lengths(&inner, &ids));
                Ok(Self { inner: Some(inner), n_tokens, lengths })
            }
        }
    }

    fn inner(&self) -> Result<&Tokenizer> {
        self.inner.as_ref().ok_or_else(|| failed(None, "texts come as tokens, there is no tokenizer"))
    }

    pub(super) fn save(&self, path: &Path) -> Result<()> {
        match &self.inner {
            Some(inner) => {
                let json = inner.to_string(true).map_err(|e| failed(Some(path), e))?;
                files::write_bytes(path, json.as_bytes())
            }
            None => Ok(()),
        }
    }

    /// The id of a token by its name.
    pub(super) fn id_of(&self, name: &str) -> Option<u32> {
        self.inner.as_ref()?.token_to_id(name)
    }

    /// What a fingerprint is made of.
    pub(super) fn bytes(&self) -> Result<Vec<u8>> {
        match &self.inner {
            Some(inner) => Ok(inner.to_string(false).map_err(|e| failed(None, e))?.into_bytes()),
            None => Ok(Vec::new()),
        }
    }

    /// One more than the largest token.
    pub fn n_tokens(&self) -> u32 {
        self.n_tokens
    }

    /// Tokens of a text (n_tokens), without special tokens; each below [`Self::n_tokens`].
    ///
    /// # Errors
    /// [`DataError::TextTokenizer`] if the tokenizer fails, as one without an unknown token may.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let inner = self.inner()?;
        let encoding = guarded(None, || inner.encode_fast(text, false).map_err(|e| failed(None, e)))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of tokens; bytes that are not UTF-8 become replacement characters.
    ///
    /// # Errors
    /// [`DataError::Token`] for a token outside the tokenizer; [`DataError::TextTokenizer`] if decoding fails.
    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        self.check(tokens)?;
        let inner = self.inner()?;
        guarded(None, || inner.decode(tokens, false).map_err(|e| failed(None, e)))
    }

    /// Bytes of text that tokens stand for; of a tokenizer that is not byte-level, of the text that it makes of them. `None` where
    /// texts come as tokens: nobody knows.
    ///
    /// # Errors
    /// As [`Self::decode`].
    pub fn n_bytes(&self, tokens: &[u32]) -> Result<Option<u64>> {
        self.check(tokens)?;
        match (&self.inner, &self.lengths) {
            (None, _) => Ok(None),
            (_, Some(lengths)) => Ok(Some(tokens.iter().map(|&token| u64::from(lengths[token as usize])).sum())),
            (Some(_), None) => Ok(Some(self.decode(tokens)?.len() as u64)),
        }
    }

    fn check(&self, tokens: &[u32]) -> Result<()> {
        let size = self.n_tokens;
        match tokens.iter().find(|&&token| token >= size) {
            Some(&token) => Err(DataError::Token { token, range: "text token", start: 0, end: size, size }),
            None => Ok(()),
        }
    }
}

/// Bytes that each token of a byte-level tokenizer stands for: a letter of its spelling is a byte, but of tokens (those that were added)
/// that are spelled as they are. `None` for another tokenizer.
fn lengths(inner: &Tokenizer, ids: &[(u32, String)]) -> Option<Vec<u32>> {
    let is_byte_level = matches!(inner.get_decoder(), Some(DecoderWrapper::ByteLevel(_)));
    let alphabet = ByteLevel::alphabet();
    let n_bytes = |token: &str| {
        let is_spelled = token.chars().all(|letter| alphabet.contains(&letter));
        if is_spelled { token.chars().count() } else { token.len() }
    };
    let mut lengths = vec![0; ids.last()?.0 as usize + 1];
    ids.iter().for_each(|(id, token)| lengths[*id as usize] = n_bytes(token) as u32);
    is_byte_level.then_some(lengths)
}

/// A text as sources have them.
const PROBE: &str = "A text of 12 words, (some) \u{e4} \u{65e5} \u{1f600}\n\tand a second line: abc abc x.";

/// Runs the tokenizers' crate, which panics at some files that it cannot use.
fn guarded<T>(path: Option<&Path>, run: impl FnOnce() -> Result<T>) -> Result<T> {
    // Nothing outlives the call that a panic could leave half done.
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err(failed(path, "the reader of tokenizers gave up on it")))
}

/// Whether a table of SentencePiece's, in base 64, has a first part that is longer than all of it: memory for it would be asked for.
fn has_false_charsmap(json: &serde_json::Value) -> bool {
    use serde_json::Value;
    match json {
        Value::Array(items) => items.iter().any(has_false_charsmap),
        Value::Object(fields) => fields.iter().any(|(key, value)| match value {
            Value::String(text) if key == "precompiled_charsmap" => {
                let Ok(bytes) = BASE64_STANDARD.decode(text) else { return false };
                let said = bytes.first_chunk().map(|first| u32::from_le_bytes(*first));
                said.is_none_or(|said| said as usize > bytes.len() - size_of::<u32>())
            }
            value => has_false_charsmap(value),
        }),
        _ => false,
    }
}

fn failed(path: Option<&Path>, reason: impl ToString) -> DataError {
    DataError::TextTokenizer { path: path.map(PathBuf::from), reason: reason.to_string() }
}
