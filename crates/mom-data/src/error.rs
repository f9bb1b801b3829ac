//! The one error type of this crate. A bad *sample* is never an error: it is a counted skip ([`crate::readers::Tally`]).

use std::path::{Path, PathBuf};

use crate::tally::Tally;

/// Result of this crate's functions.
pub type Result<T, E = DataError> = std::result::Result<T, E>;

/// What can go wrong between raw documents and a batch.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The operating system refused an operation on a file or folder.
    #[error("cannot {op} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb: "read", "write", "rename".
        op: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A configuration value is out of its range.
    #[error("configuration: {field} must be {expected}, got {got}")]
    Config {
        /// Dotted name of the field.
        field: &'static str,
        /// The accepted range.
        expected: String,
        /// The value found.
        got: String,
    },
    /// A JSON file does not parse, or does not hold what it should.
    #[error("{} is not a valid file of its kind: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The parser's reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file of tokenised samples is damaged, or of other samples or tokenizers.
    #[error("{}: {reason}", path.display())]
    Tokens {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file of a source is damaged, or not of its format.
    #[error("{}, {place}: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where: "at byte 512", "in row group 3", "at line 17".
        place: String,
        /// What is wrong, as text that a terminal can show.
        reason: String,
    },
    /// No format fits what lies at a path.
    #[error(
        "{}: {}", path.display(),
        if endings.is_empty() { "there is nothing".to_owned() } else { format!("no format fits what is there ({endings}); name one") }
    )]
    UnknownFormat {
        /// The path.
        path: PathBuf,
        /// Endings that were found.
        endings: String,
    },
    /// Nothing of a format lies at a path.
    #[error("{}: nothing of the format {format} is there", path.display())]
    NoUnits {
        /// The path.
        path: PathBuf,
        /// The format.
        format: &'static str,
    },
    /// Every sample that was looked at had to be skipped.
    #[error("no usable sample: {report}")]
    AllSkipped {
        /// Reasons and examples.
        report: Box<Tally>,
    },
    /// A split has no document.
    #[error(
        "the {split} split is empty: {n_samples} usable samples, data.tokenizers.held_out = {held_out} ({report}); change that share, or give a source split = \"train\" or \"validation\""
    )]
    EmptySplit {
        /// "training" or "held-out".
        split: &'static str,
        /// Usable samples in both splits together.
        n_samples: usize,
        /// Configured fraction of held-out samples.
        held_out: f64,
        /// What was skipped.
        report: Box<Tally>,
    },
    /// A folder to write shards to already holds something else.
    #[error("{} holds {found}; write to another folder, or remove it", dir.display())]
    FolderInUse {
        /// The folder.
        dir: PathBuf,
        /// What was found there.
        found: String,
    },
    /// A text tokenizer could not be built, read or used.
    #[error("text tokenizer{}: {reason}", path.as_ref().map(|p| format!(" {}", p.display())).unwrap_or_default())]
    TextTokenizer {
        /// Its file, where there is one.
        path: Option<PathBuf>,
        /// The reason.
        reason: String,
    },
    /// A codebook file is damaged or of the wrong shape.
    #[error("codebook {}: {reason}", path.display())]
    Codebook {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// A token is outside the vocabulary, or outside the range asked for.
    #[error("token {token} is outside the {range} range [{start}, {end}) of a vocabulary of {size}")]
    Token {
        /// The token.
        token: u32,
        /// Name of the range: "vocabulary", "text", "image", "speech".
        range: &'static str,
        /// First token of the range.
        start: u32,
        /// One past the last token of the range.
        end: u32,
        /// Size of the whole vocabulary.
        size: u32,
    },
    /// Something is asked for that was not fitted or not loaded.
    #[error("{what} are asked for, and the {holder} at hand lack them")]
    Missing {
        /// What is needed: "image codes", "speech units", "images".
        what: &'static str,
        /// Who lacks it: "tokenizers", "documents".
        holder: &'static str,
    },
    /// Latents have another shape than the model's.
    #[error("latents of shape {shape:?}, expected {expected}")]
    Latents {
        /// Their shape.
        shape: Vec<usize>,
        /// The shapes that there are.
        expected: String,
    },
    /// Weights that tokens were made with are needed, and are not here.
    #[error("{what} are needed to encode or decode: {expected}; {reason}")]
    Absent {
        /// Whose weights.
        what: &'static str,
        /// The files that tokens were made with.
        expected: String,
        /// Why they are not here.
        reason: String,
    },
    /// An image of continuous patches, with its two markers, does not fit in a sequence.
    #[error("an image takes {n_positions} positions (patches and two markers), more than seqlen {seqlen}")]
    ImageTooLong {
        /// Positions of one image.
        n_positions: usize,
        /// Positions of a sequence.
        seqlen: usize,
    },
    /// A saved position lies outside its window.
    #[error("position: window {window} has {n_sequences} sequences, cannot go to sequence {sequence}")]
    Position {
        /// The window.
        window: u64,
        /// The sequence asked for.
        sequence: u64,
        /// Sequences of that window.
        n_sequences: usize,
    },
    /// A slice has the wrong length.
    #[error("{what}: expected {expected} values, got {got}")]
    Length {
        /// What the slice holds.
        what: &'static str,
        /// Expected number of values.
        expected: usize,
        /// Number found.
        got: usize,
    },
    /// A tokenizer whose network is not of this crate failed.
    #[error("{what}: {reason}")]
    Tokenizer {
        /// The tokenizer.
        what: &'static str,
        /// Its reason.
        reason: String,
    },
    /// An image could not be decoded.
    #[error("cannot decode the image: {reason}")]
    Decode {
        /// The decoder's reason.
        reason: &'static str,
    },
    /// An image or a sound could not be encoded.
    #[error("cannot encode {what}: {reason}")]
    Encode {
        /// "png", "jpeg" or "wav".
        what: &'static str,
        /// The encoder's reason.
        reason: String,
    },
}

/// Attaches an operation and a path to an I/O error.
pub(crate) trait IoContext<T> {
    /// `op` is a verb: "read", "write".
    fn at(self, op: &'static str, path: &Path) -> Result<T>;
}

impl<T> IoContext<T> for std::io::Result<T> {
    fn at(self, op: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| DataError::Io { op, path: path.to_path_buf(), source })
    }
}

/// Fails with [`DataError::Config`] unless `holds`.
pub(crate) fn require(holds: bool, field: &'static str, expected: &str, got: impl ToString) -> Result<()> {
    if holds {
        return Ok(());
    }
    Err(DataError::Config { field, expected: expected.to_owned(), got: got.to_string() })
}
