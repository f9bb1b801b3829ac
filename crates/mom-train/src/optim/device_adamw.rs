//! AdamW on a GPU: f32 masters and moments there, all tensors of a kind in a few launches, clipping without a
//! synchronisation.

use std::mem::ManuallyDrop;
use std::path::Path;
use std::sync::Arc;

use candle_core::cuda_backend::CudaDType;
use candle_core::{DType, Storage, Tensor, Var};
use mom_core::cuda::{OnDevice, OnGpu, half::bf16};
use mom_kernels::cuda::adamw::{self as kernels, AdamWStep, AdamWTensor, Clip, Step, StepRecord};
use mom_kernels::cuda::cudarc::driver::{CudaSlice, DevicePtr};
use mom_kernels::cuda::{CudaError, DeviceElement};
use mom_models::Parameters;

use super::adamw::{Moments, decays};
use super::download::Download;
use super::sharded::Side;
use crate::config::OptimizerSection;
use crate::dist::{Memory, Nccl};
use crate::{Result, error};

const OP: &str = "adamw";

/// The optimiser's state on a device, in the order of [`Parameters`].
#[derive(Debug)]
pub(crate) struct DeviceAdamW {
    on: OnGpu,
    parameters: Vec<Parameter>,
    /// `(1)`: the gradient's norm of the last step.
    norm: CudaSlice<f32>,
    /// `(1)`: number and learning rate of the step.
    record: CudaSlice<StepRecord>,
    /// `(1)`: launches that wrote nothing.
    skipped: CudaSlice<u32>,
    /// Sums of squares, for the norm.
    partial: CudaSlice<f32>,
    /// For checkpoints, once there was one.
    download: Option<Download>,
    steps: u64,
    /// Of a rank among others: how norms go over all of them.
    shared: Option<Shared>,
}

/// Partial sums of squares of all ranks.
#[derive(Debug)]
pub(crate) struct Shared {
    side: Arc<Side>,
    nccl: Arc<Nccl>,
    own: CudaSlice<f32>,
    all: CudaSlice<f32>,
}

impl Shared {
    /// Room for `n` partial sums of each of `size` ranks.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(side: Arc<Side>, nccl: Arc<Nccl>, n: usize, size: usize) -> Result<Self> {
        let gpu = &side.on().gpu;
        Ok(Self { nccl, own: gpu.zeros(n)?, all: gpu.zeros(n * size)?, side })
    }

    /// Gathers the partial sums of all ranks.
    fn gather(&mut self, on: &OnGpu, partial: &CudaSlice<f32>) -> Result<()> {
        let stream = on.gpu.stream();
        let copied = stream.memcpy_dtod(partial, &mut self.own.slice_mut(..partial.len()));
        copied.map_err(|source| CudaError::Driver { what: "copying on the device", source })?;
        let memory = |slice: &CudaSlice<f32>| Memory {
            address: slice.device_ptr(stream).0,
            len: slice.len(),
            dtype: DType::F32,
        };
        self.side.follow()?;
        let pair = (memory(&self.own), memory(&self.all));
        self.side.timed("norms of ranks", || self.nccl.all_gather(&[pair], self.side.raw()))?;
        self.side.join()
    }
}

#[derive(Debug)]
struct Parameter {
    name: String,
    /// Owns the memory that `weight` names.
    _variable: Var,
    decays: bool,
    weight: Weight,
    first: CudaSlice<f32>,
    second: CudaSlice<f32>,
}

/// The variable's own memory, and the f32 weights that it is rounded from.
#[derive(Debug)]
enum Weight {
    Rounded { weight: Alias<bf16>, master: CudaSlice<f32> },
    Plain(Alias<f32>),
}

/// A second name for a variable's memory: candle lends it out for reading alone, and to one variable at a time.
#[derive(Debug)]
struct Alias<T>(ManuallyDrop<CudaSlice<T>>);

