//! The sharded optimiser of ranks that compute on CPUs.

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use mom_core::host::Host;
use mom_models::Parameters;

use super::{Layout, Stretch};
use crate::Result;
use crate::config::{DistSection, OptimizerSection};
use crate::dist::World;
use crate::optim::adamw::{Moments, Update, decays, squares_of};

/// Masters and moments of a rank's share, see [`Layout`].
#[derive(Debug)]
pub(crate) struct ShardedAdamW {
    world: Arc<World>,
    layout: Layout,
    stretches: Vec<Stretch>,
    /// By parameter.
    decays: Vec<bool>,
    names: Vec<String>,
    lens: Vec<usize>,
    /// All that this rank owns; zero where a bucket is filled up.
    weights: Vec<f32>,
    moments: Moments,
    /// Sums over all ranks, of the last step.
    gradients: Vec<f32>,
    steps: u64,
}

const F32_PER_MIB: usize = (1 << 20) / 4;

impl ShardedAdamW {
    /// An optimiser with zero moments over the variables' values, which are the same on all ranks.
    ///
    /// # Errors
    /// Parameters that are not f32 on the host.
    pub fn new(parameters: &Parameters, world: Arc<World>, dist: &DistSection) -> Result<Self> {
        let lens: Vec<(&str, usize)> =
            parameters.iter().map(|(name, variable)| (name, variable.elem_count())).collect();
        let layout = Layout::new(&lens, world.size(), dist.bucket_mib * F32_PER_MIB);
        let n = layout.n_own();
        let mut sharded = Self {
            stretches: layout.stretches(world.rank()),
            decays: lens.iter().map(|(name, _)| decays(name)).collect(),
            names: lens.iter().map(|(name, _)| (*name).to_owned()).collect(),
            lens: lens.iter().map(|(_, len)| *len).collect(),
            weights: vec![0.0; n],
            moments: Moments { first: vec![0.0; n], second: vec![0.0; n] },
            gradients: vec![0.0; n],
            steps: 0,
            layout,
            world,
        };
        let tensors: Vec<Tensor> = parameters.tensors().map(|(_, tensor)| tensor.clone()).collect();
        sharded.take_weights(&tensors)?;
        Ok(sharded)
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// What this rank owns.
    pub fn stretches(&self) -> &[Stretch] {
        &self.stretches
    }

    /// Elements of [`Self::weights`].
    pub fn n_own(&self) -> usize {
        self.weights.len()
    }

    /// Its share of the weights.
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// Adds up the gradients of all ranks, in the order of the parameters on each, and returns the norm of the sum: the same on all ranks.
    ///
    /// # Errors
    /// A rank that failed.
    pub fn reduce(&mut self, gradients: &[Tensor]) -> Result<f64> {
        for (index, own) in self.layout.own().into_iter().enumerate() {
            let flat = self.packed(index, gradients)?;
            self.world.reduce_scatter(&flat, &mut self.gradients[own])?;
        }
        let own = squares_of(&self.gradients);
        // JSON knows no NaN.
        let all = self.world.gather("the norm of gradients", own.to_bits())?;
        Ok(all.into_iter().map(f64::from_bits).sum::<f64>().sqrt())
    }

    /// Updates this rank's share by the gradients that were added up, and gives all weights to all. `factor` scales gradients (clipping).
    ///
    /// # Errors
    /// A rank that failed.
    pub fn step(
        &mut self,
        parameters: &Parameters,
        factor: f64,
        learning_rate: f64,
        config: &OptimizerSection,
    ) -> Result<()> {
        self.steps += 1;
        for stretch in &self.stretches {
            let range = stretch.at..stretch.at + stretch.range.len();
            let update = Update::new(self.steps, factor, learning_rate, config, self.decays[stretch.parameter]);
            let (first, second) = (&mut self.moments.first[range.clone()], &mut self.moments.second[range.clone()]);
            update.run(&mut self.weights[range.clone()], &self.gradients[range], first, second);
        }
        self.give(parameters)
    }

    /// Sets the variables of all ranks to the weights that each owns.
    ///
    /// # Errors
    /// A rank that failed.
    pub fn give(&self, parameters: &Parameters) -> Result<()> {
        for ((_, variable), tensor) in parameters.iter().zip(self.whole(parameters, &self.weights)?) {
            variable.set(&tensor)?;
        }
        Ok(())
    }

    /// What lies as the weights of this rank's share do, and of all others', as tensors of the parameters' shapes.
    ///
    /// # Errors
    /// A rank that failed.
    pub fn whole(&self, parameters: &Parameters, own: &[f32]) -> Result<Vec<Tensor>> {
        let mut values: Vec<Vec<f32>> = vec![Vec::new(); self.names.len()];
        for (bucket, own_range) in self.layout.buckets.iter().zip(self.layout.own()) {
            let mut flat = vec![0.0; bucket.len];
            self.world.all_gather(&own[own_range], &mut flat)?;
            for &(parameter, start) in &bucket.parameters {
                values[parameter] = flat[start..start + self.lens[parameter]].to_vec();
            }
        }
        let tensors = parameters.iter().zip(values);
        Ok(tensors
            .map(|((_, variable), values)| Tensor::from_vec(values, variable.shape(), &Device::Cpu))
            .collect::<candle_core::Result<_>>()?)
    }

    /// Copies its share of weights, first and second moments, end to end.
    pub fn copy_state(&self, to: &mut [f32]) {
        let parts = [&self.weights, &self.moments.first, &self.moments.second];
        for (to, from) in to.chunks_exact_mut(self.weights.len().max(1)).zip(parts) {
            to.copy_from_slice(from);
        }
    }

    /// Puts back what [`Self::copy_state`] copied, after so many steps, and gives the weights to all.
    ///
    /// # Errors
    /// A rank that failed.
    pub fn put_back(&mut self, parameters: &Parameters, steps: u64, state: &[f32]) -> Result<()> {
        let parts = [&mut self.weights, &mut self.moments.first, &mut self.moments.second];
        for (to, from) in parts.into_iter().zip(state.chunks_exact(self.layout.n_own().max(1))) {
            to.copy_from_slice(from);
        }
        self.steps = steps;
        self.give(parameters)
    }

    /// Takes its share of what a checkpoint holds: `weights` in the order of the parameters, and moments by name.
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
        self.take_weights(weights)?;
        for (index, (name, weight)) in self.names.iter().zip(weights).enumerate() {
            let own: Vec<&Stretch> = self.stretches.iter().filter(|stretch| stretch.parameter == index).collect();
            if own.is_empty() {
                continue;
            }
            let stored = moments(name)?;
            stored.check(path, name, weight.elem_count())?;
            for Stretch { range, at, .. } in own {
                let to = *at..at + range.len();
                self.moments.first[to.clone()].copy_from_slice(&stored.first[range.clone()]);
                self.moments.second[to].copy_from_slice(&stored.second[range.clone()]);
            }
        }
        self.steps = steps;
        Ok(())
    }

