//! The optimiser of a run, wherever it computes.

mod adamw;
mod average;
#[cfg(feature = "cuda")]
mod device_adamw;
#[cfg(feature = "cuda")]
mod device_average;
#[cfg(feature = "cuda")]
mod download;
mod schedule;
mod spike;

use std::path::Path;

use candle_core::Tensor;
use mom_models::Parameters;

pub use adamw::AdamW;
pub(crate) use adamw::{Moments, global_norm, squares};
pub(crate) use average::Average;
#[cfg(feature = "cuda")]
pub(crate) use device_adamw::DeviceAdamW;
pub use schedule::learning_rate;
pub(crate) use spike::Norms;

use crate::Result;
use crate::error::require;

/// AdamW on the host or on a device.
#[derive(Debug)]
pub(crate) enum Optimiser {
    Host(AdamW),
    #[cfg(feature = "cuda")]
    Device(Box<DeviceAdamW>),
}

impl Optimiser {
    pub fn new(parameters: &Parameters) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if parameters.iter().any(|(_, variable)| variable.device().is_cuda()) {
            return Ok(Self::Device(Box::new(DeviceAdamW::new(parameters)?)));
        }
        Ok(Self::Host(AdamW::new(parameters)?))
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        match self {
            Self::Host(adamw) => adamw.steps(),
            #[cfg(feature = "cuda")]
            Self::Device(adamw) => adamw.steps(),
        }
    }

    /// The one of a device.
    ///
    /// # Errors
    /// It is on the host.
    #[cfg(feature = "cuda")]
    pub fn on_device(&mut self) -> Result<&mut DeviceAdamW> {
        match self {
            Self::Device(adamw) => Ok(adamw),
            Self::Host(_) => Err(crate::error::config("train.device", "cuda", "cpu")),
        }
    }

    /// Copies weights, first and second moments to the host: f32, each in the order of the parameters, end to end. Waits for
    /// the device.
    ///
    /// # Errors
    /// Room for another number of values; what the device reports.
    pub fn copy_state(&mut self, parameters: &Parameters, to: &mut [f32]) -> Result<()> {
        let n = parameters.n_elements();
        require(to.len() == 3 * n, "snapshot", &format!("{} values", 3 * n), to.len())?;
        match self {
            Self::Host(adamw) => adamw.copy_state(to),
            #[cfg(feature = "cuda")]
            Self::Device(adamw) => adamw.copy_state(to),
        }
    }

    /// Puts back what a checkpoint holds: `weights`, f32 on the host in the order of the parameters, which the variables
    /// have already, and moments by name.
    ///
    /// # Errors
    /// Moments of another size, or that are not finite, named.
    pub fn restore(
        &mut self,
        path: &Path,
        steps: u64,
        #[cfg_attr(not(feature = "cuda"), allow(unused_variables))] weights: &[Tensor],
        moments: impl FnMut(&str) -> Result<Moments>,
    ) -> Result<()> {
        match self {
            Self::Host(adamw) => adamw.restore(path, steps, moments),
            #[cfg(feature = "cuda")]
            Self::Device(adamw) => adamw.restore(path, steps, weights, moments),
        }
    }
}
