//! Sums of gradients over all ranks, bucket by bucket, while the backward pass goes on.
//!
//! Gradients come as the backward pass is through with a parameter. A group of buckets whose gradients are all there, and which is next in an
//! order that all ranks have, is laid end to end and added up on the ranks' own stream. A rank keeps its share of the sum; the rest is given
//! back once it was sent.

use std::sync::Arc;

use candle_core::{DType, Tensor};
use mom_core::cuda::OnGpu;
use mom_core::cuda::half::bf16;
use mom_kernels::cuda::cudarc::driver::CudaEvent;

use super::kind::{Group, Kind, Place};
use super::side::{Side, clear, copy, event};
use crate::Result;
use crate::config::Reduce;
use crate::dist::Nccl;
use crate::error::require;

/// Groups that are on their way at once.
const SLOTS: usize = 2;

/// How gradients are added up, and where the sums of a step are.
#[derive(Debug)]
pub(super) struct Reducer {
    side: Arc<Side>,
    nccl: Arc<Nccl>,
    reduce: Reduce,
    size: usize,
    /// In the order in which they are sent.
    groups: Vec<Group>,
    /// Of each parameter, the number of its group in that order.
    group_of: Vec<usize>,
    /// Elements that each kind has room for in a slot.
    rooms: Vec<usize>,
    slots: Vec<Slot>,
    step: Step,
}

/// What is on its way, and must stay until it has come.
#[derive(Debug)]
struct Slot {
    /// Room for gradients end to end, by kind; stays for the next group and step: a step that is captured gives nothing back that was
    /// taken before it.
    flats: Vec<Option<Tensor>>,
    /// What is read.
    held: Vec<Tensor>,
    /// Of a group, by its number: of each bucket this rank's share of what every rank has, which is to be added.
    of_ranks: Option<(usize, Vec<Tensor>)>,
    /// Behind what reads and writes all of it.
    done: CudaEvent,
    /// It may not have come there. A step that is captured waits for nothing of the steps before it.
    is_busy: bool,
}

/// A step's gradients.
#[derive(Debug, Default)]
struct Step {
    /// Gradients are f32: sums of several batches.
    is_sum: bool,
    /// By parameter, until they are sent.
    gradients: Vec<Option<Tensor>>,
    /// By parameter: whether its gradient, or that it is zero, has come.
    has_come: Vec<bool>,
    /// By group: how many are still to come.
    missing: Vec<usize>,
    /// The next group.
    next: usize,
    /// By group: of each bucket this rank's share of the sum.
    shares: Vec<Vec<Tensor>>,
}

impl Reducer {
    pub fn new(
        side: Arc<Side>,
        nccl: Arc<Nccl>,
        reduce: Reduce,
        size: usize,
        kinds: &[Kind],
        groups: &[Group],
    ) -> Result<Self> {
        let rooms = (0..kinds.len()).map(|kind| super::kind::room(kinds, groups, kind)).collect();
        let groups: Vec<Group> = groups.iter().rev().cloned().collect();
        let mut group_of = vec![0; kinds.iter().map(|kind| kind.parameters.len()).sum()];
        for (number, place) in
            groups.iter().enumerate().flat_map(|(n, group)| group.iter().map(move |place| (n, place)))
        {
            let kind = &kinds[place.kind];
            for &(local, _) in &kind.layout.buckets[place.bucket].parameters {
                group_of[kind.parameters[local]] = number;
            }
        }
        let slot = || {
            Ok(Slot {
                flats: vec![None; kinds.len()],
                held: Vec::new(),
                of_ranks: None,
                done: event(side.on())?,
                is_busy: false,
            })
        };
        let slots = (0..SLOTS).map(|_| slot()).collect::<Result<_>>()?;
        Ok(Self { side, nccl, reduce, size, groups, group_of, rooms, slots, step: Step::default() })
    }

