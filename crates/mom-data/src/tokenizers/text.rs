//! Text tokens: byte-level BPE in the format of the `tokenizers` library, trained here or brought by the user.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, Tokenizer};

use super::bpe;
use crate::{DataError, Result, files};

/// A text tokenizer.
#[derive(Debug, Clone)]
pub struct TextTokenizer {
    inner: Tokenizer,
    n_tokens: u32,
}

impl TextTokenizer {
    /// Trains byte-level BPE with `vocab_size` tokens at most (256 bytes, then merges).
    pub(super) fn train<'a>(captions: impl Iterator<Item = &'a str>, vocab_size: usize) -> Result<Self> {
        let pre_tokenizer = ByteLevel::new(false, true, true);
        let mut words: BTreeMap<String, u64> = BTreeMap::new();
        for caption in captions {
            let mut text = PreTokenizedString::from(caption);
            pre_tokenizer.pre_tokenize(&mut text).map_err(|e| failed(None, e))?;
            for (word, _, _) in text.get_splits(OffsetReferential::Normalized, OffsetType::Byte) {
                *words.entry(word.to_owned()).or_default() += 1;
            }
        }
        let alphabet: BTreeSet<char> = ByteLevel::alphabet().into_iter().collect();
        let learned = bpe::learn(&words, &alphabet, vocab_size);
        let vocab: BTreeMap<String, u32> = learned.symbols.into_iter().zip(0..).collect();
        let model = BPE::builder()
            .vocab_and_merges(vocab.into_iter().collect::<Vocab>(), learned.merges)
            .build()
            .map_err(|e| failed(None, e))?;
        let mut inner = Tokenizer::new(model);
        inner.with_pre_tokenizer(Some(pre_tokenizer)).with_decoder(Some(pre_tokenizer));
        Self::checked(inner, None)
    }

    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// [`DataError::TextTokenizer`], naming the file, if it does not parse or has no token.
    pub fn load(path: &Path) -> Result<Self> {
        let inner = Tokenizer::from_file(path).map_err(|e| failed(Some(path), e))?;
        Self::checked(inner, Some(path))
    }

    fn checked(mut inner: Tokenizer, path: Option<&Path>) -> Result<Self> {
        // A user's file may cut or fill up its encodings; documents are packed here.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| failed(path, e))?;
        let largest = inner.get_vocab(true).into_values().max();
        match largest.and_then(|id| id.checked_add(1)) {
            Some(n_tokens) => Ok(Self { inner, n_tokens }),
            None => Err(failed(path, "its vocabulary is empty")),
        }
    }

    pub(super) fn save(&self, path: &Path) -> Result<()> {
        let json = self.inner.to_string(true).map_err(|e| failed(Some(path), e))?;
        files::write_bytes(path, json.as_bytes())
    }

    /// What a fingerprint is made of.
    pub(super) fn bytes(&self) -> Result<Vec<u8>> {
        Ok(self.inner.to_string(false).map_err(|e| failed(None, e))?.into_bytes())
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
        let encoding = self.inner.encode_fast(text, false).map_err(|e| failed(None, e))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of tokens; bytes that are not UTF-8 become replacement characters.
    ///
    /// # Errors
    /// [`DataError::Token`] for a token outside the tokenizer; [`DataError::TextTokenizer`] if decoding fails.
    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        if let Some(&token) = tokens.iter().find(|&&token| token >= self.n_tokens) {
            let size = self.n_tokens;
            return Err(DataError::Token { token, range: "text token", start: 0, end: size, size });
        }
        self.inner.decode(tokens, false).map_err(|e| failed(None, e))
    }
}

fn failed(path: Option<&Path>, reason: impl ToString) -> DataError {
    DataError::TextTokenizer { path: path.map(PathBuf::from), reason: reason.to_string() }
}
