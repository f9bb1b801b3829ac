//! What this crate refuses, and why.

/// Result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a model or of what it stands on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A configuration value is out of its range.
    #[error("configuration: {field} must be {expected}, got {got}")]
    Config {
        /// Name of the field.
        field: &'static str,
        /// The accepted values.
        expected: String,
        /// The value found.
        got: String,
    },
    /// A batch does not hold what the model reads.
    #[error("batch: {field}{} is {got}, expected {expected}", position.map(|p| format!("[{p}]")).unwrap_or_default())]
    Batch {
        /// Array at fault.
        field: &'static str,
        /// Index of the element at fault, where it is one.
        position: Option<usize>,
        /// What the model reads.
        expected: String,
        /// What was found.
        got: String,
    },
    /// The block failed.
    #[error(transparent)]
    Core(#[from] mom_core::Error),
    /// A kernel refused its arguments.
    #[error(transparent)]
    Kernel(#[from] mom_kernels::Error),
    /// The GPU refused.
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    Gpu(#[from] mom_kernels::cuda::CudaError),
    /// A media tokenizer failed.
    #[error(transparent)]
    Codec(#[from] crate::codecs::CodecError),
    /// candle failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl From<Error> for candle_core::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Candle(error) => error,
            other => Self::wrap(other),
        }
    }
}

/// Fails with [`Error::Config`] unless `holds`.
pub(crate) fn require(holds: bool, field: &'static str, expected: &str, got: impl ToString) -> Result<()> {
    if holds {
        return Ok(());
    }
    Err(config(field, expected, got))
}

/// An [`Error::Config`].
pub(crate) fn config(field: &'static str, expected: &str, got: impl ToString) -> Error {
    Error::Config { field, expected: expected.to_owned(), got: got.to_string() }
}

/// Fails with [`Error::Batch`] unless `holds`.
pub(crate) fn require_batch(
    holds: bool,
    field: &'static str,
    position: Option<usize>,
    expected: impl ToString,
    got: impl ToString,
) -> Result<()> {
    if holds {
        return Ok(());
    }
    Err(Error::Batch { field, position, expected: expected.to_string(), got: got.to_string() })
}
