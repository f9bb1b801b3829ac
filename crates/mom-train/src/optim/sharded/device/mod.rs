//! The sharded optimiser of ranks that compute on GPUs.
//!
//! Variables of two element types have buckets of their own. A step puts on the stream, bucket by bucket: copies of its gradients end to
//! end, the sum over ranks, of which this rank takes its share; then the update of that share, whose clipping goes by the norm over all
//! ranks; then the new weights of all. Nothing waits for the device.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Storage, Tensor, Var};
use mom_core::cuda::OnGpu;
use mom_kernels::cuda::CudaError;
use mom_kernels::cuda::cudarc::driver::{CudaSlice, DevicePtr, result};
use mom_models::Parameters;

use super::{Layout, Stretch};
use crate::Result;
use crate::config::{DistSection, OptimizerSection, Reduce};
use crate::dist::{Memory, Nccl, World};
use crate::error::config;
use crate::optim::adamw::Moments;
use crate::optim::device_adamw::{DeviceAdamW, Shared};

const OP: &str = "adamw";

/// The stretches of weights that this rank owns, with masters and moments, and the memory that ranks exchange.
#[derive(Debug)]
pub(crate) struct ShardedOnDevice {
    on: OnGpu,
    nccl: Arc<Nccl>,
    size: usize,
    reduce: Reduce,
    kinds: Vec<Kind>,
    /// Of all kinds, one behind the other: the order of the optimiser beneath.
    stretches: Vec<Stretch>,
    owned: Vec<Var>,
    adamw: DeviceAdamW,
    variables: Vec<Var>,
}

/// The variables of one element type.
#[derive(Debug)]
struct Kind {
    dtype: DType,
    layout: Layout,
    /// The index of each among all parameters.
    parameters: Vec<usize>,
    /// What this rank owns of each bucket: stretches, by their index among all.
    own: Vec<Vec<usize>>,
    /// Where each of [`Layout::stretches`] begins in what the rank owns.
    places: Vec<usize>,
}

impl ShardedOnDevice {
    /// An optimiser with zero moments over the variables' values, which are the same on all ranks.
    ///
    /// # Errors
    /// No NCCL; out of memory; variables that are neither bf16 nor f32.
    pub fn new(parameters: &Parameters, world: &Arc<World>, dist: &DistSection) -> Result<Self> {
        let variables: Vec<Var> = parameters.iter().map(|(_, variable)| variable.clone()).collect();
        let names: Vec<&str> = parameters.iter().map(|(name, _)| name).collect();
        let any = variables.first().ok_or_else(|| config("parameters", "at least one", 0))?;
        let on = OnGpu::of(any.device())?;
        let nccl = Arc::new(Nccl::new(world)?);
        let (mut kinds, mut stretches, mut owned) = (Vec::new(), Vec::new(), Vec::new());
        for dtype in [DType::BF16, DType::F32] {
            let indices: Vec<usize> = (0..variables.len()).filter(|&index| variables[index].dtype() == dtype).collect();
            if indices.is_empty() {
                continue;
            }
            let lens: Vec<(&str, usize)> = indices.iter().map(|&i| (names[i], variables[i].elem_count())).collect();
            let layout = Layout::new(&lens, world.size(), (dist.bucket_mib << 20) / dtype.size_in_bytes());
            let mut own = vec![Vec::new(); layout.buckets.len()];
            let mut places = Vec::new();
            let ranges = layout.own();
            for stretch in layout.stretches(world.rank()) {
                let bucket = ranges.iter().position(|range| range.contains(&stretch.at)).unwrap_or(0);
                own[bucket].push(stretches.len());
                places.push(stretch.at - ranges[bucket].start);
                let parameter = indices[stretch.parameter];
                let flat = variables[parameter].as_tensor().flatten_all()?;
                owned.push(Var::from_tensor(&flat.narrow(0, stretch.range.start, stretch.range.len())?.copy()?)?);
                let at = stretches.last().map_or(0, |last: &Stretch| last.at + last.range.len());
                stretches.push(Stretch { parameter, at, ..stretch });
            }
            kinds.push(Kind { dtype, layout, parameters: indices, own, places });
        }
        let n_variables = kinds.iter().map(|kind: &Kind| kind.parameters.len()).sum::<usize>();
        if n_variables != variables.len() {
            return Err(config("dtype", "bf16 or f32", "another"));
        }
        let named = stretches.iter().zip(&owned).map(|(stretch, variable)| (names[stretch.parameter], variable));
        // So many partial sums as the rank that owns most pieces has.
        let lens_of = |rank: usize| {
            let of_kind = kinds.iter().flat_map(move |kind| kind.layout.stretches(rank));
            DeviceAdamW::n_partial(of_kind.map(|stretch| stretch.range.len()))
        };
        let n_partial = (0..world.size()).map(lens_of).max().unwrap_or(0);
        let shared = Shared::new(&on, nccl.clone(), n_partial, world.size())?;
        let adamw = DeviceAdamW::over(&on, named, Some(shared))?;
        Ok(Self { size: world.size(), reduce: dist.reduce, on, nccl, kinds, stretches, owned, adamw, variables })
    }

