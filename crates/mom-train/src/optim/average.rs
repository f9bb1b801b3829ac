//! An exponential moving average of the weights, beside them.
//!
//! ```text
//! average += share (weight - average)        share = 1 - min(decay, (1 + step) / (10 + step))
//! ```
//!
//! The first steps move it more, so that what weights began with does not stay in it for long.

use candle_core::{DType, Device, Tensor};
use mom_models::Parameters;
use rayon::prelude::*;

use super::Optimiser;
use crate::Result;

/// Elements that one task handles.
const CHUNK: usize = 1 << 14;

/// The averages, in the order of [`Parameters`].
#[derive(Debug)]
pub(crate) enum Average {
    Host(Vec<Vec<f32>>),
    /// Of what a rank owns.
    Share(Vec<f32>),
    #[cfg(feature = "cuda")]
    Device(super::device_average::DeviceAverage),
}

/// The share of the weights in the average behind a step.
fn share(decay: f64, step: u64) -> f32 {
    (1.0 - decay.min((1 + step) as f64 / (10 + step) as f64)) as f32
}

impl Average {
    /// Begins with given values, f32 on the host in the order of the parameters, or with the weights as they are.
    ///
    /// # Errors
    /// What the device reports.
    pub fn new(optimiser: &Optimiser, parameters: &Parameters, values: Option<&[Tensor]>) -> Result<Self> {
        match optimiser {
            Optimiser::Host(_) => {
                let of = |tensor: &Tensor| Ok::<_, crate::Error>(tensor.flatten_all()?.to_vec1::<f32>()?);
                let averages = match values {
                    Some(values) => values.iter().map(of).collect::<Result<_>>()?,
                    None => parameters.tensors().map(|(_, weight)| of(weight)).collect::<Result<_>>()?,
                };
                Ok(Self::Host(averages))
            }
            Optimiser::Sharded(adamw) => Ok(Self::Share(match values {
                Some(values) => adamw.share_of(values)?,
                None => adamw.weights().to_vec(),
            })),
            #[cfg(feature = "cuda")]
            Optimiser::Device(adamw) => Ok(Self::Device(super::device_average::DeviceAverage::new(adamw, values)?)),
            #[cfg(feature = "cuda")]
            Optimiser::ShardedOnDevice(sharded) => {
                let own = values.map(|values| sharded.share_of(values)).transpose()?;
                Ok(Self::Device(super::device_average::DeviceAverage::new(sharded.adamw(), own.as_deref())?))
            }
        }
    }

    /// Moves the averages towards the weights that a step left.
    ///
    /// # Errors
    /// What the device reports.
    pub fn update(&mut self, optimiser: &Optimiser, parameters: &Parameters, decay: f64) -> Result<()> {
        let share = share(decay, optimiser.steps());
        match (self, optimiser) {
            #[cfg(feature = "cuda")]
            (Self::Device(average), Optimiser::Device(adamw)) => average.update(adamw, share),
            #[cfg(feature = "cuda")]
            (Self::Device(average), Optimiser::ShardedOnDevice(sharded)) => average.update(sharded.adamw(), share),
            #[cfg(feature = "cuda")]
            (Self::Device(_), _) => Err(crate::error::config("train.device", "that of the average", "another")),
            (Self::Share(average), Optimiser::Sharded(adamw)) => {
                towards(average, adamw.weights(), share);
                Ok(())
            }
            (Self::Share(_), _) => Err(crate::error::config("average", "that of the optimiser's ranks", "another")),
            (Self::Host(averages), _) => {
                for (average, (_, weight)) in averages.iter_mut().zip(parameters.tensors()) {
                    let host = mom_core::host::Host::<f32>::of("average", "weight", weight)?;
                    towards(average, host.slice()?, share);
                }
                Ok(())
            }
        }
    }

    /// Copies the averages to the host, end to end.
    ///
    /// # Errors
    /// What the device reports.
    pub fn copy(
        &self,
        #[cfg_attr(not(feature = "cuda"), allow(unused_variables))] optimiser: &mut Optimiser,
        to: &mut [f32],
    ) -> Result<()> {
        match self {
            Self::Host(averages) => {
                let mut rest = to;
                for average in averages {
                    let (to, behind) = std::mem::take(&mut rest).split_at_mut(average.len());
                    to.copy_from_slice(average);
                    rest = behind;
                }
                Ok(())
            }
            Self::Share(average) => {
                to.copy_from_slice(average);
                Ok(())
            }
            #[cfg(feature = "cuda")]
            Self::Device(average) => average.copy(optimiser.on_device()?, to),
        }
    }

