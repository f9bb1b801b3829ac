//! The sharded optimiser of ranks that compute on GPUs.
//!
//! ```text
//! kind      variables of two element types have buckets of their own
//! side      the stream that ranks exchange on, beside the one that computes
//! reduce    gradients are added up while the backward pass goes on
//! gather    new weights are sent while the next forward pass begins
//! ```
//!
//! Where ranks have chunks of a sequence, the passes too have exchanges, by a communicator of their own on the stream that computes. Two
//! communicators at work at once do not wait for each other for ever where all ranks launch what they exchange in one order, and where
//! what both have on a card at once fits there. It fits: this one has at most `train.dist.ctas` thread blocks, and an exchange of chunks begins
//! once all before it on its stream is done. And there is one order, which is compared after every step ([`World::order`]):
//!
//! - a block exchanges within its passes, recomputed ones too, and gives all of its gradients behind them, whatever its rows are;
//! - a rank's chunk without a target goes through all blocks all the same (the row with a factor of zero in the model's loss);
//! - gradients that are zero for want of a modality are of parts before or behind all blocks, and are given before the backward pass. The
//!   parts behind come before the first exchange, and what is before the first block is sent behind the last one.
//!
//! Nothing waits for the device: a step puts on the ranks' stream the sums of its gradients as they come; behind them, on the stream that
//! computes, the update of this rank's share, whose clipping goes by the norm over all ranks; then, on the ranks' stream, the new weights of
//! all, part by part, which the next forward pass waits for part by part.

mod gather;
mod kind;
mod reduce;
mod side;

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};
use mom_core::cuda::OnGpu;
use mom_core::{Arrivals, Part};
use mom_kernels::cuda::cudarc::driver::{CudaSlice, DevicePtr};
use mom_models::Parameters;

use self::gather::{Coming, Gatherer};
use self::kind::{Group, Kind};
use self::reduce::Reducer;
pub(crate) use self::side::{BESIDE, Side};
use super::Stretch;
use crate::Result;
use crate::config::{DistSection, OptimizerSection};
use crate::dist::{Memory, Nccl, World};
use crate::error::config;
use crate::optim::adamw::{Moments, squares};
use crate::optim::device_adamw::{DeviceAdamW, Shared};

const OP: &str = "adamw";

/// Buckets whose bytes are sent together at most, see [`kind::groups`].
const GROUP: usize = 4;