    /// The optimiser over what this rank owns.
    pub fn adamw(&self) -> &DeviceAdamW {
        &self.adamw
    }

    /// The same, to step with.
    pub fn adamw_mut(&mut self) -> &mut DeviceAdamW {
        &mut self.adamw
    }

    /// What this rank owns.
    pub fn stretches(&self) -> &[Stretch] {
        &self.stretches
    }

    /// Elements that this rank owns.
    pub fn n_own(&self) -> usize {
        self.stretches.last().map_or(0, |last| last.at + last.range.len())
    }

    /// Adds up the gradients of all ranks, in the order of the parameters on each, updates this rank's share and gives all weights to all.
    /// Does not wait for the device.
    ///
    /// # Errors
    /// What the device or NCCL reports; a rank that failed.
    pub fn update(&mut self, gradients: &[Tensor], config: &OptimizerSection) -> Result<()> {
        let gpu = self.on.gpu.clone();
        let own = gpu.region("all-reduce", || self.reduced(gradients))?;
        self.adamw.update(&own, config)?;
        gpu.region("all-gather", || self.give())
    }

    /// The sums over all ranks of the gradients of what this rank owns.
    fn reduced(&self, gradients: &[Tensor]) -> Result<Vec<Tensor>> {
        let mut sums = Vec::with_capacity(self.stretches.len());
        for kind in &self.kinds {
            let mut place = kind.places.iter();
            for (index, bucket) in kind.layout.buckets.iter().enumerate() {
                let of_bucket =
                    || bucket.parameters.iter().map(|&(local, start)| (&gradients[kind.parameters[local]], start));
                // f32 where one is a sum of several batches.
                let dtype = of_bucket().map(|(gradient, _)| gradient.dtype()).next().unwrap_or(kind.dtype);
                let flat = self.zeros(bucket.len, dtype)?;
                let all = memory(&self.on, &flat)?;
                for (gradient, start) in of_bucket() {
                    let gradient = mom_core::convert(gradient, dtype)?.contiguous()?;
                    let from = memory(&self.on, &gradient)?;
                    self.copy(from, all.part(start, from.len))?;
                }
                let share = kind.layout.share(index);
                let sum = self.sum(&flat, all, share)?;
                for &stretch in &kind.own[index] {
                    let (Some(&at), len) = (place.next(), self.stretches[stretch].range.len()) else { continue };
                    sums.push(sum.narrow(0, at, len)?);
                }
            }
        }
        Ok(sums)
    }

