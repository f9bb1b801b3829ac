//! The layers around the backbone on a GPU.

mod embedding;
mod head;
mod patches;

use candle_core::Tensor;

use crate::Result;
use crate::layers::Ids;

pub(crate) use embedding::embedding;
pub(crate) use head::{Shares, linear_cross_entropy};
pub(crate) use patches::{noised, squared_error};

/// Indices on the device, where their tensors are.
pub(super) fn on_device<'a>(op: &'static str, ids: &'a Ids) -> Result<&'a Tensor> {
    ids.on_device().ok_or_else(|| {
        let (expected, got) = ("where the tensors are".to_owned(), "the host".to_owned());
        mom_core::Error::Device { op, arg: "ids", expected, got }.into()
    })
}