    /// Begins a step, whose gradients are those of one batch or sums of several.
    pub fn begin(&mut self, is_sum: bool) {
        let mut missing = vec![0; self.groups.len()];
        self.group_of.iter().for_each(|&group| missing[group] += 1);
        let (n, shares) = (self.group_of.len(), vec![Vec::new(); self.groups.len()]);
        self.step = Step { is_sum, missing, gradients: vec![None; n], has_come: vec![false; n], shares, next: 0 };
    }

    /// A parameter's gradient of a step that began, `None` where it is zero; once for each.
    ///
    /// # Errors
    /// A second one; what the device or NCCL reports; a rank that failed.
    pub fn take(&mut self, kinds: &[Kind], parameter: usize, gradient: Option<Tensor>) -> Result<()> {
        let group = self.group_of[parameter];
        let again = std::mem::replace(&mut self.step.has_come[parameter], true);
        require(!again, "gradient", "one for each parameter", format!("a second one of parameter {parameter}"))?;
        self.step.gradients[parameter] = gradient;
        self.step.missing[group] -= 1;
        while self.step.missing.get(self.step.next) == Some(&0) {
            self.send(kinds)?;
        }
        Ok(())
    }

    /// The sums over all ranks of what this rank owns, in the order of its stretches; gradients that did not come are zero. What is launched
    /// from now on runs behind them.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub fn finish(&mut self, kinds: &[Kind]) -> Result<Vec<Tensor>> {
        while self.step.next < self.groups.len() {
            self.send(kinds)?;
        }
        (0..SLOTS).try_for_each(|slot| self.free(slot, kinds))?;
        self.side.join()?;
        let n_stretches = kinds.iter().flat_map(|kind| &kind.own).map(Vec::len).sum();
        let mut sums = vec![None; n_stretches];
        let shares = std::mem::take(&mut self.step.shares).into_iter().flatten();
        for (place, share) in self.groups.iter().flatten().zip(shares) {
            for own in &kinds[place.kind].own[place.bucket] {
                sums[own.stretch] = Some(share.narrow(0, own.at, own.len)?);
            }
        }
        Ok(sums.into_iter().flatten().collect())
    }

    /// Has a slot for the next group: what it holds is given back, or written over, behind its way.
    fn free(&mut self, slot: usize, kinds: &[Kind]) -> Result<()> {
        let slot = &mut self.slots[slot];
        if !std::mem::take(&mut slot.is_busy) {
            return Ok(());
        }
        self.side.wait_for(&slot.done, "waiting for sums")?;
        slot.held.clear();
        if let Some((number, of_ranks)) = slot.of_ranks.take() {
            let added = self.groups[number]
                .iter()
                .zip(of_ranks)
                .map(|(place, of_ranks)| self.added(&of_ranks, kinds[place.kind].layout.share(place.bucket)));
            self.step.shares[number] = added.collect::<Result<_>>()?;
        }
        Ok(())
    }

    /// Puts the next group on its way.
    fn send(&mut self, kinds: &[Kind]) -> Result<()> {
        let number = self.step.next;
        let buckets: Vec<Sent> = self.groups[number]
            .clone()
            .into_iter()
            .map(|place| self.bucket(&kinds[place.kind], place))
            .collect::<Result<_>>()?;
        let slot = number % SLOTS;
        self.free(slot, kinds)?;
        let side = self.side.clone();
        let slot = &mut self.slots[slot];
        for bucket in buckets.iter().filter(|bucket| bucket.alone.is_none()) {
            let flat = &mut slot.flats[bucket.place.kind];
            if flat.as_ref().is_none_or(|flat| flat.dtype() != bucket.dtype) {
                *flat = Some(side.zeros(self.rooms[bucket.place.kind], bucket.dtype)?);
            }
        }
        // Held before the first of them is on its way, so that none is given back where that fails.
        slot.held.extend(buckets.iter().flat_map(Sent::read));
        slot.is_busy = true;
        let received: Vec<Tensor> = buckets.iter().map(|bucket| bucket.received.clone()).collect();
        match self.reduce {
            Reduce::Fastest => self.step.shares[number] = received,
            Reduce::FixedOrder => slot.of_ranks = Some((number, received)),
        }
        side.follow()?;
        let (mut pairs, mut copies) = (Vec::with_capacity(buckets.len()), Vec::new());
        for bucket in &buckets {
            let all = match (&bucket.alone, &slot.flats[bucket.place.kind]) {
                (Some(gradient), _) => side.memory(gradient)?,
                (None, Some(flat)) => {
                    let all = side.memory(flat)?.part(bucket.place.at, bucket.len);
                    for (gradient, start, len) in &bucket.gradients {
                        let to = all.part(*start, *len);
                        copies.push(match gradient {
                            Some(gradient) => copy(side.memory(gradient)?, to),
                            None => clear(to),
                        });
                    }
                    all
                }
                (None, None) => return require(false, "gradients", "room for a group", "none"),
            };
            pairs.push((all, side.memory(&bucket.received)?));
        }
        side.copies(&copies)?;
        side.timed("adding gradients", || match self.reduce {
            Reduce::Fastest => self.nccl.reduce_scatter(&pairs, side.raw()),
            Reduce::FixedOrder => self.nccl.all_to_all(&pairs, side.raw()),
        })?;
        side.mark(&self.slots[number % SLOTS].done)?;
        self.step.next += 1;
        Ok(())
    }

    /// The gradients of a bucket, and room for what is received of it.
    fn bucket(&mut self, kind: &Kind, place: Place) -> Result<Sent> {
        let bucket = &kind.layout.buckets[place.bucket];
        let dtype = if self.step.is_sum { DType::F32 } else { kind.dtype };
        let is_one = kind.layout.only(place.bucket).is_some();
        let (mut alone, mut gradients) = (None, Vec::with_capacity(bucket.parameters.len()));
        for &(local, start) in &bucket.parameters {
            let gradient = self.step.gradients[kind.parameters[local]].take();
            let gradient =
                gradient.map(|it| Ok::<_, crate::Error>(mom_core::convert(&it, dtype)?.contiguous()?)).transpose()?;
            if is_one {
                alone = Some(gradient.map_or_else(|| self.side.zeros(bucket.len, dtype), Ok)?);
            } else {
                gradients.push((gradient, start, kind.layout.len_of(local)));
            }
        }
        let share = kind.layout.share(place.bucket);
        let len = if self.reduce == Reduce::Fastest { share } else { bucket.len };
        Ok(Sent { place, dtype, len: bucket.len, alone, gradients, received: room(self.side.on(), len, dtype)? })
    }

    /// This rank's share of a sum, from that share of every rank.
    fn added(&self, of_ranks: &Tensor, share: usize) -> Result<Tensor> {
        let of_rank = |rank: usize| of_ranks.narrow(0, rank * share, share);
        let first = mom_core::convert(&of_rank(0)?, DType::F32)?;
        (1..self.size).try_fold(first, |sum, rank| Ok(mom_core::accumulate(&sum, &of_rank(rank)?)?))
    }
}

/// A bucket that is about to be sent.
#[derive(Debug)]
struct Sent {
    place: Place,
    dtype: DType,
    len: usize,
    /// The gradient of the one parameter that the bucket is.
    alone: Option<Tensor>,
    /// Those of several: where each begins, and how long it is. None is zero.
    gradients: Vec<(Option<Tensor>, usize, usize)>,
    received: Tensor,
}

impl Sent {
    /// All that is read.
    fn read(&self) -> impl Iterator<Item = Tensor> {
        let several = self.gradients.iter().filter_map(|(gradient, ..)| gradient.as_ref());
        self.alone.iter().chain(several).cloned()
    }
}

/// Memory that NCCL fills.
fn room(on: &OnGpu, len: usize, dtype: DType) -> Result<Tensor> {
    if dtype == DType::BF16 {
        // SAFETY: all of it is written by the sum or the exchange that it is handed to before anything reads it.
        return Ok(on.tensor(unsafe { on.uninit::<bf16>(len) }?, len));
    }
    // SAFETY: as above.
    Ok(on.tensor(unsafe { on.uninit::<f32>(len) }?, len))
}