    /// This rank's stretch of the sum of a bucket.
    fn sum(&self, flat: &Tensor, all: Memory, share: usize) -> Result<Tensor> {
        let stream = self.stream();
        match self.reduce {
            Reduce::Fastest => {
                let own = self.zeros(share, all.dtype)?;
                self.nccl.reduce_scatter(all, memory(&self.on, &own)?, stream)?;
                Ok(own)
            }
            Reduce::FixedOrder => {
                let of_ranks = self.zeros(all.len, all.dtype)?;
                self.nccl.all_to_all(all, memory(&self.on, &of_ranks)?, stream)?;
                let of_rank = |rank: usize| of_ranks.narrow(0, rank * share, share);
                let first = mom_core::convert(&of_rank(0)?, DType::F32)?;
                let sum = (1..self.size)
                    .try_fold(first, |sum, rank| Ok::<_, crate::Error>(mom_core::accumulate(&sum, &of_rank(rank)?)?))?;
                // What was sent is read until the stream is through.
                let _ = flat;
                Ok(sum)
            }
        }
    }

    /// Sets the variables of all ranks to the weights that each owns.
    ///
    /// # Errors
    /// What the device or NCCL reports; a rank that failed.
    pub fn give(&self) -> Result<()> {
        for kind in &self.kinds {
            let owned = |stretch: usize| memory(&self.on, self.owned[stretch].as_tensor());
            self.gather(kind, kind.dtype, owned, |parameter, values| {
                self.copy(values, memory(&self.on, self.variables[parameter].as_tensor())?)
            })?;
        }
        Ok(())
    }

    /// Arrays that lie as the stretches of this rank do, and those of all others, as tensors of the parameters' shapes, in f32.
    ///
    /// # Errors
    /// What the device or NCCL reports; a rank that failed.
    pub fn whole(&self, own: &[CudaSlice<f32>]) -> Result<Vec<Tensor>> {
        let tensors: Vec<Tensor> = self
            .variables
            .iter()
            .map(|variable| Tensor::zeros(variable.shape(), DType::F32, variable.device()))
            .collect::<candle_core::Result<_>>()?;
        for kind in &self.kinds {
            let of_stretch = |stretch: usize| {
                let slice = &own[stretch];
                let address = slice.device_ptr(self.on.gpu.stream()).0;
                Ok(Memory { address, len: slice.len(), dtype: DType::F32 })
            };
            self.gather(kind, DType::F32, of_stretch, |parameter, values| {
                self.copy(values, memory(&self.on, &tensors[parameter])?)
            })?;
        }
        Ok(tensors)
    }

    /// Gathers, bucket by bucket, what each rank has of it: `own` by stretch, `take` by parameter.
    fn gather(
        &self,
        kind: &Kind,
        dtype: DType,
        own: impl Fn(usize) -> Result<Memory>,
        take: impl Fn(usize, Memory) -> Result<()>,
    ) -> Result<()> {
        let mut place = kind.places.iter();
        for (index, bucket) in kind.layout.buckets.iter().enumerate() {
            let (mine, flat) = (self.zeros(kind.layout.share(index), dtype)?, self.zeros(bucket.len, dtype)?);
            let (to, all) = (memory(&self.on, &mine)?, memory(&self.on, &flat)?);
            for &stretch in &kind.own[index] {
                let (Some(&at), from) = (place.next(), own(stretch)?) else { continue };
                self.copy(from, to.part(at, from.len))?;
            }
            self.nccl.all_gather(to, all, self.stream())?;
            for &(local, start) in &bucket.parameters {
                let parameter = kind.parameters[local];
                take(parameter, all.part(start, self.variables[parameter].elem_count()))?;
            }
        }
        Ok(())
    }

    /// Puts back what [`DeviceAdamW::copy_state`] copied, after so many steps, and gives the weights to all.
    ///
    /// # Errors
    /// What the device or NCCL reports; a rank that failed.
    pub fn put_back(&mut self, steps: u64, state: &[f32]) -> Result<()> {
        let n = self.n_own();
        let part = |kind: usize, stretch: &Stretch| {
            let start = kind * n + stretch.at;
            state.get(start..start + stretch.range.len()).unwrap_or_default().to_vec()
        };
        let weights: Vec<Tensor> = self.stretches.iter().map(|it| on_host(part(0, it))).collect::<Result<_>>()?;
        let moments: Vec<Moments> =
            self.stretches.iter().map(|it| Moments { first: part(1, it), second: part(2, it) }).collect();
        self.restore_own(Path::new("memory"), steps, &weights, moments)?;
        self.give()
    }