    /// Puts back what [`Self::copy`] copied of a rank's share.
    pub fn put_back_share(&mut self, values: &[f32]) -> Result<()> {
        match self {
            Self::Share(average) => average.copy_from_slice(values),
            Self::Host(_) => {}
            #[cfg(feature = "cuda")]
            Self::Device(average) => average.put_back(values)?,
        }
        Ok(())
    }

    /// The averages as tensors of the parameters' shapes, in f32.
    fn tensors(&self, optimiser: &Optimiser, parameters: &Parameters) -> Result<Vec<Tensor>> {
        match self {
            Self::Share(average) => match optimiser {
                Optimiser::Sharded(adamw) => adamw.whole(parameters, average),
                _ => Err(crate::error::config("average", "that of the optimiser's ranks", "another")),
            },
            Self::Host(averages) => {
                let pairs = averages.iter().zip(parameters.iter());
                Ok(pairs
                    .map(|(average, (_, variable))| Tensor::from_slice(average, variable.shape(), &Device::Cpu))
                    .collect::<candle_core::Result<_>>()?)
            }
            #[cfg(feature = "cuda")]
            Self::Device(average) => match optimiser {
                Optimiser::ShardedOnDevice(sharded) => sharded.whole(average.slices()),
                _ => average.tensors(parameters),
            },
        }
    }

    /// Runs with the averages, rounded to the weights' type, in the place of the weights, which are put back afterwards.
    ///
    /// # Errors
    /// Those of `run`; what the device reports.
    pub fn in_place<T>(
        &self,
        optimiser: &Optimiser,
        parameters: &Parameters,
        run: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let weights = parameters.tensors().map(|(_, weight)| weight.copy()).collect::<candle_core::Result<Vec<_>>>()?;
        let set = |values: &[Tensor]| {
            parameters.iter().zip(values).try_for_each(|((_, variable), value)| {
                let dtype: DType = variable.dtype();
                Ok::<_, crate::Error>(variable.set(&mom_core::convert(value, dtype)?)?)
            })
        };
        let outcome = set(&self.tensors(optimiser, parameters)?).and_then(|()| run());
        set(&weights).and(outcome)
    }
}

/// Moves averages towards weights.
fn towards(average: &mut [f32], weights: &[f32], share: f32) {
    average.par_chunks_mut(CHUNK).zip(weights.par_chunks(CHUNK)).for_each(|(average, weights)| {
        average.iter_mut().zip(weights).for_each(|(a, w)| *a += share * (w - *a));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_average_is_that_of_its_definition_and_leaves_the_weights_alone() {
        let build = |vb: candle_nn::VarBuilder| -> mom_models::Result<()> {
            vb.get_with_hints(3, "a", candle_nn::Init::Const(1.0))?;
            Ok(())
        };
        let parameters = Parameters::collect(DType::F32, &Device::Cpu, build).unwrap().1;
        let mut optimiser = Optimiser::new(&parameters).unwrap();
        let mut average = Average::new(&optimiser, &parameters, None).unwrap();
        let variable = parameters.get("a").unwrap();
        variable.set(&Tensor::new(&[2.0f32, 4.0, 0.0], &Device::Cpu).unwrap()).unwrap();
        // At step 0 the average moves by nine tenths, however slow it is to be later on.
        average.update(&optimiser, &parameters, 0.999).unwrap();
        let mut got = [0.0; 3];
        average.copy(&mut optimiser, &mut got).unwrap();
        for (got, want) in got.iter().zip([1.9, 3.7, 0.1]) {
            assert!((got - want).abs() < 1e-6, "{got} {want}");
        }
        let values = || variable.to_vec1::<f32>().unwrap();
        let inside = average.in_place(&optimiser, &parameters, || Ok(values())).unwrap();
        assert_eq!((inside, values()), (got.to_vec(), vec![2.0, 4.0, 0.0]));
        assert!(average.in_place::<()>(&optimiser, &parameters, || Err(crate::error::config("a", "b", "c"))).is_err());
        assert_eq!(values(), [2.0, 4.0, 0.0], "an error leaves the weights as they were");
        assert!((share(0.99, 100_000) - 0.01).abs() < 1e-7);
    }
}
