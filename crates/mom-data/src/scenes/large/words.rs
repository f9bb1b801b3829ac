//! The vocabulary of the large world: English words, and thousands that are coined by a grammar of syllables. What is drawn is
//! drawn by Zipf's law, so that a model meets some words in every document and others once in a hundred thousand.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use super::WORLD;
use super::english::is_english;
use super::syllables::{Coined, coin, with_s};
use super::word::{Role, Word};
use crate::rng::{Domain, Stream};

/// Number of kinds of things.
pub(super) const N_NOUNS: usize = 1200;
/// Number of people.
pub(super) const N_NAMES: usize = 4000;
/// Number of places.
pub(super) const N_PLACES: usize = 1600;
/// Number of poses.
pub(super) const N_VERBS: usize = 160;
/// Number of ways to move.
pub(super) const N_MANNERS: usize = 240;
/// Number of patterns of a surface.
pub(super) const N_PATTERNS: usize = 96;

/// All coined words, the most frequent first.
pub(super) struct Words {
    /// Singular and plural.
    pub nouns: Vec<[Word; 2]>,
    pub names: Vec<Word>,
    pub places: Vec<Word>,
    /// Third person singular and plural.
    pub verbs: Vec<[Word; 2]>,
    pub manners: Vec<Word>,
    pub patterns: Vec<Word>,
}

/// The words, coined at the first call: the same in every document of every seed.
pub(super) fn words() -> &'static Words {
    static WORDS: OnceLock<Words> = OnceLock::new();
    WORDS.get_or_init(|| {
        let mut mint = Mint { stream: Stream::new(WORLD, Domain::Caption, 0, 1), taken: BTreeSet::new() };
        Words {
            nouns: (0..N_NOUNS).map(|i| mint.two(1 + usize::from(i >= 150) + usize::from(i >= 700), &[])).collect(),
            // Verbs have their `s` in the singular.
            verbs: (0..N_VERBS)
                .map(|i| mint.two(1 + usize::from(i >= 80), &[]))
                .map(|[bare, with_s]| [with_s, bare])
                .collect(),
            names: (0..N_NAMES)
                .map(|i| mint.one(1 + usize::from(i >= 100) + usize::from(i >= 1500), &NAME_ENDINGS))
                .collect(),
            places: (0..N_PLACES).map(|i| mint.one(1 + usize::from(i >= 300), &PLACE_ENDINGS)).collect(),
            manners: (0..N_MANNERS).map(|i| mint.one(1 + usize::from(i >= 60), &[("ly", "L IY")])).collect(),
            patterns: (0..N_PATTERNS)
                .map(|i| mint.one(1 + usize::from(i >= 60), &[("ed", "IH D"), ("y", "IY")]))
                .collect(),
        }
    })
}

const NAME_ENDINGS: [(&str, &str); 8] = [
    ("a", "AX"),
    ("o", "OW"),
    ("is", "IH S"),
    ("en", "AX N"),
    ("ra", "R AX"),
    ("mir", "M IH R"),
    ("na", "N AX"),
    ("us", "AX S"),
];
const PLACE_ENDINGS: [(&str, &str); 8] = [
    ("ia", "IY AX"),
    ("ford", "F ER D"),
    ("dale", "D EY L"),
    ("holm", "HH OW M"),
    ("mar", "M AA R"),
    ("stead", "S T EH D"),
    ("ton", "T AX N"),
    ("vale", "V EY L"),
];

/// Coins words of which no two are spelled alike.
struct Mint {
    stream: Stream,
    taken: BTreeSet<String>,
}

impl Mint {
    /// A word whose spelling, and that of the other form if there is one, is new.
    fn coin(&mut self, n_syllables: usize, endings: &[(&'static str, &'static str)], forms: usize) -> [Coined; 2] {
        loop {
            let word = coin(&mut self.stream, n_syllables, endings);
            let other = with_s(&word);
            let is_new = |word: &Coined| !self.taken.contains(&word.spelling) && !is_english(&word.spelling);
            if is_new(&word) && (forms == 1 || is_new(&other)) && word.spelling.len() > 2 {
                self.taken.insert(word.spelling.clone());
                if forms == 2 {
                    self.taken.insert(other.spelling.clone());
                }
                return [word, other];
            }
        }
    }

    fn one(&mut self, n_syllables: usize, endings: &[(&'static str, &'static str)]) -> Word {
        let [word, _] = self.coin(n_syllables, endings, 1);
        keep(word)
    }

    fn two(&mut self, n_syllables: usize, endings: &[(&'static str, &'static str)]) -> [Word; 2] {
        self.coin(n_syllables, endings, 2).map(keep)
    }
}

/// The words live as long as the program: there is one set of them.
fn keep(word: Coined) -> Word {
    Word { text: word.spelling.leak(), phonemes: word.phonemes.leak(), role: Role::Content }
}

/// Draws a rank below `n` by Zipf's law with an offset: the chance of rank k falls as 1 / (k + 8).
///
/// The inverse of its integral, so that nothing has to be kept.
pub(super) fn zipf(stream: &mut Stream, n: usize) -> usize {
    const OFFSET: f64 = 8.0;
    let ratio = (n as f64 + OFFSET) / OFFSET;
    let rank = OFFSET * ratio.powf(stream.unit()) - OFFSET;
    (rank as usize).min(n - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_as_many_as_they_should_be_and_all_different() {
        let words = words();
        let pairs = words.nouns.iter().chain(&words.verbs).flatten();
        let ones = words.names.iter().chain(&words.places).chain(&words.manners).chain(&words.patterns);
        let spellings: BTreeSet<&str> = pairs.chain(ones).map(|word| word.text).collect();
        let n = 2 * (N_NOUNS + N_VERBS) + N_NAMES + N_PLACES + N_MANNERS + N_PATTERNS;
        assert_eq!(spellings.len(), n);
    }

    #[test]
    fn zipf_draws_every_rank_and_the_first_ones_most() {
        let mut stream = Stream::new(1, Domain::Scene, 0, 0);
        let mut counts = [0; 100];
        (0..100_000).for_each(|_| counts[zipf(&mut stream, 100)] += 1);
        assert!(counts.iter().all(|&count| count > 200), "{counts:?}");
        // 1/8.5 against 1/58.5.
        let ratio = f64::from(counts[0]) / f64::from(counts[50]);
        assert!((5.5..9.0).contains(&ratio), "{ratio}");
    }
}
