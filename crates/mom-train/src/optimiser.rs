//! The optimiser of a run, wherever it computes.

use std::borrow::Cow;
use std::path::Path;

use candle_core::Tensor;
use mom_models::Parameters;

use crate::Result;
use crate::adamw::{AdamW, Moments};
#[cfg(feature = "cuda")]
use crate::device_adamw::DeviceAdamW;

/// AdamW on the host or on a device.
#[derive(Debug)]
pub(crate) enum Optimiser {
    Host(AdamW),
    #[cfg(feature = "cuda")]
    Device(Box<DeviceAdamW>),
}

/// A parameter as checkpoints hold it.
pub(crate) struct Stored<'a> {
    pub name: &'a str,
    pub shape: &'a [usize],
    pub weights: Vec<f32>,
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

    /// The first parameter that is not finite itself or has such a moment.
    pub fn first_non_finite(&self) -> Result<Option<&str>> {
        match self {
            Self::Host(adamw) => adamw.first_non_finite(),
            #[cfg(feature = "cuda")]
            Self::Device(adamw) => adamw.first_non_finite(),
        }
    }

    /// Parameters in f32, in the order of `parameters`.
    pub fn weights<'a>(&'a self, parameters: &'a Parameters) -> Box<dyn Iterator<Item = Result<Stored<'a>>> + 'a> {
        match self {
            Self::Host(_) => Box::new(parameters.tensors().map(|(name, tensor)| {
                let weights = tensor.flatten_all()?.to_vec1::<f32>()?;
                Ok(Stored { name, shape: tensor.dims(), weights })
            })),
            #[cfg(feature = "cuda")]
            Self::Device(adamw) => Box::new(adamw.weights().map(|weights| {
                let (name, shape, weights) = weights?;
                Ok(Stored { name, shape, weights })
            })),
        }
    }

    /// Names and moments, in the order of the parameters.
    pub fn moments(&self) -> Box<dyn Iterator<Item = Result<(&str, Cow<'_, Moments>)>> + '_> {
        match self {
            Self::Host(adamw) => Box::new(adamw.moments().map(|(name, moments)| Ok((name, Cow::Borrowed(moments))))),
            #[cfg(feature = "cuda")]
            Self::Device(adamw) => Box::new(adamw.moments().map(|moments| {
                let (name, moments) = moments?;
                Ok((name, Cow::Owned(moments)))
            })),
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
