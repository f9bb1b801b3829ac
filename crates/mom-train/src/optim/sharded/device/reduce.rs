//! Sums of gradients over all ranks, bucket by bucket, while the backward pass goes on.
//!
//! Gradients come as the backward pass is through with a parameter. A bucket whose gradients are all there, and which is next in an order
//! that all ranks have, is laid end to end and added up on the ranks' own stream. A rank keeps its share of the sum; the rest is given
//! back once it was sent.

use std::sync::Arc;

use candle_core::{DType, Tensor};
use mom_core::cuda::OnGpu;
use mom_core::cuda::half::bf16;
use mom_kernels::cuda::cudarc::driver::CudaEvent;

use super::kind::{Kind, Place};
use super::side::{Side, event};
use crate::Result;
use crate::config::Reduce;
use crate::dist::{Memory, Nccl};
use crate::error::require;

/// Buckets that are on their way at once.
const SLOTS: usize = 3;

/// How gradients are added up, and where the sums of a step are.
#[derive(Debug)]
pub(super) struct Reducer {
    side: Arc<Side>,
    nccl: Arc<Nccl>,
    reduce: Reduce,
    size: usize,
    /// In the order in which they are sent.
    places: Vec<Place>,
    /// Of each parameter, its number in that order.
    place_of: Vec<usize>,
    slots: Vec<Slot>,
    step: Step,
}

/// What is on its way, and must stay until it has come.
#[derive(Debug)]
struct Slot {
    /// Room for gradients end to end, by kind; stays for the next bucket and step: a step that is captured gives nothing back that was
    /// taken before it.
    flats: Vec<Option<Tensor>>,
    /// What is read.
    held: Vec<Tensor>,
    /// Of a place, by its number: this rank's share of what every rank has, which is to be added.
    of_ranks: Option<(usize, Tensor)>,
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
    /// By place: how many are still to come.
    missing: Vec<usize>,
    /// The next place.
    next: usize,
    /// By place: this rank's share of the sum.
    shares: Vec<Option<Tensor>>,
}

