//! What this crate refuses, and why.

use candle_core::{DType, Device, DeviceLocation, Tensor};

/// Result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the block or of what it stands on.
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
    /// A tensor has the wrong shape.
    #[error("{op}: {arg} has shape {got:?}, expected {expected:?}")]
    Shape {
        /// Operation that was called.
        op: &'static str,
        /// Argument at fault.
        arg: &'static str,
        /// Shape that the other arguments ask for.
        expected: Vec<usize>,
        /// Shape found.
        got: Vec<usize>,
    },
    /// A tensor has an element type that the operation is not written for.
    #[error("{op}: {arg} has dtype {got:?}, expected {expected}")]
    DType {
        /// Operation that was called.
        op: &'static str,
        /// Argument at fault.
        arg: &'static str,
        /// The accepted element types.
        expected: &'static str,
        /// The type found.
        got: DType,
    },
    /// A tensor lives where the operation does not run.
    #[error("{op}: {arg} is on {got}, expected {expected}")]
    Device {
        /// Operation that was called.
        op: &'static str,
        /// Argument at fault.
        arg: &'static str,
        /// Where it must be.
        expected: String,
        /// Where it is.
        got: String,
    },
    /// What a captured graph reads or records is not as it must be.
    #[error("captured graph: {got}, expected {expected}")]
    Graph {
        /// What is needed.
        expected: &'static str,
        /// What was found.
        got: &'static str,
    },
    /// A stored parameter has values that no model can be made of.
    #[error("parameter {name}: expected {expected}, got {got}")]
    Parameter {
        /// Its name, with what stands before it in the checkpoint.
        name: String,
        /// What is needed.
        expected: &'static str,
        /// What was found, and where.
        got: String,
    },
    /// A decoding state belongs to another element type or batch.
    #[error("{op}: state is for {got}, expected {expected}")]
    State {
        /// Operation that was called.
        op: &'static str,
        /// What the call needs.
        expected: String,
        /// What the state is for.
        got: String,
    },
    /// A backward pass came to a function for decoding, which has none.
    #[error("{op} of a mixer or block has no backward pass: gradients are those of forward, over whole sequences")]
    NoGradient {
        /// The function.
        op: &'static str,
    },
    /// candle's tape does not go through its nodes as [`crate::autograd`] needs it to: gradients would be lost.
    #[error(
        "{op}: candle's tape asked for the gradient of input {input} {asked}, expected once and behind the function, on the \
         thread of the backward pass: this release of candle does not fit"
    )]
    Tape {
        /// The function that was recorded.
        op: &'static str,
        /// Which of its inputs.
        input: usize,
        /// When the tape asked.
        asked: &'static str,
    },
    /// A function on a tape of recorded functions ([`crate::autograd::Tape`]) reads what an operation that is not on it has
    /// made of a tracked tensor: the gradient would end there.
    #[error(
        "{op}: input {input} is not a parameter, nor the output of a function that was recorded on this tape: its gradient would end there"
    )]
    NotRecorded {
        /// The function.
        op: &'static str,
        /// Which of its inputs.
        input: usize,
    },
    /// A kernel refused its arguments.
    #[error(transparent)]
    Kernel(#[from] mom_kernels::Error),
    /// The GPU refused.
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    Gpu(#[from] mom_kernels::cuda::CudaError),
    /// candle failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// So that a module built from these blocks may return candle's own result type.
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
    Err(Error::Config { field, expected: expected.to_owned(), got: got.to_string() })
}

/// Fails with [`Error::Shape`] unless a tensor has the expected shape.
pub(crate) fn expect_shape(op: &'static str, arg: &'static str, expected: &[usize], tensor: &Tensor) -> Result<()> {
    if tensor.dims() == expected {
        return Ok(());
    }
    Err(Error::Shape { op, arg, expected: expected.to_vec(), got: tensor.dims().to_vec() })
}

/// Fails with [`Error::Device`] unless a tensor is on the same device as another one.
pub(crate) fn expect_device(op: &'static str, arg: &'static str, beside: &Tensor, tensor: &Tensor) -> Result<()> {
    let (expected, got) = (beside.device(), tensor.device());
    if expected.same_device(got) {
        return Ok(());
    }
    Err(Error::Device { op, arg, expected: place(expected), got: other_place(got, expected) })
}

/// A device in words.
pub(crate) fn place(device: &Device) -> String {
    match device.location() {
        DeviceLocation::Cpu => "the CPU".to_owned(),
        DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}

/// A device in words, beside another one. candle makes several of one card, which have streams of their own.
pub(crate) fn other_place(device: &Device, than: &Device) -> String {
    let got = place(device);
    if got == place(than) { format!("another candle device of {got}") } else { got }
}