    /// Takes its share of what a checkpoint holds: `weights` on the host in the order of the parameters, which the variables have already,
    /// and moments by name.
    ///
    /// # Errors
    /// Moments of another size, or that are not finite, named.
    pub fn restore(
        &mut self,
        path: &Path,
        steps: u64,
        names: &[&str],
        weights: &[Tensor],
        mut moments: impl FnMut(&str) -> Result<Moments>,
    ) -> Result<()> {
        let own_weights = self.share_of(weights)?;
        let mut own = Vec::with_capacity(self.stretches.len());
        let mut last: Option<(usize, Moments)> = None;
        for Stretch { parameter, range, .. } in &self.stretches {
            if last.as_ref().is_none_or(|(index, _)| index != parameter) {
                let stored = moments(names[*parameter])?;
                stored.check(path, names[*parameter], weights[*parameter].elem_count())?;
                last = Some((*parameter, stored));
            }
            if let Some((_, stored)) = &last {
                let part = |values: &[f32]| values[range.clone()].to_vec();
                own.push(Moments { first: part(&stored.first), second: part(&stored.second) });
            }
        }
        self.restore_own(path, steps, &own_weights, own)
    }

    fn restore_own(&mut self, path: &Path, steps: u64, weights: &[Tensor], moments: Vec<Moments>) -> Result<()> {
        for (variable, weight) in self.owned.iter().zip(weights) {
            variable.set(&weight.to_device(&Device::Cpu)?.to_dtype(variable.dtype())?.to_device(variable.device())?)?;
        }
        let mut moments = moments.into_iter();
        self.adamw.restore(path, steps, weights, |_| Ok(moments.next().unwrap_or_default()))
    }

    /// This rank's stretches of whole tensors on the host, in the order of the parameters.
    ///
    /// # Errors
    /// What candle reports.
    pub fn share_of(&self, tensors: &[Tensor]) -> Result<Vec<Tensor>> {
        let of = |Stretch { parameter, range, .. }: &Stretch| {
            Ok(tensors[*parameter].flatten_all()?.narrow(0, range.start, range.len())?.contiguous()?)
        };
        self.stretches.iter().map(of).collect()
    }

    fn zeros(&self, len: usize, dtype: DType) -> Result<Tensor> {
        Ok(Tensor::zeros(len, dtype, &Device::Cuda(self.on.device.clone()))?)
    }

    fn stream(&self) -> *mut std::ffi::c_void {
        self.on.gpu.stream().cu_stream().cast()
    }

    fn copy(&self, from: Memory, to: Memory) -> Result<()> {
        let bytes = from.len * from.dtype.size_in_bytes();
        // SAFETY: both hold so many bytes on this GPU, apart from each other, until the stream is through.
        let copied =
            unsafe { result::memcpy_dtod_async(to.address, from.address, bytes, self.on.gpu.stream().cu_stream()) };
        Ok(copied.map_err(|source| CudaError::Driver { what: "copying on the device", source })?)
    }
}

fn on_host(values: Vec<f32>) -> Result<Tensor> {
    let len = values.len();
    Ok(Tensor::from_vec(values, len, &Device::Cpu)?)
}

/// Where a contiguous tensor lies.
fn memory(on: &OnGpu, tensor: &Tensor) -> Result<Memory> {
    let (guard, layout) = tensor.storage_and_layout();
    let (Storage::Cuda(storage), Some((start, end))) = (&*guard, layout.contiguous_offsets()) else {
        return Err(candle_core::Error::RequiresContiguous { op: OP }.into());
    };
    let stream = on.gpu.stream();
    let address = match tensor.dtype() {
        DType::BF16 => storage.as_cuda_slice::<mom_core::cuda::half::bf16>()?.slice(start..end).device_ptr(stream).0,
        DType::F32 => storage.as_cuda_slice::<f32>()?.slice(start..end).device_ptr(stream).0,
        got => return Err(config("dtype", "bf16 or f32", got.as_str())),
    };
    Ok(Memory { address, len: end - start, dtype: tensor.dtype() })
}
