//! Variables of one element type in buckets of their own.

use candle_core::{DType, Var};
use mom_core::Part;

use super::super::layout::part_of;
use super::super::{Layout, Stretch};
use crate::Result;
use crate::config::DistSection;
use crate::error::config;

/// The variables of one element type.
#[derive(Debug)]
pub(super) struct Kind {
    pub dtype: DType,
    pub layout: Layout,
    /// The index of each among all parameters.
    pub parameters: Vec<usize>,
    /// What this rank owns of each bucket.
    pub own: Vec<Vec<Own>>,
    /// The parts of a model that have parameters in a bucket, by bucket.
    pub parts: Vec<Vec<Part>>,
}

impl Kind {
    /// Elements of the longest bucket of several parameters: one that is a parameter is sent from where that lies. At least one.
    pub fn longest(&self) -> usize {
        let several = self.layout.buckets.iter().enumerate().filter(|(index, _)| self.layout.only(*index).is_none());
        several.map(|(_, bucket)| bucket.len).max().unwrap_or(1)
    }
}

/// A stretch that this rank owns.
#[derive(Debug, Clone, Copy)]
pub(super) struct Own {
    /// Its index among all stretches.
    pub stretch: usize,
    /// Where it begins in this rank's share of the bucket.
    pub at: usize,
    pub len: usize,
}

/// Buckets of all kinds, and what a rank owns of them, one kind behind the other: the order of the optimiser beneath.
pub(super) fn kinds(
    names: &[&str],
    variables: &[Var],
    (rank, size): (usize, usize),
    dist: &DistSection,
) -> Result<(Vec<Kind>, Vec<Stretch>)> {
    let (mut kinds, mut stretches) = (Vec::<Kind>::new(), Vec::new());
    for dtype in [DType::BF16, DType::F32] {
        let indices: Vec<usize> = (0..variables.len()).filter(|&index| variables[index].dtype() == dtype).collect();
        if indices.is_empty() {
            continue;
        }
        let lens: Vec<(&str, usize)> = indices.iter().map(|&i| (names[i], variables[i].elem_count())).collect();
        let layout = Layout::new(&lens, size, (dist.bucket_mib << 20) / dtype.size_in_bytes());
        let mut own = vec![Vec::new(); layout.buckets.len()];
        let ranges = layout.own();
        for stretch in layout.stretches(rank) {
            let bucket = ranges.iter().position(|range| range.contains(&stretch.at)).unwrap_or(0);
            let (at, len) = (stretch.at - ranges[bucket].start, stretch.range.len());
            own[bucket].push(Own { stretch: stretches.len(), at, len });
            let at = stretches.last().map_or(0, |last: &Stretch| last.at + last.range.len());
            stretches.push(Stretch { parameter: indices[stretch.parameter], at, ..stretch });
        }
        let parts =
            layout.buckets.iter().map(|bucket| bucket.parameters.iter().map(|&(i, _)| part_of(lens[i].0)).collect());
        kinds.push(Kind { dtype, parts: parts.collect(), layout, parameters: indices, own });
    }
    let n_variables: usize = kinds.iter().map(|kind| kind.parameters.len()).sum();
    if n_variables != variables.len() {
        return Err(config("dtype", "bf16 or f32", "another"));
    }
    Ok((kinds, stretches))
}

/// A bucket, by its kind and its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub kind: usize,
    pub bucket: usize,
}

/// All buckets, in the order in which new weights are sent, which is that of their use. Those of f32 beside bf16 come first: they are small,
/// and a bucket has parameters of many parts. Gradients are sent in the opposite order.
pub(super) fn places(kinds: &[Kind]) -> Vec<Place> {
    let of =
        |(kind, of_kind): (usize, &Kind)| (0..of_kind.layout.buckets.len()).map(move |bucket| Place { kind, bucket });
    kinds.iter().enumerate().rev().flat_map(of).collect()
}
