//! Learns the merges of a byte-pair encoding (Sennrich et al. 2016).
//!
//! The most frequent pair of neighbouring symbols is merged, again and again; of equally frequent pairs the one with the
//! smaller symbols. The trainer of the `tokenizers` crate breaks some ties by hash order; this one gives the same merges
//! for the same words, always.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};

type Pair = (u32, u32);

/// Symbols: the alphabet first, then one per merge.
pub(super) struct Merges {
    /// Spelling of each symbol.
    pub symbols: Vec<String>,
    /// Merged pairs of spellings, most frequent first.
    pub merges: Vec<(String, String)>,
}

struct Word {
    symbols: Vec<u32>,
    count: u64,
}

/// Learns merges until there are `n_symbols` symbols, or no pair occurs twice.
///
/// `words` are spelled in characters of `alphabet`; others are left out. `progress` is told symbols done and wanted.
pub(super) fn learn(
    words: &BTreeMap<String, u64>,
    alphabet: &BTreeSet<char>,
    n_symbols: usize,
    progress: &mut dyn FnMut(usize, usize),
) -> Merges {
    let mut symbols: Vec<String> = alphabet.iter().map(char::to_string).collect();
    let ids: HashMap<char, u32> = alphabet.iter().zip(0..).map(|(&c, id)| (c, id)).collect();
    let mut words: Vec<Word> = words
        .iter()
        .map(|(word, &count)| Word { symbols: word.chars().filter_map(|c| ids.get(&c).copied()).collect(), count })
        .collect();

    // Only looked up by pair; the order of merges comes from the heap alone.
    let mut counts: HashMap<Pair, u64> = HashMap::new();
    let mut places: HashMap<Pair, BTreeSet<usize>> = HashMap::new();
    for (index, word) in words.iter().enumerate() {
        for pair in pairs(&word.symbols) {
            *counts.entry(pair).or_default() += word.count;
            places.entry(pair).or_default().insert(index);
        }
    }
    let mut heap: BinaryHeap<(u64, Reverse<Pair>)> =
        counts.iter().map(|(&pair, &count)| (count, Reverse(pair))).collect();

    let mut merges = Vec::new();
    let mut spellings: BTreeSet<String> = symbols.iter().cloned().collect();
    while symbols.len() < n_symbols {
        let Some((count, Reverse(pair))) = heap.pop() else { break };
        let now = counts.get(&pair).copied().unwrap_or(0);
        if count != now {
            // An entry from before the count changed; the change has pushed its own.
            continue;
        }
        if count < 2 {
            break;
        }
        let (left, right) = (symbols[pair.0 as usize].clone(), symbols[pair.1 as usize].clone());
        let spelling = format!("{left}{right}");
        if !spellings.insert(spelling.clone()) {
            // Two ways to the same spelling would need one symbol of two merges: leave the rarer way unmerged.
            counts.remove(&pair);
            continue;
        }
        let merged = symbols.len() as u32;
        if merged.is_multiple_of(64) {
            progress(symbols.len(), n_symbols);
        }
        symbols.push(spelling);
        merges.push((left, right));
        let mut changed = BTreeSet::new();
        for index in places.remove(&pair).unwrap_or_default() {
            let word = &mut words[index];
            for old in pairs(&word.symbols) {
                if let Some(entry) = counts.get_mut(&old) {
                    *entry -= word.count;
                    changed.insert(old);
                }
            }
            merge(&mut word.symbols, pair, merged);
            for new in pairs(&word.symbols) {
                *counts.entry(new).or_default() += word.count;
                places.entry(new).or_default().insert(index);
                changed.insert(new);
            }
        }
        heap.extend(changed.into_iter().filter_map(|pair| Some((*counts.get(&pair)?, Reverse(pair)))));
    }
    Merges { symbols, merges }
}

fn pairs(symbols: &[u32]) -> Vec<Pair> {
    symbols.windows(2).map(|pair| (pair[0], pair[1])).collect()
}

fn merge(symbols: &mut Vec<u32>, pair: Pair, merged: u32) {
    let mut out = Vec::with_capacity(symbols.len());
    let mut at = 0;
    while at < symbols.len() {
        if at + 1 < symbols.len() && (symbols[at], symbols[at + 1]) == pair {
            out.push(merged);
            at += 2;
        } else {
            out.push(symbols[at]);
            at += 1;
        }
    }
    *symbols = out;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequent_pairs_first_and_ties_by_symbol() {
        let words = BTreeMap::from([("abab".to_owned(), 3), ("cb".to_owned(), 4), ("ab".to_owned(), 1)]);
        let alphabet = ('a'..='c').collect();
        let learned = learn(&words, &alphabet, 6, &mut |_, _| {});
        // ab: 7, then cb: 4, then (ab, ab): 3.
        let merges: Vec<_> = learned.merges.iter().map(|(a, b)| format!("{a}+{b}")).collect();
        assert_eq!(merges, ["a+b", "c+b", "ab+ab"]);
        assert_eq!(learned.symbols, ["a", "b", "c", "ab", "cb", "abab"]);
    }

    #[test]
    fn runs_of_one_letter_are_counted_without_underflow() {
        let words = BTreeMap::from([("aaaaaaa".to_owned(), 5), ("aa".to_owned(), 2)]);
        let learned = learn(&words, &BTreeSet::from(['a']), 20, &mut |_, _| {});
        assert_eq!(learned.symbols[..3], ["a", "aa", "aaaa"]);
    }
}
