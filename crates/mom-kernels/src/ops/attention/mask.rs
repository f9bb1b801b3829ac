//! Which keys a query meets.

use std::ops::Range;

use super::params::OP;
use crate::error::{Error, Result};
use crate::ops::plan::SequenceLayout;
use crate::shape::Sequences;

/// The keys of every query, and the queries of every key, of a batch of sequences. Places are positions of the sequence.
///
/// Both are intervals whose first and last places never fall along a sequence, so that a tile of queries meets one run of
/// keys, and a tile of keys one run of queries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttentionMask {
    batch: usize,
    seqlen: usize,
    key_first: Vec<u32>,
    key_end: Vec<u32>,
    query_first: Vec<u32>,
    query_end: Vec<u32>,
    /// Where the document of each position begins: its first key, without a window.
    document_first: Vec<u32>,
}

impl AttentionMask {
    /// Causal inside of each document of `layout`, and in both directions inside of each span.
    ///
    /// * `spans`: flat positions, batch index * seqlen + t, in ascending order.
    ///
    /// # Errors
    /// A span that overlaps the one before, leaves its sequence, or holds a document's start behind its first position.
    pub fn new(layout: SequenceLayout<'_>, spans: &[Range<usize>]) -> Result<Self> {
        let (batch, seqlen, n) = (layout.batch(), layout.seqlen(), layout.n_rows());
        let mut key_first = vec![0u32; n];
        let mut key_end = vec![0u32; n];
        for position in 0..n {
            let t = position % seqlen;
            let begins = t == 0 || layout.starts_document(position);
            key_first[position] = if begins { t as u32 } else { key_first[position - 1] };
            key_end[position] = t as u32 + 1;
        }
        let mut free_from = 0;
        for span in spans {
            let limit = |arg, min, max, got| Err(Error::Limit { op: OP, arg, min, max, got });
            if span.start < free_from || span.start >= n {
                return limit("spans.start", free_from, n.saturating_sub(1), span.start);
            }
            let sequence_end = (span.start / seqlen + 1) * seqlen;
            let mut inside = span.start + 1..sequence_end;
            let document_end = inside.find(|&position| layout.starts_document(position)).unwrap_or(sequence_end);
            if !(span.start + 1..=document_end).contains(&span.end) {
                return limit("spans.end", span.start + 1, document_end, span.end);
            }
            let end = (span.end - span.start / seqlen * seqlen) as u32;
            key_end[span.clone()].fill(end);
            free_from = span.end;
        }
        let document_first = key_first.clone();
        Ok(Self::of_keys(batch, seqlen, key_first, key_end, document_first))
    }

    /// The same, but that a query meets at most `window` keys up to itself, its own among them. Ends of spans stay.
    ///
    /// # Errors
    /// A window of none.
    pub fn with_window(self, window: usize) -> Result<Self> {
        if window == 0 {
            return Err(Error::Limit { op: OP, arg: "window", min: 1, max: usize::MAX, got: window });
        }
        let Self { batch, seqlen, mut key_first, key_end, document_first, .. } = self;
        for (position, first) in key_first.iter_mut().enumerate() {
            *first = (*first).max((position % seqlen + 1).saturating_sub(window) as u32);
        }
        Ok(Self::of_keys(batch, seqlen, key_first, key_end, document_first))
    }

    /// With the queries of each key.
    fn of_keys(batch: usize, seqlen: usize, key_first: Vec<u32>, key_end: Vec<u32>, document_first: Vec<u32>) -> Self {
        let n = key_first.len();
        let (mut query_first, mut query_end) = (vec![0u32; n], vec![0u32; n]);
        for sequence in 0..batch {
            let at = sequence * seqlen..(sequence + 1) * seqlen;
            let (first, end) = (&key_first[at.clone()], &key_end[at.clone()]);
            let (mut from, mut to) = (0, 0);
            for s in 0..seqlen {
                // The first query whose keys reach beyond s, and the first one behind whose keys begin beyond s.
                while end[from] as usize <= s {
                    from += 1;
                }
                while to < seqlen && first[to] as usize <= s {
                    to += 1;
                }
                query_first[at.start + s] = from as u32;
                query_end[at.start + s] = to as u32;
            }
        }
        Self { batch, seqlen, key_first, key_end, query_first, query_end, document_first }
    }

    /// Number of sequences.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Positions in a sequence.
    pub fn seqlen(&self) -> usize {
        self.seqlen
    }

    /// The keys that a query meets, as positions of the sequence. Panics on a position that is not there.
    pub fn keys(&self, position: usize) -> Range<usize> {
        self.key_first[position] as usize..self.key_end[position] as usize
    }

    /// The queries that meet a key, as positions of the sequence. Panics on a position that is not there.
    pub fn queries(&self, position: usize) -> Range<usize> {
        self.query_first[position] as usize..self.query_end[position] as usize
    }

