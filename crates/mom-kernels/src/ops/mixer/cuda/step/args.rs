//! What a step takes beside a block.

use crate::runtime::{DeviceMut, DeviceRef};

/// Where sequences are, f32, read and overwritten.
#[derive(Debug)]
#[non_exhaustive]
pub struct StepStates<'a> {
    /// `(n_rows, d_conv - 1, d_inner)`: inputs of conv, oldest first.
    pub conv: DeviceMut<'a, f32>,
    /// `(n_rows, d_inner, d_state)`.
    pub scan: DeviceMut<'a, f32>,
}

/// Weights behind the blocks.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StepHead<'a, T> {
    /// `(d_model)`: the last norm's.
    pub norm: DeviceRef<'a, f32>,
    /// Added to the mean square in the norm.
    pub norm_eps: f32,
    /// `(vocab_size, d_model)`.
    pub weight: DeviceRef<'a, T>,
}

impl<'a> StepStates<'a> {
    /// Conv's window and the scan's state.
    pub fn new(conv: DeviceMut<'a, f32>, scan: DeviceMut<'a, f32>) -> Self {
        Self { conv, scan }
    }
}

impl<'a, T> StepHead<'a, T> {
    /// A norm and a product.
    pub fn new(norm: DeviceRef<'a, f32>, norm_eps: f32, weight: DeviceRef<'a, T>) -> Self {
        Self { norm, norm_eps, weight }
    }
}