/// The stretches of weights that this rank owns, with masters and moments, and the memory that ranks exchange.
#[derive(Debug)]
pub(crate) struct ShardedOnDevice {
    side: Arc<Side>,
    kinds: Vec<Kind>,
    groups: Vec<Group>,
    /// Of all kinds, one behind the other: the order of the optimiser beneath.
    stretches: Vec<Stretch>,
    owned: Vec<Var>,
    adamw: DeviceAdamW,
    variables: Vec<Var>,
    reducer: Reducer,
    /// This rank's share of the gradients of the step that is taken.
    sums: Vec<Tensor>,
    gatherer: Gatherer,
    /// Room for a group of each kind.
    flats: Vec<Tensor>,
    coming: Arc<Coming>,
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
        let nccl = Arc::new(Nccl::new(world, world.size(), Some(dist.ctas))?);
        let side = Arc::new(Side::new(&on, dist.ctas)?);
        let (kinds, stretches) = kind::kinds(&names, &variables, (world.rank(), world.size()), dist)?;
        let groups = kind::groups(&kinds, GROUP * (dist.bucket_mib << 20));
        let own = |Stretch { parameter, range, .. }: &Stretch| {
            let flat = variables[*parameter].as_tensor().flatten_all()?;
            Var::from_tensor(&flat.narrow(0, range.start, range.len())?.copy()?)
        };
        let owned = stretches.iter().map(own).collect::<candle_core::Result<Vec<_>>>()?;
        let named = stretches.iter().zip(&owned).map(|(stretch, variable)| (names[stretch.parameter], variable));
        // So many partial sums as the rank that owns most pieces has.
        let lens_of = |rank: usize| {
            let of_kind = kinds.iter().flat_map(move |kind| kind.layout.stretches(rank));
            DeviceAdamW::n_partial(of_kind.map(|stretch| stretch.range.len()))
        };
        let n_partial = (0..world.size()).map(lens_of).max().unwrap_or(0);
        let shared = Shared::new(side.clone(), nccl.clone(), n_partial, world.size())?;
        let adamw = DeviceAdamW::over(&on, named, Some(shared))?;
        Ok(Self {
            reducer: Reducer::new(side.clone(), nccl.clone(), dist.reduce, world.size(), &kinds, &groups)?,
            gatherer: Gatherer { side: side.clone(), nccl, rank: world.rank() },
            flats: flats(&side, &kinds, &groups, |kind| kind.dtype)?,
            coming: Arc::new(Coming::new(side.clone(), &kinds, &groups)?),
            sums: Vec::new(),
            side,
            kinds,
            groups,
            stretches,
            owned,
            adamw,
            variables,
        })
    }

    /// Who tells a forward pass that the weights of the last step are there.
    pub fn arrivals(&self) -> Arc<dyn Arrivals> {
        self.coming.clone()
    }

    /// What is launched from now on runs behind the arrival of all weights.
    pub fn settle(&self) {
        self.coming.wait_for(Part::Last);
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

    /// Begins a step's gradients: those of one batch, or sums of several.
    pub fn begin(&mut self, is_sum: bool) {
        self.reducer.begin(is_sum);
    }

    /// A parameter's gradient, by its index, once in a step, in any order: best as soon as it is there. `None` is zero.
    ///
    /// # Errors
    /// A second one of a parameter; what the device or NCCL reports; a rank that failed.
    pub fn take(&mut self, parameter: usize, gradient: Option<Tensor>) -> Result<()> {
        self.reducer.take(&self.kinds, parameter, gradient)
    }

    /// Updates this rank's share by the sums of all ranks' gradients, of which those that did not come are zero, and gives all weights to
    /// all. Does not wait for the device.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub fn update(&mut self, config: &OptimizerSection) -> Result<()> {
        let gpu = self.side.on().gpu.clone();
        self.sums = gpu.region("gradients of other ranks", || self.reducer.finish(&self.kinds))?;
        self.adamw.update(&self.sums, config)?;
        self.give()
    }

    /// The parameter, by its index, of which this rank owns a gradient that is not finite; forgets the gradients of the step.
    ///
    /// # Errors
    /// What the device reports.
    pub fn not_finite(&mut self) -> Result<Option<usize>> {
        for (stretch, sum) in self.stretches.iter().zip(std::mem::take(&mut self.sums)) {
            if !squares(&sum)?.is_finite() {
                return Ok(Some(stretch.parameter));
            }
        }
        Ok(None)
    }

    /// Gives the memory of the step's gradients back.
    pub fn forget(&mut self) {
        self.sums.clear();
    }

    /// Sets the variables of all ranks to the weights that each owns: puts them on their way, see [`Self::arrivals`].
    ///
    /// # Errors
    /// What the device or NCCL reports; a rank that failed.
    pub fn give(&self) -> Result<()> {
        let memory = |variable: &Var| self.side.memory(variable.as_tensor());
        self.side.follow()?;
        self.gatherer.all(
            (&self.kinds, &self.groups),
            &self.flats,
            |stretch| memory(&self.owned[stretch]),
            |parameter| memory(&self.variables[parameter]),
            |group| self.coming.sent(group),
        )
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
        let flats = flats(&self.side, &self.kinds, &self.groups, |_| DType::F32)?;
        let stream = self.side.on().gpu.stream();
        self.side.follow()?;
        let sent = self.gatherer.all(
            (&self.kinds, &self.groups),
            &flats,
            |stretch| {
                let slice = &own[stretch];
                Ok(Memory { address: slice.device_ptr(stream).0, len: slice.len(), dtype: DType::F32 })
            },
            |parameter| self.side.memory(&tensors[parameter]),
            |_| Ok(()),
        );
        // Before the room is given back, whatever became of it.
        self.side.join()?;
        sent.map(|()| tensors)
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
        self.settle();
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
}

impl Drop for ShardedOnDevice {
    fn drop(&mut self) {
        // What the ranks' stream still uses is given back behind it.
        let _ = self.side.join();
    }
}

fn on_host(values: Vec<f32>) -> Result<Tensor> {
    let len = values.len();
    Ok(Tensor::from_vec(values, len, &Device::Cpu)?)
}

/// Room for a group of each kind, in an element type.
fn flats(side: &Side, kinds: &[Kind], groups: &[Group], dtype: impl Fn(&Kind) -> DType) -> Result<Vec<Tensor>> {
    kinds.iter().enumerate().map(|(k, kind)| side.zeros(kind::room(kinds, groups, k), dtype(kind))).collect()
}
