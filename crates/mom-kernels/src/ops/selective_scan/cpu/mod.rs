//! The scan on the CPU: vectors run over channels, tasks over sequences and blocks of channels.

mod args;
mod backward;
mod ends;
mod forward;
pub mod reference;
mod segment;
mod step;

pub use args::{DtBias, ScanGrads, ScanInputs, ScanOutputGrads, ScanOutputs, saved_states_len};
pub use backward::backward;
pub use ends::{adjoint_ends, carry, ends};
pub use forward::forward;
pub use step::step;
