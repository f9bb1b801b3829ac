//! The arguments as views of device memory; the shapes stand in [`params`].

use crate::ops::rms_norm::params;
use crate::runtime::{DeviceRef, DeviceRows, DeviceRowsMut};

/// What is added to x before the norm, and where the sum goes.
pub type Residual<'a, T> = params::Residual<DeviceRows<'a, T>, DeviceRowsMut<'a, T>>;

/// Inputs of the backward pass.
pub type NormInputs<'a, T> = params::NormInputs<DeviceRows<'a, T>, DeviceRef<'a, f32>>;
