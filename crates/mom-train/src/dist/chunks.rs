//! One sequence over several ranks: who has which chunk, and what goes between them.
//!
//! Ranks `0..context` have the chunks of the same sequences, in their order, ranks `context..2 context` those of others, and so on: on
//! one host, and so by its fastest links, wherever a launcher counts ranks host by host.

use std::sync::Arc;

#[cfg(feature = "cuda")]
use candle_core::DType;
use candle_core::Device;
use mom_core::Context;
#[cfg(feature = "cuda")]
use mom_kernels::cuda::Gpu;
#[cfg(feature = "cuda")]
use mom_kernels::cuda::cudarc::driver::{CudaSlice, DevicePtr, DevicePtrMut};

use super::World;
#[cfg(feature = "cuda")]
use super::{Memory, Nccl};
use crate::error::require;
use crate::{Error, Result};

/// The ranks that have the chunks of this rank's sequences.
#[derive(Debug)]
pub(crate) struct Chunks {
    world: Arc<World>,
    n_chunks: usize,
    /// A group of its own, so that nothing stands between what chunks say to each other.
    #[cfg(feature = "cuda")]
    nccl: Option<Nccl>,
}

impl Chunks {
    /// Those of this rank, whose model is on a device; `None` where ranks have whole sequences. All ranks call it together.
    ///
    /// # Errors
    /// A number of ranks that is no multiple of that of chunks; on a GPU no NCCL.
    pub fn of(world: &Arc<World>, n_chunks: usize, device: &Device) -> Result<Option<Self>> {
        Self::check(world.size(), n_chunks)?;
        if n_chunks == 1 {
            return Ok(None);
        }
        let _ = device;
        Ok(Some(Self {
            world: world.clone(),
            n_chunks,
            #[cfg(feature = "cuda")]
            nccl: device.is_cuda().then(|| Nccl::new(world, n_chunks, None)).transpose()?,
        }))
    }

    /// Refuses ranks that cannot have equally many chunks.
    pub fn check(n_ranks: usize, n_chunks: usize) -> Result<()> {
        let expected = format!("a number that divides that of ranks, {n_ranks}");
        require(n_chunks >= 1 && n_ranks.is_multiple_of(n_chunks), "train.dist.context", &expected, n_chunks)
    }

    /// What each rank has said, as all of its group said it.
    fn of_groups(&self, of_ranks: &[Vec<u8>]) -> Result<Vec<Vec<u8>>> {
        let groups = of_ranks.chunks(self.n_chunks).enumerate().map(|(number, group)| {
            let len = group.first().map_or(0, Vec::len);
            match group.iter().position(|own| own.len() != len) {
                Some(at) => {
                    let message = format!("its chunk gives {} bytes, that of the first rank {len}", group[at].len());
                    Err(Error::Rank { rank: number * self.n_chunks + at, message })
                }
                None => Ok(group.concat()),
            }
        });
        let groups = groups.collect::<Result<Vec<_>>>()?;
        Ok(groups.into_iter().flat_map(|group| vec![group; self.n_chunks]).collect())
    }
}

impl Context for Chunks {
    fn index(&self) -> usize {
        self.world.rank() % self.n_chunks
    }

    fn n_chunks(&self) -> usize {
        self.n_chunks
    }

    /// Through the hub, which all ranks of the world come to: each has as many pieces of a step as the others.
    fn gather(&self, own: &[f64]) -> mom_kernels::Result<Vec<f64>> {
        let own = bytemuck::cast_slice(own).to_vec();
        let answer = self.world.exchange("borders of chunks", own, |of_ranks| self.of_groups(&of_ranks));
        let bytes = answer.map_err(|error| mom_kernels::Error::Exchange { reason: error.to_string() })?;
        Ok(bytemuck::pod_collect_to_vec(&bytes))
    }

    /// By NCCL, among the ranks that have chunks of the same sequences alone.
    #[cfg(feature = "cuda")]
    fn gather_on_device(
        &self,
        gpu: &Gpu,
        own: &CudaSlice<f32>,
        all: &mut CudaSlice<f32>,
    ) -> mom_kernels::cuda::Result<()> {
        let stream = gpu.stream();
        let sent = match &self.nccl {
            Some(nccl) => {
                let (n_own, n_all) = (own.len(), all.len());
                let (own, _own) = own.device_ptr(stream);
                let (all, _all) = all.device_ptr_mut(stream);
                let memory = |address, len| Memory { address, len, dtype: DType::F32 };
                let pair = (memory(own, n_own), memory(all, n_all));
                gpu.timed_on(stream, "borders of chunks", || nccl.all_gather(&[pair], stream.cu_stream().cast()))
            }
            None => Err(Error::World { reason: "chunks on a GPU, of a model that was on none".to_owned() }),
        };
        sent.map_err(|error| mom_kernels::Error::Exchange { reason: error.to_string() }.into())
    }
}