impl<T: DeviceElement + CudaDType> Alias<T> {
    /// The memory of a variable, which must outlive this.
    fn of(on: &OnGpu, variable: &Var) -> Result<Self> {
        let (guard, layout) = variable.storage_and_layout();
        let (Storage::Cuda(storage), Some((start, end))) = (&*guard, layout.contiguous_offsets()) else {
            return Err(candle_core::Error::RequiresContiguous { op: OP }.into());
        };
        let stream = on.gpu.stream();
        let address = storage.as_cuda_slice::<T>()?.slice(start..end).device_ptr(stream).0;
        // SAFETY: the range is the variable's, which `Parameter` owns; it is never freed through this name, and every
        // access to it is a launch on this one stream, or a copy that the ranks' stream orders with it.
        Ok(Self(ManuallyDrop::new(unsafe { stream.upgrade_device_ptr(address, end - start) })))
    }
}

impl DeviceAdamW {
    /// An optimiser with zero moments and the variables' values as masters.
    ///
    /// # Errors
    /// Parameters that are not on a GPU, or neither bf16 nor f32; out of memory.
    pub fn new(all: &Parameters) -> Result<Self> {
        let (_, any) = all.iter().next().ok_or_else(|| error::config("parameters", "at least one", 0))?;
        Self::over(&OnGpu::of(any.device())?, all.iter(), None)
    }

    /// Partial sums of squares over gradients of these lengths.
    pub fn n_partial(lens: impl Iterator<Item = usize>) -> usize {
        kernels::global_norm_workspace_len(lens)
    }

