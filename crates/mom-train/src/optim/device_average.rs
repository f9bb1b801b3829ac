//! The average of weights on a GPU: f32, moved there by a kernel.

use candle_core::Tensor;
use mom_core::cuda::OnGpu;
use mom_kernels::cuda::CudaError;
use mom_kernels::cuda::cudarc::driver::CudaSlice;
use mom_kernels::cuda::weight_average::{self as kernels, weight_average};
use mom_models::Parameters;

use super::DeviceAdamW;
use crate::Result;

/// The averages, in the order of [`Parameters`].
#[derive(Debug)]
pub(crate) struct DeviceAverage {
    on: OnGpu,
    averages: Vec<CudaSlice<f32>>,
}

fn copying(source: mom_kernels::cuda::cudarc::driver::DriverError) -> CudaError {
    CudaError::Driver { what: "copying on the device", source }
}

impl DeviceAverage {
    pub fn new(adamw: &DeviceAdamW, values: Option<&[Tensor]>) -> Result<Self> {
        let on = adamw.on().clone();
        let averages = match values {
            Some(values) => values
                .iter()
                .map(|value| Ok(on.gpu.upload(&value.flatten_all()?.to_vec1::<f32>()?)?))
                .collect::<Result<_>>()?,
            None => adamw
                .masters()
                .map(|master| on.gpu.stream().clone_dtod(master).map_err(copying))
                .collect::<Result<_, _>>()?,
        };
        Ok(Self { on, averages })
    }

    pub fn update(&mut self, adamw: &DeviceAdamW, share: f32) -> Result<()> {
        let gpu = &*self.on.gpu;
        let pairs = self.averages.iter_mut().zip(adamw.masters());
        let mut tensors: Vec<_> =
            pairs.map(|(average, master)| kernels::Average::new(gpu.write(average), gpu.read(master))).collect();
        Ok(weight_average(gpu, &mut tensors, share)?)
    }

    pub fn copy(&self, adamw: &mut DeviceAdamW, to: &mut [f32]) -> Result<()> {
        Ok(adamw.download()?.copy(&self.averages, to)?)
    }

    /// They, in the order of the optimiser's weights.
    pub fn slices(&self) -> &[CudaSlice<f32>] {
        &self.averages
    }

    /// Puts back what [`Self::copy`] copied.
    pub fn put_back(&mut self, values: &[f32]) -> Result<()> {
        let (stream, mut rest) = (self.on.gpu.stream().clone(), values);
        for average in &mut self.averages {
            let (own, behind) = rest.split_at(average.len().min(rest.len()));
            stream.memcpy_htod(own, average).map_err(copying)?;
            rest = behind;
        }
        Ok(())
    }

    pub fn tensors(&self, parameters: &Parameters) -> Result<Vec<Tensor>> {
        let pairs = self.averages.iter().zip(parameters.iter());
        pairs
            .map(|(average, (_, variable))| {
                let copy = self.on.gpu.stream().clone_dtod(average).map_err(copying)?;
                Ok(self.on.tensor(copy, variable.shape()))
            })
            .collect()
    }
}
