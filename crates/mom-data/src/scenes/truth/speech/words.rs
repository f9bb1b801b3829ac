//! What a recogniser tells apart: the words of the lexicon, and silences.

use super::super::super::lexicon;

/// A word of the lexicon by its place there, or one of the silences below.
pub(super) type Word = usize;

/// Words and silences that there are.
pub(super) const N_WORDS: usize = lexicon::N_WORDS + 3;
/// Silence before the first word.
pub(super) const BEGIN: Word = lexicon::N_WORDS;
/// Silence at a comma.
pub(super) const PAUSE: Word = lexicon::N_WORDS + 1;
/// Silence behind the last word.
pub(super) const END: Word = lexicon::N_WORDS + 2;

/// The place of a word of the lexicon.
pub(super) fn word_of(name: &str) -> Option<Word> {
    lexicon::place(name)
}

/// The word at a place; `None` for silence.
pub(super) fn name_of(word: Word) -> Option<&'static str> {
    lexicon::words().nth(word)
}
