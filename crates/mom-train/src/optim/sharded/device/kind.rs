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
    /// Where it begins in the room that buckets of its kind and group share; of no meaning where it is one parameter.
    pub at: usize,
}

/// Buckets that are sent together: one launch of NCCL's, which has to wait until multiprocessors are free, takes all of them.
pub(super) type Group = Vec<Place>;

/// All buckets, in the order in which new weights are sent, which is that of their use. Those of f32 beside bf16 come first: they are small,
/// and a bucket has parameters of many parts. Gradients are sent in the opposite order.
///
/// The first group is one bucket, each other one as large as all before it, up to `most` bytes: what is needed first comes soon, and so does
/// the last sum of gradients, which nothing hides.
pub(super) fn groups(kinds: &[Kind], most: usize) -> Vec<Group> {
    let of = |(kind, of_kind): (usize, &Kind)| {
        (0..of_kind.layout.buckets.len()).map(move |bucket| Place { kind, bucket, at: 0 })
    };
    let (mut groups, mut sent, mut open) = (Vec::<Group>::new(), 0, 0);
    let mut used = vec![0; kinds.len()];
    for mut place in kinds.iter().enumerate().rev().flat_map(of) {
        if open >= sent.min(most) {
            groups.push(Vec::new());
            sent += std::mem::take(&mut open);
            used.fill(0);
        }
        let kind = &kinds[place.kind];
        let len = kind.layout.buckets[place.bucket].len;
        open += len * kind.dtype.size_in_bytes();
        if kind.layout.only(place.bucket).is_none() {
            place.at = used[place.kind];
            used[place.kind] += len;
        }
        if let Some(group) = groups.last_mut() {
            group.push(place);
        }
    }
    groups
}

/// Elements of a kind that any group needs room for: a bucket that is one parameter is sent from where that lies. At least one.
pub(super) fn room(kinds: &[Kind], groups: &[Group], kind: usize) -> usize {
    let layout = &kinds[kind].layout;
    let ends = groups.iter().flatten().filter(|place| place.kind == kind && layout.only(place.bucket).is_none());
    ends.map(|place| place.at + layout.buckets[place.bucket].len).max().unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn groups_have_every_bucket_once_in_its_order_and_grow() {
        // Buckets of 2 MiB of bf16: blocks of a small parameter and one that is larger than a bucket, which some fill exactly.
        let of = |len: usize, dtype| Var::zeros(len, dtype, &Device::Cpu).unwrap();
        let names: Vec<String> =
            (0..20).flat_map(|i| ["norm", "in_proj", "A_log"].map(|name| format!("layers.{i}.{name}"))).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let variables: Vec<Var> = (0..20)
            .flat_map(|i| [of(77, DType::BF16), of((1 << 20) + 64 * (i % 3), DType::BF16), of(33, DType::F32)])
            .collect();
        let dist = DistSection { bucket_mib: 2, ..DistSection::default() };
        let (kinds, _) = kinds(&names, &variables, (0, 3), &dist).unwrap();
        let most = 8 << 20;
        let groups = groups(&kinds, most);
        let order: Vec<(usize, usize)> = groups.iter().flatten().map(|place| (place.kind, place.bucket)).collect();
        let n = |kind: usize| (0..kinds[kind].layout.buckets.len()).map(move |bucket| (kind, bucket));
        assert_eq!(order, n(1).chain(n(0)).collect::<Vec<_>>());
        let bytes = |group: &Group| -> usize {
            let of = |place: &Place| {
                kinds[place.kind].layout.buckets[place.bucket].len * kinds[place.kind].dtype.size_in_bytes()
            };
            group.iter().map(of).sum()
        };
        let (mut sent, longest) = (bytes(&groups[0]), 3 << 20);
        assert_eq!(groups[0].len(), 1);
        for group in &groups[1..] {
            assert!(bytes(group) < sent.min(most) + longest, "{} behind {sent}", bytes(group));
            sent += bytes(group);
        }
        assert!(groups.len() < order.len() / 2, "{} of {}", groups.len(), order.len());
        // What shares a room lies apart, and within it.
        for (group, kind) in groups.iter().flat_map(|group| (0..kinds.len()).map(move |kind| (group, kind))) {
            let layout = &kinds[kind].layout;
            let shared = group.iter().filter(|place| place.kind == kind && layout.only(place.bucket).is_none());
            let end = shared.fold(0, |end, place| {
                assert!(place.at >= end);
                place.at + layout.buckets[place.bucket].len
            });
            assert!(end <= room(&kinds, &groups, kind));
        }
    }
}
