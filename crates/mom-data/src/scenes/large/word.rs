//! A word, as captions write it and speech says it.

/// A word of a caption, as it is written and said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Word {
    pub text: &'static str,
    /// Separated by spaces; 1 marks the stressed vowel.
    pub phonemes: &'static str,
    pub role: Role,
}

/// What a word is in its sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// May carry an accent.
    Content,
    /// Never does.
    Function,
    /// A short rest.
    Comma,
    /// The end of a sentence.
    Stop,
}