    /// This rank's share of whole tensors in the order of the parameters.
    ///
    /// # Errors
    /// Tensors that are not f32 on the host.
    pub fn share_of(&self, tensors: &[Tensor]) -> Result<Vec<f32>> {
        let mut own = vec![0.0; self.n_own()];
        for Stretch { parameter, range, at } in &self.stretches {
            let host = Host::<f32>::of("adamw", "weight", &tensors[*parameter])?;
            own[*at..at + range.len()].copy_from_slice(&host.slice()?[range.clone()]);
        }
        Ok(own)
    }

    fn take_weights(&mut self, tensors: &[Tensor]) -> Result<()> {
        self.weights = self.share_of(tensors)?;
        Ok(())
    }

    /// The gradients of a bucket, end to end.
    fn packed(&self, bucket: usize, gradients: &[Tensor]) -> Result<Vec<f32>> {
        let bucket = &self.layout.buckets[bucket];
        let mut flat = vec![0.0; bucket.len];
        for &(parameter, start) in &bucket.parameters {
            let gradient = gradients[parameter].contiguous()?;
            let host = Host::<f32>::of("adamw", "gradient", &gradient)?;
            let values = host.slice()?;
            flat[start..start + values.len()].copy_from_slice(values);
        }
        Ok(flat)
    }
}
