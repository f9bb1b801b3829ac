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
mod sharded;
mod spike;

use std::path::Path;
use std::sync::Arc;

use candle_core::Tensor;
use mom_models::Parameters;

pub use adamw::AdamW;
pub(crate) use adamw::{Moments, global_norm, squares};
pub(crate) use average::Average;
#[cfg(feature = "cuda")]
pub(crate) use device_adamw::DeviceAdamW;
pub use schedule::learning_rate;
#[cfg(feature = "cuda")]
pub(crate) use sharded::{BESIDE, ShardedOnDevice};
pub(crate) use sharded::{ShardedAdamW, Stretch};
pub(crate) use spike::Norms;

use crate::Result;
use crate::config::DistSection;
use crate::dist::World;
use crate::error::require;

/// AdamW on the host or on a device, whole or split between ranks.
#[derive(Debug)]
pub(crate) enum Optimiser {
    Host(AdamW),
    Sharded(Box<ShardedAdamW>),
    #[cfg(feature = "cuda")]
    Device(Box<DeviceAdamW>),
    #[cfg(feature = "cuda")]
    ShardedOnDevice(Box<ShardedOnDevice>),
}

impl Optimiser {
    /// That of a rank among others.
    pub fn in_world(parameters: &Parameters, world: &Arc<World>, dist: &DistSection) -> Result<Self> {
        if !world.is_shared() {
            return Self::new(parameters);
        }
        #[cfg(feature = "cuda")]
        if parameters.iter().any(|(_, variable)| variable.device().is_cuda()) {
            return Ok(Self::ShardedOnDevice(Box::new(ShardedOnDevice::new(parameters, world, dist)?)));
        }
        Ok(Self::Sharded(Box::new(ShardedAdamW::new(parameters, world.clone(), dist)?)))
    }

    /// The only one of a run.
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
            Self::Sharded(adamw) => adamw.steps(),
            #[cfg(feature = "cuda")]
            Self::Device(adamw) => adamw.steps(),
            #[cfg(feature = "cuda")]
            Self::ShardedOnDevice(sharded) => sharded.adamw().steps(),
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
            Self::ShardedOnDevice(sharded) => Ok(sharded.adamw_mut()),
            Self::Host(_) | Self::Sharded(_) => Err(crate::error::config("train.device", "cuda", "cpu")),
        }
    }

    /// What is launched from now on reads the weights that the last step left: those of several ranks may be on their way.
    pub fn settle(&self) {
        #[cfg(feature = "cuda")]
        if let Self::ShardedOnDevice(sharded) = self {
            sharded.settle();
        }
    }

    /// Weights whose state this process holds: all, or a rank's share of them.
    pub fn n_own(&self, parameters: &Parameters) -> usize {
        match self {
            Self::Sharded(adamw) => adamw.n_own(),
            #[cfg(feature = "cuda")]
            Self::ShardedOnDevice(sharded) => sharded.n_own(),
            _ => parameters.n_elements(),
        }
    }

    /// What this process holds of each parameter; `None` where it holds all of them, in their order.
    pub fn stretches(&self) -> Option<&[Stretch]> {
        match self {
            Self::Sharded(adamw) => Some(adamw.stretches()),
            #[cfg(feature = "cuda")]
            Self::ShardedOnDevice(sharded) => Some(sharded.stretches()),
            _ => None,
        }
    }

    /// Copies weights, first and second moments to the host: f32, each in the order of the parameters, end to end, or in that of
    /// [`Self::stretches`]. Waits for the device.
    ///
    /// # Errors
    /// Room for another number of values; what the device reports.
    pub fn copy_state(&mut self, parameters: &Parameters, to: &mut [f32]) -> Result<()> {
        let n = self.n_own(parameters);
        require(to.len() == 3 * n, "snapshot", &format!("{} values", 3 * n), to.len())?;
        match self {
            Self::Host(adamw) => adamw.copy_state(to),
            Self::Sharded(adamw) => {
                adamw.copy_state(to);
                Ok(())
            }
            #[cfg(feature = "cuda")]
            Self::Device(adamw) => adamw.copy_state(to),
            #[cfg(feature = "cuda")]
            Self::ShardedOnDevice(sharded) => sharded.adamw_mut().copy_state(to),
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
        #[cfg_attr(not(feature = "cuda"), allow(unused_variables))] parameters: &Parameters,
        weights: &[Tensor],
        moments: impl FnMut(&str) -> Result<Moments>,
    ) -> Result<()> {
        match self {
            Self::Host(adamw) => adamw.restore(path, steps, moments),
            Self::Sharded(adamw) => adamw.restore(path, steps, weights, moments),
            #[cfg(feature = "cuda")]
            Self::Device(adamw) => adamw.restore(path, steps, weights, moments),
            #[cfg(feature = "cuda")]
            Self::ShardedOnDevice(sharded) => {
                let names: Vec<&str> = parameters.iter().map(|(name, _)| name).collect();
                sharded.restore(path, steps, &names, weights, moments)
            }
        }
    }
}
