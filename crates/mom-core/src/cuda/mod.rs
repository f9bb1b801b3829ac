//! Tensors on a GPU as what mom-kernels reads and writes.
//!
//! Every function here works on the stream of the tensors' device: what candle does and what our kernels do follow each
//! other without synchronisation, also where several threads launch.
//!
//! ```text
//! on_gpu, on_device, plan    the kernels of a device, its tensors and plans as views
//! device                     which device, and its memory
//! weights                    projections and mixers as the kernels read them
//! grouped_linear, causal_conv1d, selective_scan, rms_norm, mixer, attention     nodes of the tape
//! rows                       what one of the host's nodes does here
//! graph, step                captured work
//! ```

mod attention;
mod causal_conv1d;
mod device;
mod elementwise;
mod graph;
mod grouped_linear;
mod mixer;
mod on_device;
mod on_gpu;
mod plan;
mod rms_norm;
mod row_ranges;
mod rows;
mod selective_scan;
mod step;
mod weights;

pub use device::{memory, name, reset_peak_memory};
pub use graph::{Captured, capture};
pub use mom_kernels::cuda::half;
pub use on_device::OnDevice;
pub use on_gpu::{GpuFloat, OnGpu, dispatch};
pub use step::{StepHead, StepMemory};

pub(crate) use attention::{attention, rotary_embedding};
pub(crate) use causal_conv1d::causal_conv1d;
pub(crate) use device::device;
pub(crate) use elementwise::{accumulate, combine, convert, silu};
pub(crate) use grouped_linear::grouped_linear;
pub(crate) use mixer::{Link, chain, initial_state, mixer, mixer_from};
pub(crate) use plan::{MaskOnDevice, PlanOnDevice};
pub(crate) use rms_norm::rms_norm;
pub(crate) use row_ranges::{joined_states, narrow_rows, stack_rows, within_rows};
pub(crate) use rows::moved_rows;
pub(crate) use selective_scan::selective_scan;
