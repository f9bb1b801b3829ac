//! What the codecs refuse, and why.

use std::path::PathBuf;

/// An error of a weights file, of the settings beside it, or of what a codec is given.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// A file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file is damaged, or of another format.
    #[error("{}{}: expected {expected}, got {got}", path.display(), offset.map(|at| format!(", byte {at}")).unwrap_or_default())]
    Format {
        /// The file.
        path: PathBuf,
        /// Where in the file, or in the pickle inside of it.
        offset: Option<u64>,
        /// What should stand there.
        expected: String,
        /// What stands there.
        got: String,
    },
    /// A pickle asks for a function that is not one of those that make tensors and plain data.
    #[error("{}, byte {offset} of its pickle: asks to call {function}, which is code; refused", path.display())]
    Code {
        /// The file.
        path: PathBuf,
        /// Where in the pickle.
        offset: u64,
        /// Module and name.
        function: String,
    },
    /// A file holds weights, but those of something else.
    #[error("{}: expected the weights of {expected}, found {found}", path.display())]
    OtherNetwork {
        /// The file.
        path: PathBuf,
        /// The network asked for.
        expected: &'static str,
        /// What the file seems to hold.
        found: String,
    },
    /// The network needs a tensor that is not in the file.
    #[error("{}: tensor {name} is missing", path.display())]
    MissingTensor {
        /// The file.
        path: PathBuf,
        /// Its name in that file's naming.
        name: String,
    },
    /// The file holds tensors that the network has no place for.
    #[error("{}: {n} tensor(s) that {network} has no place for: {names}", path.display())]
    ExtraTensors {
        /// The file.
        path: PathBuf,
        /// The network.
        network: &'static str,
        /// How many.
        n: usize,
        /// The first of them.
        names: String,
    },
    /// A tensor has another shape than the rest of the network asks for.
    #[error("{}: tensor {name} has shape {got:?}, expected {expected:?}", path.display())]
    TensorShape {
        /// The file.
        path: PathBuf,
        /// Its name in that file's naming.
        name: String,
        /// The shape that the network needs.
        expected: Vec<usize>,
        /// The shape found.
        got: Vec<usize>,
    },
    /// A setting is missing or out of its range.
    #[error("{place}: {field} must be {expected}, got {got}")]
    Setting {
        /// The file that holds the setting, or the network that it is for.
        place: String,
        /// Name of the setting.
        field: String,
        /// The accepted values.
        expected: String,
        /// The value found.
        got: String,
    },
    /// What a codec is given does not fit it.
    #[error("{codec}: {argument} must be {expected}, got {got}")]
    Argument {
        /// The codec.
        codec: &'static str,
        /// Name of the argument.
        argument: &'static str,
        /// What it takes.
        expected: String,
        /// What was given.
        got: String,
    },
    /// Something is asked for whose weights the file does not hold.
    #[error("{}: holds no {half} of {network}", path.display())]
    Lacks {
        /// The file.
        path: PathBuf,
        /// "encoder" or "decoder".
        half: &'static str,
        /// The network.
        network: &'static str,
    },
}

/// Fails with [`CodecError::Argument`] unless `holds`.
pub(crate) fn require_argument(
    holds: bool,
    codec: &'static str,
    argument: &'static str,
    expected: impl ToString,
    got: impl ToString,
) -> Result<(), CodecError> {
    if holds {
        return Ok(());
    }
    Err(CodecError::Argument { codec, argument, expected: expected.to_string(), got: got.to_string() })
}