impl Reducer {
    pub fn new(
        side: Arc<Side>,
        nccl: Arc<Nccl>,
        reduce: Reduce,
        size: usize,
        kinds: &[Kind],
        places: &[Place],
    ) -> Result<Self> {
        let places: Vec<Place> = places.iter().rev().copied().collect();
        let mut place_of = vec![0; kinds.iter().map(|kind| kind.parameters.len()).sum()];
        for (number, place) in places.iter().enumerate() {
            let kind = &kinds[place.kind];
            for &(local, _) in &kind.layout.buckets[place.bucket].parameters {
                place_of[kind.parameters[local]] = number;
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
        Ok(Self { side, nccl, reduce, size, places, place_of, slots, step: Step::default() })
    }

    /// Begins a step, whose gradients are those of one batch or sums of several.
    pub fn begin(&mut self, is_sum: bool) {
        let mut missing = vec![0; self.places.len()];
        self.place_of.iter().for_each(|&place| missing[place] += 1);
        let (n, shares) = (self.place_of.len(), vec![None; self.places.len()]);
        self.step = Step { is_sum, missing, gradients: vec![None; n], has_come: vec![false; n], shares, next: 0 };
    }

    /// A parameter's gradient of a step that began, `None` where it is zero; once for each.
    ///
    /// # Errors
    /// A second one; what the device or NCCL reports; a rank that failed.
    pub fn take(&mut self, kinds: &[Kind], parameter: usize, gradient: Option<Tensor>) -> Result<()> {
        let place = self.place_of[parameter];
        let again = std::mem::replace(&mut self.step.has_come[parameter], true);
        require(!again, "gradient", "one for each parameter", format!("a second one of parameter {parameter}"))?;
        self.step.gradients[parameter] = gradient;
        self.step.missing[place] -= 1;
        // On the stream that computes they would stand between what chunks of a sequence say to each other: they wait for the end.
        while self.side.is_beside() && self.step.missing.get(self.step.next) == Some(&0) {
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
        while self.step.next < self.places.len() {
            self.send(kinds)?;
        }
        (0..SLOTS).try_for_each(|slot| self.free(slot, kinds))?;
        self.side.join()?;
        let n_stretches = kinds.iter().flat_map(|kind| &kind.own).map(Vec::len).sum();
        let mut sums = vec![None; n_stretches];
        for (place, share) in self.places.iter().zip(std::mem::take(&mut self.step.shares)) {
            let Some(share) = share else { continue };
            for own in &kinds[place.kind].own[place.bucket] {
                sums[own.stretch] = Some(share.narrow(0, own.at, own.len)?);
            }
        }
        Ok(sums.into_iter().flatten().collect())
    }

    /// Has a slot for the next bucket: what it holds is given back, or written over, behind its way.
    fn free(&mut self, slot: usize, kinds: &[Kind]) -> Result<()> {
        let slot = &mut self.slots[slot];
        if !std::mem::take(&mut slot.is_busy) {
            return Ok(());
        }
        self.side.wait_for(&slot.done)?;
        slot.held.clear();
        if let Some((number, of_ranks)) = slot.of_ranks.take() {
            let Place { kind, bucket } = self.places[number];
            self.step.shares[number] = Some(self.added(&of_ranks, kinds[kind].layout.share(bucket))?);
        }
        Ok(())
    }

    /// Puts the next bucket on its way.
    fn send(&mut self, kinds: &[Kind]) -> Result<()> {
        let number = self.step.next;
        let place = self.places[number];
        let (kind, side) = (&kinds[place.kind], self.side.clone());
        let bucket = &kind.layout.buckets[place.bucket];
        let dtype = if self.step.is_sum { DType::F32 } else { kind.dtype };
        let is_one = kind.layout.only(place.bucket).is_some();
        let mut gradients = Vec::with_capacity(bucket.parameters.len());
        for &(local, start) in &bucket.parameters {
            let gradient = match self.step.gradients[kind.parameters[local]].take() {
                Some(gradient) => Some(mom_core::convert(&gradient, dtype)?.contiguous()?),
                None if is_one => Some(side.zeros(bucket.len, dtype)?),
                None => None,
            };
            gradients.push((gradient, start, kind.layout.len_of(local)));
        }
        let slot = number % SLOTS;
        self.free(slot, kinds)?;
        let share = kind.layout.share(place.bucket);
        let received = room(side.on(), if self.reduce == Reduce::Fastest { share } else { bucket.len }, dtype)?;
        let slot = &mut self.slots[slot];
        let flat = &mut slot.flats[place.kind];
        if !is_one && flat.as_ref().is_none_or(|flat| flat.dtype() != dtype) {
            *flat = Some(side.zeros(kind.longest(), dtype)?);
        }
        // Held before the first of them is on its way, so that none is given back where that fails.
        slot.held.extend(gradients.iter().filter_map(|(gradient, ..)| gradient.clone()));
        slot.is_busy = true;
        match self.reduce {
            Reduce::Fastest => self.step.shares[number] = Some(received.clone()),
            Reduce::FixedOrder => slot.of_ranks = Some((number, received.clone())),
        }
        side.follow()?;
        let all = match (gradients.as_slice(), &*flat) {
            ([(Some(gradient), ..)], _) if is_one => side.memory(gradient)?,
            (_, Some(flat)) => {
                let all = side.memory(flat)?.part(0, bucket.len);
                for (gradient, start, len) in &gradients {
                    let to = all.part(*start, *len);
                    match gradient {
                        Some(gradient) => side.copy(side.memory(gradient)?, to)?,
                        None => side.clear(to)?,
                    }
                }
                all
            }
            _ => return require(false, "gradients", "room for a bucket", "none"),
        };
        self.add(all, side.memory(&received)?)?;
        side.mark(&self.slots[number % SLOTS].done)?;
        self.step.next += 1;
        Ok(())
    }

    fn add(&self, all: Memory, into: Memory) -> Result<()> {
        match self.reduce {
            Reduce::Fastest => self.nccl.reduce_scatter(all, into, self.side.raw()),
            Reduce::FixedOrder => self.nccl.all_to_all(all, into, self.side.raw()),
        }
    }

    /// This rank's share of a sum, from that share of every rank.
    fn added(&self, of_ranks: &Tensor, share: usize) -> Result<Tensor> {
        let of_rank = |rank: usize| of_ranks.narrow(0, rank * share, share);
        let first = mom_core::convert(&of_rank(0)?, DType::F32)?;
        (1..self.size).try_fold(first, |sum, rank| Ok(mom_core::accumulate(&sum, &of_rank(rank)?)?))
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
