//! What all ranks have, from what each owns: new weights, while the next forward pass begins.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::Tensor;
use mom_core::{Arrivals, Part};
use mom_kernels::cuda::CudaError;
use mom_kernels::cuda::cudarc::driver::CudaEvent;

use super::kind::{Group, Kind};
use super::side::{Side, copy, event};
use crate::Result;
use crate::dist::{Memory, Nccl};

/// Marks of weights on their way, for the forward pass that needs them.
#[derive(Debug)]
pub(crate) struct Coming {
    side: Arc<Side>,
    /// By group: behind its weights.
    marks: Vec<CudaEvent>,
    /// The last group that has weights of a part.
    last: BTreeMap<Part, usize>,
    /// Groups that were waited for.
    waited: AtomicUsize,
}

impl Coming {
    pub fn new(side: Arc<Side>, kinds: &[Kind], groups: &[Group]) -> Result<Self> {
        let marks = groups.iter().map(|_| event(side.on())).collect::<Result<_>>()?;
        let mut last = BTreeMap::new();
        for (number, group) in groups.iter().enumerate() {
            for place in group {
                last.extend(kinds[place.kind].parts[place.bucket].iter().map(|&part| (part, number)));
            }
        }
        Ok(Self { side, marks, last, waited: AtomicUsize::new(groups.len()) })
    }

    /// The weights of a group are on their way.
    pub fn sent(&self, group: usize) -> Result<()> {
        self.side.mark(&self.marks[group])?;
        self.waited.fetch_min(group, Ordering::Relaxed);
        Ok(())
    }
}

impl Arrivals for Coming {
    fn wait_for(&self, part: Part) {
        let Some(group) = self.last.range(..=part).map(|(_, &group)| group).max() else { return };
        if self.waited.fetch_max(group + 1, Ordering::Relaxed) <= group
            && let Err(CudaError::Driver { source, .. }) = self.side.wait_for(&self.marks[group], "waiting for weights")
        {
            self.side.on().gpu.stream().context().record_err::<()>(Err(source));
        }
    }
}

/// Gathers, group by group, what each rank has of it.
#[derive(Debug)]
pub(super) struct Gatherer {
    pub side: Arc<Side>,
    pub nccl: Arc<Nccl>,
    pub rank: usize,
}

impl Gatherer {
    /// Gathers all groups in their order: `own` by stretch, `to` by parameter. `flats` have [room](super::kind::room) for each kind; `sent`
    /// hears of each group.
    ///
    /// # Errors
    /// What the device or NCCL reports; a rank that failed.
    pub fn all(
        &self,
        (kinds, groups): (&[Kind], &[Group]),
        flats: &[Tensor],
        own: impl Fn(usize) -> Result<Memory>,
        to: impl Fn(usize) -> Result<Memory>,
        sent: impl Fn(usize) -> Result<()>,
    ) -> Result<()> {
        for (number, group) in groups.iter().enumerate() {
            let mut pairs = Vec::with_capacity(group.len());
            let (mut before, mut behind) = (Vec::new(), Vec::new());
            for place in group {
                let (kind, bucket) = (&kinds[place.kind], place.bucket);
                let all = match kind.layout.only(bucket) {
                    Some(local) => to(kind.parameters[local])?,
                    None => {
                        let flat = self.side.memory(&flats[place.kind])?;
                        flat.part(place.at, kind.layout.buckets[bucket].len)
                    }
                };
                let share = kind.layout.share(bucket);
                let mine = all.part(self.rank * share, share);
                for stretch in &kind.own[bucket] {
                    before.push(copy(own(stretch.stretch)?, mine.part(stretch.at, stretch.len)));
                }
                if kind.layout.only(bucket).is_none() {
                    for &(local, start) in &kind.layout.buckets[bucket].parameters {
                        let to = to(kind.parameters[local])?;
                        behind.push(copy(all.part(start, to.len), to));
                    }
                }
                pairs.push((mine, all));
            }
            self.side.copies(&before)?;
            self.side.timed("sending weights", || self.nccl.all_gather(&pairs, self.side.raw()))?;
            self.side.copies(&behind)?;
            sent(number)?;
        }
        Ok(())
    }
}