    /// As [`Self::new`], over given variables, which have names of parameters: of a rank, stretches of them.
    ///
    /// # Errors
    /// As there.
    pub fn over<'a>(on: &OnGpu, all: impl Iterator<Item = (&'a str, &'a Var)>, shared: Option<Shared>) -> Result<Self> {
        let on = on.clone();
        let parameters = all
            .map(|(name, variable)| {
                let n = variable.elem_count();
                let weight = match variable.dtype() {
                    DType::BF16 => {
                        Weight::Rounded { weight: Alias::of(&on, variable)?, master: master(&on, variable)? }
                    }
                    DType::F32 => Weight::Plain(Alias::of(&on, variable)?),
                    got => return Err(error::config("dtype", "bf16 or f32", got.as_str())),
                };
                Ok(Parameter {
                    name: name.to_owned(),
                    _variable: variable.clone(),
                    decays: decays(name),
                    weight,
                    first: on.gpu.zeros(n)?,
                    second: on.gpu.zeros(n)?,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let len = kernels::global_norm_workspace_len(parameters.iter().map(|p| p.first.len()));
        Ok(Self {
            norm: on.gpu.zeros(1)?,
            record: on.gpu.zeros(1)?,
            skipped: on.gpu.zeros(1)?,
            partial: on.gpu.zeros(len)?,
            download: None,
            on,
            parameters,
            steps: 0,
            shared,
        })
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Begins the next step: its number, learning rate and largest norm go to where [`Self::update`] reads them on the device. It counts from
    /// [`Self::take_step`] on. Does not wait for the device.
    ///
    /// # Errors
    /// What the device reports.
    pub fn begin_step(&mut self, learning_rate: f64, skip_above: Option<f64>) -> Result<()> {
        let step = u32::try_from(self.steps + 1).unwrap_or(u32::MAX);
        let record = self.on.gpu.upload(&[StepRecord {
            lr: learning_rate as f32,
            step,
            skip_above: skip_above.unwrap_or(0.0) as f32,
        }])?;
        let copied = self.on.gpu.stream().memcpy_dtod(&record, &mut self.record);
        copied.map_err(|source| CudaError::Driver { what: "copying on the device", source })?;
        Ok(())
    }

    /// The update is on its way to the device.
    pub fn take_step(&mut self) {
        self.steps += 1;
    }

    /// Updates every parameter, and nothing where the gradients' norm is not finite or stands out: [`Self::norm`] tells. `gradients` are
    /// in the order of the parameters. Does not wait for the device, and can be captured.
    ///
    /// # Errors
    /// What the device reports.
    pub fn update(&mut self, gradients: &[Tensor], config: &OptimizerSection) -> Result<()> {
        let gpu = self.on.gpu.clone();
        gpu.region("optimiser", || self.launch(gradients, config))
    }

    fn launch(&mut self, gradients: &[Tensor], config: &OptimizerSection) -> Result<()> {
        let gpu = &*self.on.gpu;
        // By the gradients' type: bf16 of a single batch, f32 of several batches and of f32 parameters.
        let (mut narrow, mut wide) = (Vec::new(), Vec::new());
        for gradient in gradients {
            match gradient.dtype() {
                DType::BF16 => narrow.push(OnDevice::<bf16>::of(&self.on, OP, "gradient", gradient)?),
                _ => wide.push(OnDevice::<f32>::of(&self.on, OP, "gradient", gradient)?),
            }
        }
        let narrow = narrow.iter().map(|gradient| gradient.view(gpu)).collect::<Result<Vec<_>, _>>()?;
        let wide = wide.iter().map(|gradient| gradient.view(gpu)).collect::<Result<Vec<_>, _>>()?;
        let at = kernels::global_norm_workspace_len(narrow.iter().map(|gradient| gradient.len()));
        let (head, tail) = self.partial.split_at_mut(at);
        if !narrow.is_empty() {
            kernels::squares(gpu, &narrow, &mut gpu.write_view(head))?;
        }
        if !wide.is_empty() {
            kernels::squares(gpu, &wide, &mut gpu.write_view(tail))?;
        }
        let partial = match &mut self.shared {
            Some(shared) => {
                shared.gather(&self.on, &self.partial)?;
                &shared.all
            }
            None => &self.partial,
        };
        kernels::norm_of_squares(gpu, &gpu.read(partial), &mut gpu.write(&mut self.norm))?;

        let (mut narrow, mut wide) = (narrow.into_iter(), wide.into_iter());
        let mut of_narrow = Vec::<AdamWTensor<'_, bf16, bf16>>::new();
        let mut of_wide = Vec::<AdamWTensor<'_, f32, bf16>>::new();
        let mut plain = Vec::<AdamWTensor<'_, f32, f32>>::new();
        for (parameter, gradient) in self.parameters.iter_mut().zip(gradients) {
            let weight_decay = if parameter.decays { config.weight_decay as f32 } else { 0.0 };
            let (first, second) = (gpu.write(&mut parameter.first), gpu.write(&mut parameter.second));
            match (&mut parameter.weight, gradient.dtype()) {
                (Weight::Rounded { weight, master }, DType::BF16) => {
                    let (Some(grad), master) = (narrow.next(), gpu.write(master)) else { continue };
                    let weight = Some(gpu.write(&mut weight.0));
                    of_narrow.push(
                        AdamWTensor::new(grad, master, first, second)
                            .with_weight(weight)
                            .with_weight_decay(weight_decay),
                    );
                }
                (Weight::Rounded { weight, master }, _) => {
                    let (Some(grad), master) = (wide.next(), gpu.write(master)) else { continue };
                    let weight = Some(gpu.write(&mut weight.0));
                    of_wide.push(
                        AdamWTensor::new(grad, master, first, second)
                            .with_weight(weight)
                            .with_weight_decay(weight_decay),
                    );
                }
                (Weight::Plain(weight), _) => {
                    let (Some(grad), master) = (wide.next(), gpu.write(&mut weight.0)) else { continue };
                    plain.push(AdamWTensor::new(grad, master, first, second).with_weight_decay(weight_decay));
                }
            }
        }
        // Number and learning rate are the record's.
        let constants = AdamWStep::new(0.0, 1).with_betas(config.beta1, config.beta2).with_eps(config.eps);
        let step = || Step::Device { record: gpu.read(&self.record), constants };
        let clip = Clip::new(gpu.read(&self.norm), config.clip_norm as f32);
        let mut skipped = gpu.write(&mut self.skipped);
        kernels::adamw_if_finite(gpu, &mut of_narrow, step(), &clip, &mut skipped)?;
        kernels::adamw_if_finite(gpu, &mut of_wide, step(), &clip, &mut skipped)?;
        Ok(kernels::adamw_if_finite(gpu, &mut plain, step(), &clip, &mut skipped)?)
    }

    /// The last step was none: the gradients' norm was not finite, and nothing was written.
    pub fn untake_step(&mut self) {
        self.steps -= 1;
    }

    /// The gradient's norm in the last step. Waits for it.
    ///
    /// # Errors
    /// What ran on the device before failed.
    pub fn norm(&self) -> Result<f64> {
        Ok(self.on.gpu.download(&self.norm)?.first().map_or(0.0, |&norm| f64::from(norm)))
    }

    /// What brings its memory, and what lies beside it, to the host.
    ///
    /// # Errors
    /// No page-locked memory.
    pub fn download(&mut self) -> Result<&mut Download> {
        match &mut self.download {
            Some(download) => Ok(download),
            none => Ok(none.insert(Download::new(self.on.gpu.stream())?)),
        }
    }

    /// The GPU that it is on.
    pub fn on(&self) -> &OnGpu {
        &self.on
    }

    /// The f32 weights, in the order of the parameters.
    pub fn masters(&self) -> impl Iterator<Item = &CudaSlice<f32>> {
        self.parameters.iter().map(|parameter| parameter.weight.master())
    }

    /// Copies weights, first and second moments, each in the order of the parameters, end to end. Waits for the device.
    ///
    /// # Errors
    /// No page-locked memory; what ran on the device before failed.
    pub fn copy_state(&mut self, to: &mut [f32]) -> Result<()> {
        self.download()?;
        let Some(download) = &mut self.download else { return Ok(()) };
        let weights = self.parameters.iter().map(|parameter| parameter.weight.master());
        let first = self.parameters.iter().map(|parameter| &parameter.first);
        let second = self.parameters.iter().map(|parameter| &parameter.second);
        Ok(download.copy(weights.chain(first).chain(second), to)?)
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
        weights: &[Tensor],
        mut moments: impl FnMut(&str) -> Result<Moments>,
    ) -> Result<()> {
        let stream = self.on.gpu.stream().clone();
        let copy = |from: &[f32], to: &mut CudaSlice<f32>| {
            stream.memcpy_htod(from, to).map_err(|source| CudaError::Driver { what: "copying to the device", source })
        };
        for (parameter, weights) in self.parameters.iter_mut().zip(weights) {
            let stored = moments(&parameter.name)?;
            stored.check(path, &parameter.name, parameter.first.len())?;
            copy(&stored.first, &mut parameter.first)?;
            copy(&stored.second, &mut parameter.second)?;
            if let Weight::Rounded { master, .. } = &mut parameter.weight {
                copy(&weights.flatten_all()?.to_vec1::<f32>()?, master)?;
            }
        }
        self.steps = steps;
        Ok(())
    }
}

impl Weight {
    fn master(&self) -> &CudaSlice<f32> {
        match self {
            Self::Rounded { master, .. } => master,
            Self::Plain(weight) => &weight.0,
        }
    }
}

/// A variable's values in f32.
fn master(on: &OnGpu, variable: &Var) -> Result<CudaSlice<f32>> {
    let wide = mom_core::convert(variable.as_tensor(), DType::F32)?.flatten_all()?;
    let (guard, layout) = wide.storage_and_layout();
    let (Storage::Cuda(storage), Some((start, end))) = (&*guard, layout.contiguous_offsets()) else {
        return Err(candle_core::Error::RequiresContiguous { op: OP }.into());
    };
    let copy = on.gpu.stream().clone_dtod(&storage.as_cuda_slice::<f32>()?.slice(start..end));
    Ok(copy.map_err(|source| CudaError::Driver { what: "copying on the device", source })?)
}
