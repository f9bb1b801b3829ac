//! What all ranks have, from what each owns: new weights, while the next forward pass begins.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::Tensor;
use mom_core::{Arrivals, Part};
use mom_kernels::cuda::cudarc::driver::CudaEvent;

use super::kind::{Kind, Place};
use super::side::{Side, event};
use crate::Result;
use crate::dist::{Memory, Nccl};

/// Marks of weights on their way, for the forward pass that needs them.
#[derive(Debug)]
pub(crate) struct Coming {
    side: Arc<Side>,
    /// By place: behind its weights.
    marks: Vec<CudaEvent>,
    /// The last place that has weights of a part.
    last: BTreeMap<Part, usize>,
    /// Places that were waited for.
    waited: AtomicUsize,
}

impl Coming {
    pub fn new(side: Arc<Side>, kinds: &[Kind], places: &[Place]) -> Result<Self> {
        let marks = places.iter().map(|_| event(side.on())).collect::<Result<_>>()?;
        let mut last = BTreeMap::new();
        for (number, place) in places.iter().enumerate() {
            last.extend(kinds[place.kind].parts[place.bucket].iter().map(|&part| (part, number)));
        }
        Ok(Self { side, marks, last, waited: AtomicUsize::new(places.len()) })
    }

    /// The weights of a place are on their way.
    pub fn sent(&self, place: usize) -> Result<()> {
        self.side.mark(&self.marks[place])?;
        self.waited.fetch_min(place, Ordering::Relaxed);
        Ok(())
    }
}

impl Arrivals for Coming {
    fn wait_for(&self, part: Part) {
        let Some(place) = self.last.range(..=part).map(|(_, &place)| place).max() else { return };
        if self.waited.fetch_max(place + 1, Ordering::Relaxed) <= place {
            let context = self.side.on().gpu.stream().context();
            context.record_err(self.side.on().gpu.stream().wait(&self.marks[place]));
        }
    }
}

/// Gathers, place by place, what each rank has of it.
#[derive(Debug)]
pub(super) struct Gatherer {
    pub side: Arc<Side>,
    pub nccl: Arc<Nccl>,
    pub rank: usize,
}

impl Gatherer {
    /// Puts a bucket of all ranks at `all`, which has room for it, from this rank's stretches at `own`.
    ///
    /// # Errors
    /// What the device or NCCL reports; a rank that failed.
    pub fn gather(&self, kind: &Kind, bucket: usize, all: Memory, own: impl Fn(usize) -> Result<Memory>) -> Result<()> {
        let share = kind.layout.share(bucket);
        let mine = all.part(self.rank * share, share);
        for stretch in &kind.own[bucket] {
            self.side.copy(own(stretch.stretch)?, mine.part(stretch.at, stretch.len))?;
        }
        self.nccl.all_gather(mine, all, self.side.raw())
    }

    /// Gathers all places in their order: `own` by stretch, `to` by parameter. `flats` have room for a bucket of each kind; `sent` hears of
    /// each place.
    ///
    /// # Errors
    /// As [`Self::gather`].
    pub fn all(
        &self,
        (kinds, places): (&[Kind], &[Place]),
        flats: &[Tensor],
        own: impl Fn(usize) -> Result<Memory>,
        to: impl Fn(usize) -> Result<Memory>,
        sent: impl Fn(usize) -> Result<()>,
    ) -> Result<()> {
        for (number, place) in places.iter().enumerate() {
            let (kind, bucket) = (&kinds[place.kind], place.bucket);
            if let Some(local) = kind.layout.only(bucket) {
                self.gather(kind, bucket, to(kind.parameters[local])?, &own)?;
            } else {
                let of_bucket = &kind.layout.buckets[bucket];
                let all = self.side.memory(&flats[place.kind])?.part(0, of_bucket.len);
                self.gather(kind, bucket, all, &own)?;
                for &(local, start) in &of_bucket.parameters {
                    let to = to(kind.parameters[local])?;
                    self.side.copy(all.part(start, to.len), to)?;
                }
            }
            sent(number)?;
        }
        Ok(())
    }
}