    /// Pairs of a query and a key that meet: what attention costs is a multiple of it.
    pub fn n_pairs(&self) -> u64 {
        self.key_first.iter().zip(&self.key_end).map(|(&first, &end)| u64::from(end - first)).sum()
    }

    /// The place of each position in its document.
    pub fn positions_in_documents(&self) -> Vec<u32> {
        self.document_first.iter().enumerate().map(|(at, &first)| (at % self.seqlen) as u32 - first).collect()
    }

    /// Documents of a sequence: nothing in one meets anything in another.
    pub(super) fn documents(&self, sequence: usize) -> impl Iterator<Item = Range<usize>> + '_ {
        let at = sequence * self.seqlen;
        let begins = move |t: usize| t == self.seqlen || self.document_first[at + t] as usize == t;
        let starts = (0..self.seqlen).filter(move |&t| begins(t));
        starts.map(move |start| {
            let end = (start + 1..=self.seqlen).find(|&t| begins(t)).unwrap_or(self.seqlen);
            start..end
        })
    }

    /// Keys' first and end, queries' first and end: what kernels read.
    #[cfg(feature = "cuda")]
    pub(super) fn parts(&self) -> [&[u32]; 4] {
        [&self.key_first, &self.key_end, &self.query_first, &self.query_end]
    }
}

impl Sequences for &AttentionMask {
    fn batch(&self) -> usize {
        self.batch
    }

    fn seqlen(&self) -> usize {
        self.seqlen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_say_the_same() {
        // Two sequences; documents begin at 0, 3 and 4 of the first, and in the middle of the second.
        let starts: Vec<bool> = (0..16).map(|position| matches!(position, 3 | 4 | 12)).collect();
        let layout = SequenceLayout::contiguous(2, 8, Some(&starts)).unwrap();
        let mask = AttentionMask::new(layout, &[0..2, 5..8, 8..9, 13..15]).unwrap();
        let keys: Vec<_> = (0..8).map(|t| mask.keys(t)).collect();
        assert_eq!(keys, [0..2, 0..2, 0..3, 3..4, 4..5, 4..8, 4..8, 4..8]);
        for sequence in 0..2 {
            for t in 0..8 {
                for s in 0..8 {
                    let (query, key) = (sequence * 8 + t, sequence * 8 + s);
                    assert_eq!(mask.keys(query).contains(&s), mask.queries(key).contains(&t), "{query} {key}");
                }
            }
        }
        assert_eq!(mask.documents(0).collect::<Vec<_>>(), [0..3, 3..4, 4..8]);
        assert_eq!(mask.positions_in_documents()[..8], [0, 1, 2, 0, 0, 1, 2, 3]);
        let met: usize = (0..16).map(|position| mask.keys(position).len()).sum();
        assert_eq!(mask.n_pairs(), met as u64);
    }

    #[test]
    fn a_window_leaves_the_last_keys() {
        let starts: Vec<bool> = (0..16).map(|position| matches!(position, 3 | 4 | 12)).collect();
        let layout = SequenceLayout::contiguous(2, 8, Some(&starts)).unwrap();
        let whole = AttentionMask::new(layout, &[5..8]).unwrap();
        for window in 1..10 {
            let mask = whole.clone().with_window(window).unwrap();
            for position in 0..16 {
                let (keys, t) = (whole.keys(position), position % 8);
                let first = keys.start.max((t + 1).saturating_sub(window));
                assert_eq!(mask.keys(position), first..keys.end, "{position}, window {window}");
                let sequence = position / 8 * 8;
                let meets = |query: &usize| mask.keys(sequence + query).contains(&t);
                assert_eq!(mask.queries(position).collect::<Vec<_>>(), (0..8).filter(meets).collect::<Vec<_>>());
            }
            // Documents are what they were.
            assert_eq!(mask.positions_in_documents(), whole.positions_in_documents());
            assert_eq!(mask.documents(0).collect::<Vec<_>>(), whole.documents(0).collect::<Vec<_>>());
        }
        let told = whole.with_window(0).unwrap_err().to_string();
        assert!(told.contains("window"), "{told}");
    }

    #[test]
    fn a_span_that_is_none_is_refused() {
        let starts: Vec<bool> = (0..16).map(|position| position == 4).collect();
        let layout = SequenceLayout::contiguous(2, 8, Some(&starts)).unwrap();
        for (spans, arg) in [
            (vec![2..5], "spans.end"),
            (vec![6..9], "spans.end"),
            (vec![1..1], "spans.end"),
            (vec![1..3, 2..4], "spans.start"),
            (vec![16..17], "spans.start"),
        ] {
            let message = AttentionMask::new(layout, &spans).unwrap_err().to_string();
            assert!(message.contains(arg), "{message}");
        }
    }
}
