//! How parameters lie in buckets, and which stretches of them are a rank's.
//!
//! Parameters lie end to end in *buckets*, in the order in which a forward pass uses them: embedding, blocks, heads. The backward pass is done
//! with the last bucket first. A bucket is filled up with zeros to a multiple of the number of ranks, and each rank owns an equal stretch
//! of it: a parameter may be several ranks'.

use std::ops::Range;

use mom_core::Part;

/// Elements whose bytes are aligned for every copy and kernel, of 16 bits or more each.
const ALIGN: usize = 64;

/// A bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bucket {
    /// Elements, with those that fill it up: a multiple of the number of ranks.
    pub len: usize,
    /// Parameters by their index, and where each begins in the bucket.
    pub parameters: Vec<(usize, usize)>,
}

/// A stretch of a parameter that a rank owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub parameter: usize,
    /// Its elements.
    pub range: Range<usize>,
    /// Where it begins among all that the rank owns.
    pub at: usize,
}

/// The buckets of a model over so many ranks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    pub buckets: Vec<Bucket>,
    /// Elements of each parameter.
    lens: Vec<usize>,
    size: usize,
}

impl Layout {
    /// `parameters` by name and number of elements; a bucket is closed once it has `bucket` elements.
    pub fn new(parameters: &[(&str, usize)], size: usize, bucket: usize) -> Self {
        let mut order: Vec<usize> = (0..parameters.len()).collect();
        order.sort_by_key(|&index| (part_of(parameters[index].0), index));
        let mut buckets = Vec::new();
        let mut open = Bucket { len: 0, parameters: Vec::new() };
        for index in order {
            open.parameters.push((index, open.len));
            // Every parameter begins where copies of several elements at once can begin.
            open.len += parameters[index].1.next_multiple_of(ALIGN);
            if open.len >= bucket {
                buckets.push(std::mem::replace(&mut open, Bucket { len: 0, parameters: Vec::new() }));
            }
        }
        if !open.parameters.is_empty() {
            buckets.push(open);
        }
        for bucket in &mut buckets {
            bucket.len = bucket.len.next_multiple_of(size * ALIGN);
        }
        Self { buckets, lens: parameters.iter().map(|(_, len)| *len).collect(), size }
    }

    /// Elements of a parameter.
    #[cfg_attr(
        not(feature = "cuda"),
        allow(dead_code, reason = "on the host gradients that did not come are tensors of zeros")
    )]
    pub fn len_of(&self, parameter: usize) -> usize {
        self.lens[parameter]
    }

    /// Elements of a bucket that each rank owns.
    pub fn share(&self, bucket: usize) -> usize {
        self.buckets[bucket].len / self.size
    }

    /// The parameter that a bucket is, where it holds one alone and is not filled up.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "the host copies all of them"))]
    pub fn only(&self, bucket: usize) -> Option<usize> {
        match self.buckets[bucket] {
            Bucket { len, ref parameters } if parameters.len() == 1 && self.lens[parameters[0].0] == len => {
                Some(parameters[0].0)
            }
            _ => None,
        }
    }

    /// Elements that each rank owns, with those that fill buckets up.
    pub fn n_own(&self) -> usize {
        (0..self.buckets.len()).map(|bucket| self.share(bucket)).sum()
    }

    /// What a rank owns of each bucket, among all that it owns.
    pub fn own(&self) -> Vec<Range<usize>> {
        let mut at = 0;
        let range = |bucket| {
            let start = at;
            at += self.share(bucket);
            start..at
        };
        (0..self.buckets.len()).map(range).collect()
    }

    /// The stretches of parameters that a rank owns, in their order among all that it owns.
    pub fn stretches(&self, rank: usize) -> Vec<Stretch> {
        let mut all = Vec::new();
        for (index, (bucket, own)) in self.buckets.iter().zip(self.own()).enumerate() {
            let share = self.share(index);
            let mine = rank * share..(rank + 1) * share;
            for &(parameter, start) in &bucket.parameters {
                let from = start.max(mine.start);
                let to = (start + self.lens[parameter]).min(mine.end);
                if from < to {
                    let range = from - start..to - start;
                    all.push(Stretch { parameter, range, at: own.start + from - mine.start });
                }
            }
        }
        all
    }
}

/// Where a forward pass uses a parameter: what it reads first, then blocks by their number, then heads.
pub(crate) fn part_of(name: &str) -> Part {
    let mut parts = name.split('.');
    while let Some(part) = parts.next() {
        if part == "layers" {
            return Part::Block(parts.next().and_then(|number| number.parse().ok()).unwrap_or(0));
        }
    }
    let ends = ["lm_head", "patcher.patch_out", "patcher.up."];
    let is_last = name.contains("norm_f") || ends.iter().any(|end| name.starts_with(end));
    if is_last { Part::Last } else { Part::First }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_is_one_ranks() {
        let parameters = [
            ("backbone.embedding.weight", 1000),
            ("backbone.layers.0.mixer.A_log", 33),
            ("backbone.layers.10.norm.weight", 64),
            ("backbone.layers.2.norm.weight", 7),
            ("backbone.norm_f.weight", 64),
            ("lm_head.weight", 1),
        ];
        for (size, bucket) in [(1, 1 << 20), (2, 500), (3, 1), (8, 100), (64, 1 << 20)] {
            let layout = Layout::new(&parameters, size, bucket);
            let order: Vec<usize> = layout.buckets.iter().flat_map(|b| b.parameters.iter().map(|p| p.0)).collect();
            assert_eq!(order, [0, 1, 3, 2, 4, 5], "by use: block 2 before block 10");
            let mut seen: Vec<Vec<bool>> = parameters.iter().map(|(_, len)| vec![false; *len]).collect();
            for rank in 0..size {
                let mut end = 0;
                for Stretch { parameter, range, at } in layout.stretches(rank) {
                    assert!(at >= end && at + range.len() <= layout.n_own(), "in their order, apart");
                    end = at + range.len();
                    for i in range {
                        assert!(!std::mem::replace(&mut seen[parameter][i], true), "twice");
                    }
                }
            }
            assert!(seen.iter().flatten().all(|seen| *seen), "{size} ranks, buckets of {bucket}");
            assert!(layout.buckets.iter().all(|b| b.len % (size * ALIGN) == 0));
        }
    }
}
