//! What every operation stands on: a stream of a card, views of its memory, kernels and their launch. Nothing here knows an
//! operation.

mod card;
mod catalogue;
pub mod cublaslt;
mod driver;
mod element;
mod error;
mod gpu;
pub(crate) mod ids;
mod launch;
mod loaded;
mod memory;
mod module;
mod place;
mod profile;
mod rows;
mod shape;
mod staging;
mod stream;
mod table;
mod tensor_map;
mod view;

pub(crate) use card::Card;
pub use driver::expect_driver;
pub use element::{DeviceElement, Dtype, GradientOf};
pub use error::{CudaError, Result};
pub use gpu::{Gpu, LeftFree};
pub(crate) use launch::{Grid, blocks};
#[cfg(test)]
pub(crate) use module::Kernel;
pub use module::Module;
pub(crate) use place::Overlap;
pub use profile::{Detail, Time};
pub(crate) use rows::optional_rows;
pub use rows::{DeviceRows, DeviceRowsMut};
pub use stream::Stream;
pub(crate) use tensor_map::{Matrix, TensorMap};
pub use view::{DeviceMut, DeviceRef};
pub(crate) use view::{optional_mut, optional_ref};
