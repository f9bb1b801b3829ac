//! What can go wrong in a run.

use std::path::PathBuf;

use crate::files::FileError;

/// Result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a run or a sweep.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A configuration value is out of its range.
    #[error("configuration: {field} must be {expected}, got {got}")]
    Config {
        /// Dotted name of the field.
        field: &'static str,
        /// The accepted values.
        expected: String,
        /// The value found.
        got: String,
    },
    /// A configuration does not parse: an unknown key, a missing one, a value of another kind.
    #[error("configuration{}: {source}", origin.as_ref().map(|o| format!(" {o}")).unwrap_or_default())]
    Toml {
        /// The file or override at fault.
        origin: Option<String>,
        /// The parser's reason, with the key.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A `key=value` override is not one.
    #[error("override {text:?}: expected key=value with a dotted key, {reason}")]
    Override {
        /// The argument.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file does not hold what it should.
    #[error("{}: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A folder holds a run or a checkpoint of another configuration.
    #[error("{} was made with {}; use another folder, or the old values", path.display(), differences.join(", "))]
    OtherConfig {
        /// The folder.
        path: PathBuf,
        /// Every field that differs, as `name = old value (now new value)`.
        differences: Vec<String>,
    },
    /// The data of a folder has changed since it was made.
    #[error("{} was made with other data or by another version: {what}; use another folder", path.display())]
    OtherData {
        /// The file that says so.
        path: PathBuf,
        /// What differs.
        what: String,
    },
    /// The data lack a modality that makes a setting what it is.
    #[error("the data do not serve what is asked for: {}; {found}", needs.join("; "))]
    Unserved {
        /// What each setting needs, in words.
        needs: Vec<String>,
        /// What was looked at, and what it has.
        found: String,
    },
    /// Every checkpoint of a run is damaged.
    #[error(
        "no checkpoint is whole: {}; put a good copy there, or remove them to begin from the start",
        checkpoints.iter().map(|(path, what)| format!("{}: {what}", path.display())).collect::<Vec<_>>().join("; ")
    )]
    Damaged {
        /// Each with what is wrong with it, the newest first.
        checkpoints: Vec<(PathBuf, String)>,
    },
    /// Another process works in the folder.
    #[error("{} is in use by another process", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// The device has too little memory.
    #[error("out of device memory ({source}): {advice}")]
    OutOfMemory {
        /// What could not be had.
        source: Box<Error>,
        /// What to change.
        advice: String,
    },
    /// A rank of the run failed, and the run ends with it.
    #[error("rank {rank} failed: {message}")]
    Rank {
        /// Which.
        rank: usize,
        /// What it said, or what was seen of it.
        message: String,
    },
    /// The ranks of a run cannot work together.
    #[error("several ranks: {reason}")]
    World {
        /// Why.
        reason: String,
    },
    /// An observer ended a run early, see [`crate::run::Observer::goes_on`].
    #[error("stopped after step {step}, which has a checkpoint; the same command goes on from there")]
    Stopped {
        /// The last step; 0 if there was none.
        step: u64,
    },
    /// A loss, gradient or weight is not finite; no weight was touched.
    #[error(
        "step {step}: {tensor} is {value}; training stops.{} {}. If the data are right, a lower optimizer.learning_rate or a longer \
         optimizer.warmup_steps (of another folder) may help",
        origin.as_ref().map_or_else(String::new, ToString::to_string),
        checkpoint_in_words(checkpoint.as_deref())
    )]
    NonFinite {
        /// The step that failed, counted from 1.
        step: u64,
        /// What is not finite: "the loss", "the gradient of NAME", "NAME".
        tensor: String,
        /// NaN or an infinity.
        value: f64,
        /// Where it comes from.
        origin: Option<Box<Origin>>,
        /// Where to go on from.
        checkpoint: Option<PathBuf>,
    },
    /// The norm of a step's gradient stands out; no weight was touched.
    #[error(
        "step {step}: the gradient's norm is {norm:.4}, more than train.spike_factor times the median of the last steps \
         ({limit:.4}); training stops.{} {}",
        origin.as_ref().map_or_else(String::new, ToString::to_string),
        checkpoint_in_words(checkpoint.as_deref())
    )]
    Spike {
        /// The step, counted from 1.
        step: u64,
        /// The norm.
        norm: f64,
        /// What it had to be below.
        limit: f64,
        /// Where it comes from.
        origin: Option<Box<Origin>>,
        /// Where to go on from.
        checkpoint: Option<PathBuf>,
    },
    /// The data crate failed.
    #[error(transparent)]
    Data(#[from] mom_data::DataError),
    /// The model failed.
    #[error(transparent)]
    Model(#[from] mom_models::Error),
    /// The report failed, see [`crate::ablate::report::ReportError`].
    #[error(transparent)]
    Report(Box<dyn std::error::Error + Send + Sync>),
    /// The block failed.
    #[error(transparent)]
    Core(#[from] mom_core::Error),
    /// The GPU refused.
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    Gpu(#[from] mom_kernels::cuda::CudaError),
    /// candle failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// What a step that cannot be taken was made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The first operation of the forward pass whose output is not finite, if any is.
    pub operation: Option<String>,
    /// The documents of the step, as `source:key`.
    pub documents: Vec<String>,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        /// So many are named in a message.
        const NAMED: usize = 8;
        if let Some(operation) = &self.operation {
            write!(f, " The first output that is not finite is that of {operation}.")?;
        }
        let named = &self.documents[..self.documents.len().min(NAMED)];
        write!(f, " Its documents: {}", named.join(", "))?;
        match self.documents.len() - named.len() {
            0 => f.write_str("."),
            more => write!(f, " and {more} more."),
        }
    }
}

fn checkpoint_in_words(checkpoint: Option<&std::path::Path>) -> String {
    match checkpoint {
        Some(path) => format!("The last good checkpoint is {}", path.display()),
        None => "No checkpoint was written yet".to_owned(),
    }
}

impl Error {
    /// The same error, with where it comes from.
    pub(crate) fn with_origin(mut self, from: Origin) -> Self {
        if let Self::NonFinite { origin, .. } | Self::Spike { origin, .. } = &mut self {
            *origin = Some(Box::new(from));
        }
        self
    }

    /// The same error, with the checkpoint to go on from.
    pub(crate) fn with_checkpoint(mut self, last: Option<&PathBuf>) -> Self {
        if let Self::NonFinite { checkpoint, .. } | Self::Spike { checkpoint, .. } = &mut self {
            *checkpoint = last.cloned();
        }
        self
    }

    /// The same error; that of a device without memory says what to change.
    ///
    /// It comes through several crates' errors and candle's boxes, whose texts all hold the driver's.
    pub(crate) fn or_out_of_memory(self, advice: impl FnOnce() -> String) -> Self {
        if self.to_string().contains("CUDA_ERROR_OUT_OF_MEMORY") {
            Self::OutOfMemory { source: Box::new(self), advice: advice() }
        } else {
            self
        }
    }
}

/// [`Error::Config`].
pub(crate) fn config(field: &'static str, expected: &str, got: impl ToString) -> Error {
    Error::Config { field, expected: expected.to_owned(), got: got.to_string() }
}

/// Fails with [`Error::Config`] unless `holds`.
pub(crate) fn require(holds: bool, field: &'static str, expected: &str, got: impl ToString) -> Result<()> {
    if holds { Ok(()) } else { Err(config(field, expected, got)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_without_memory_says_what_to_change() {
        let driver = "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")";
        let error = Error::from(candle_core::Error::Msg(driver.to_owned())).or_out_of_memory(|| "less".to_owned());
        let text = error.to_string();
        assert!(text.contains(driver) && text.ends_with(": less"), "{text}");
        let other = Error::from(candle_core::Error::Msg("another".to_owned())).or_out_of_memory(|| "less".to_owned());
        assert!(matches!(other, Error::Candle(_)));
    }
}
