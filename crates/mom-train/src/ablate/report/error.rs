//! What can go wrong while a report is made or read back.

use std::path::PathBuf;

/// An error of the report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// Two runs claim the same place in the comparison.
    #[error("two runs of setting {setting}, scale {scale}, variant {variant}, seed {seed}: expected one")]
    DuplicateRun {
        /// Setting of both runs.
        setting: String,
        /// Scale of both runs.
        scale: String,
        /// Variant of both runs.
        variant: String,
        /// Seed of both runs.
        seed: u64,
    },
    /// A run's evaluations are not in ascending order of step.
    #[error("curve of {run}: expected ascending steps, got {step} after {previous}")]
    UnorderedCurve {
        /// The run, as setting/variant/seed.
        run: String,
        /// The earlier evaluation's step.
        previous: u64,
        /// The step that follows it.
        step: u64,
    },
    /// A file or folder could not be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried: "create", "write", "rename" or "read".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file is not the JSON it should be.
    #[error("{} is not a results file of schema 1 or 2", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The parser's reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A results file of another schema than this program writes.
    #[error("{}: expected schema {expected}, got {got}", path.display())]
    Schema {
        /// The file.
        path: PathBuf,
        /// The schema read and written here.
        expected: u64,
        /// The file's schema.
        got: u64,
    },
    /// The records could not be turned into JSON.
    #[error("cannot write the records as JSON")]
    Serialize(#[source] serde_json::Error),
    /// A plot could not be drawn.
    #[error("cannot draw the plot {plot}")]
    Plot {
        /// File name of the plot.
        plot: String,
        /// The drawing library's reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl From<ReportError> for crate::Error {
    fn from(error: ReportError) -> Self {
        Self::Report(Box::new(error))
    }
}
