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

use super::kind::{Kind, Place, longest};
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
    /// Behind what reads all of it.
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
    /// By place that was sent: this rank's share of the sum, or that share of every rank, which is still to be added.
    received: Vec<Tensor>,
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
        let slot =
            || Ok(Slot { flats: vec![None; kinds.len()], held: Vec::new(), done: event(side.on())?, is_busy: false });
        let slots = (0..SLOTS).map(|_| slot()).collect::<Result<_>>()?;
        Ok(Self { side, nccl, reduce, size, places, place_of, slots, step: Step::default() })
    }

    /// Begins a step, whose gradients are those of one batch or sums of several.
    pub fn begin(&mut self, is_sum: bool) {
        let mut missing = vec![0; self.places.len()];
        self.place_of.iter().for_each(|&place| missing[place] += 1);
        let n = self.place_of.len();
        self.step = Step { is_sum, missing, gradients: vec![None; n], has_come: vec![false; n], ..Step::default() };
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
        while self.step.next < self.places.len() {
            self.send(kinds)?;
        }
        self.side.join()?;
        for slot in &mut self.slots {
            slot.held.clear();
            slot.is_busy = false;
        }
        let n_stretches = kinds.iter().flat_map(|kind| &kind.own).map(Vec::len).sum();
        let mut sums = vec![None; n_stretches];
        for (place, received) in self.places.iter().zip(std::mem::take(&mut self.step.received)) {
            let kind = &kinds[place.kind];
            let sum = self.added(received, kind.layout.share(place.bucket))?;
            for own in &kind.own[place.bucket] {
                sums[own.stretch] = Some(sum.narrow(0, own.at, own.len)?);
            }
        }
        Ok(sums.into_iter().flatten().collect())
    }

    /// Puts the next bucket on its way.
    fn send(&mut self, kinds: &[Kind]) -> Result<()> {
        let place = self.places[self.step.next];
        let (kind, side) = (&kinds[place.kind], self.side.clone());
        let bucket = &kind.layout.buckets[place.bucket];
        let dtype = if self.step.is_sum { DType::F32 } else { kind.dtype };
        let mut gradients = Vec::with_capacity(bucket.parameters.len());
        for &(local, start) in &bucket.parameters {
            let gradient = self.step.gradients[kind.parameters[local]].take();
            let gradient =
                gradient.map(|gradient| mom_core::convert(&gradient, dtype)?.contiguous().map_err(crate::Error::from));
            gradients.push((gradient.transpose()?, local, start));
        }
        let number = self.step.next % SLOTS;
        let slot = &mut self.slots[number];
        // What the bucket before the last ones read is given back, or written over, behind this.
        if std::mem::take(&mut slot.is_busy) {
            side.wait_for(&slot.done)?;
        }
        slot.held.clear();
        let whole = match (kind.layout.only(place.bucket), gradients.as_slice()) {
            (Some(_), [(Some(gradient), ..)]) => Some(side.memory(gradient)?),
            _ => None,
        };
        let flat = &mut slot.flats[place.kind];
        if whole.is_none() && flat.as_ref().is_none_or(|flat| flat.dtype() != dtype) {
            *flat = Some(side.zeros(longest(kind), dtype)?);
        }
        let share = kind.layout.share(place.bucket);
        let received = room(side.on(), if self.reduce == Reduce::Fastest { share } else { bucket.len }, dtype)?;
        side.follow()?;
        let all = match (whole, &*flat) {
            (Some(gradient), _) => gradient,
            (None, Some(flat)) => {
                let all = side.memory(flat)?.part(0, bucket.len);
                for (gradient, local, start) in &gradients {
                    match gradient {
                        Some(gradient) => {
                            let from = side.memory(gradient)?;
                            side.copy(from, all.part(*start, from.len))?;
                        }
                        None => side.clear(all.part(*start, kind.layout.len_of(*local)))?,
                    }
                }
                all
            }
            (None, None) => return require(false, "gradients", "room for a bucket", "none"),
        };
        let into = side.memory(&received)?;
        self.add(all, into)?;
        let slot = &mut self.slots[number];
        slot.held.extend(gradients.into_iter().filter_map(|(gradient, ..)| gradient));
        slot.is_busy = true;
        side.mark(&slot.done)?;
        self.step.received.push(received);
        self.step.next += 1;
        Ok(())
    }

    fn add(&self, all: Memory, into: Memory) -> Result<()> {
        match self.reduce {
            Reduce::Fastest => self.nccl.reduce_scatter(all, into, self.side.raw()),
            Reduce::FixedOrder => self.nccl.all_to_all(all, into, self.side.raw()),
        }
    }

    /// This rank's share of a sum.
    fn added(&self, received: Tensor, share: usize) -> Result<Tensor> {
        if self.reduce == Reduce::Fastest {
            return Ok(received);
        }
        let of_rank = |rank: usize| received.narrow(0, rank * share, share);
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
