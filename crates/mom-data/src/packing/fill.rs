//! Puts pieces together into sequences with little padding.
//!
//! A sequence begins with the longest piece that is left, since long ones are the hardest to place, and goes on with others
//! at random until a few dozen of average length would fill it. Which of the next candidates fill the rest best is then
//! computed exactly (a subset sum over positions, in bits). Best-fit decreasing, the usual way, does badly where all pieces
//! are about as long, as image-text pairs are: eleven long ones leave room that no twelfth fits in.

use super::item::Piece;
use crate::rng::Stream;

/// Candidates of the exact part.
const CANDIDATES: usize = 64;

/// Sequences of at most `seqlen` positions that hold all pieces, each once. `pieces` come in a random order.
pub(super) fn sequences(pieces: Vec<Piece>, seqlen: usize, stream: &mut Stream) -> Vec<Vec<Piece>> {
    let mut left = Pool::new(pieces);
    let mut sequences = Vec::new();
    let mut reach = Reach::default();
    while let Some(longest) = left.take_longest() {
        let mut room = seqlen - longest.len;
        let mut sequence = vec![longest];
        // At random, while even all candidates together could not fill what is left.
        while room > left.mean() * CANDIDATES / 2 {
            match left.take_random_within(room, stream) {
                Some(piece) => {
                    room -= piece.len;
                    sequence.push(piece);
                }
                None => break,
            }
        }
        let mut candidates = left.candidates(CANDIDATES, stream);
        // The earliest that fill best are taken: long ones, so that short ones are left for the end of the window.
        candidates.sort_by_key(|&at| std::cmp::Reverse(left.pieces[at].len));
        let lens: Vec<usize> = candidates.iter().map(|&at| left.pieces[at].len).collect();
        let chosen: Vec<usize> = reach.best(&lens, room).into_iter().map(|i| candidates[i]).collect();
        sequence.extend(left.take_all(chosen));
        // The longest one need not be the first that is read.
        stream.shuffle(&mut sequence);
        sequences.push(sequence);
    }
    sequences
}

/// Pieces that are left. The first `by_len` order is made once; what is taken is marked, and passed over later.
struct Pool {
    /// In random order; those that are taken are swapped to the end.
    pieces: Vec<Piece>,
    n_left: usize,
    /// Positions that are left.
    sum: usize,
    /// Identities by length, shortest first: the longest is the last that is not taken.
    by_len: Vec<usize>,
    /// Place of each identity in `pieces`; `usize::MAX` once taken.
    place: Vec<usize>,
    /// Identity of the piece at each place.
    identity: Vec<usize>,
}

impl Pool {
    fn new(pieces: Vec<Piece>) -> Self {
        let n = pieces.len();
        let mut by_len: Vec<usize> = (0..n).collect();
        by_len.sort_by_key(|&at| (pieces[at].len, at));
        let sum = pieces.iter().map(|piece| piece.len).sum();
        Self { pieces, n_left: n, sum, by_len, place: (0..n).collect(), identity: (0..n).collect() }
    }

    /// Length of a piece on average, at least 1.
    fn mean(&self) -> usize {
        (self.sum / self.n_left.max(1)).max(1)
    }

    fn take(&mut self, at: usize) -> Piece {
        let last = self.n_left - 1;
        self.pieces.swap(at, last);
        self.identity.swap(at, last);
        self.place[self.identity[at]] = at;
        self.place[self.identity[last]] = usize::MAX;
        self.n_left = last;
        self.sum -= self.pieces[last].len;
        self.pieces[last]
    }

    fn take_longest(&mut self) -> Option<Piece> {
        while let Some(&identity) = self.by_len.last() {
            self.by_len.pop();
            let place = self.place[identity];
            if place != usize::MAX {
                return Some(self.take(place));
            }
        }
        None
    }

    /// A piece at random; one that fits, of a few that are looked at.
    fn take_random_within(&mut self, room: usize, stream: &mut Stream) -> Option<Piece> {
        for _ in 0..8 {
            if self.n_left == 0 {
                return None;
            }
            let at = stream.below(self.n_left);
            if self.pieces[at].len <= room {
                return Some(self.take(at));
            }
        }
        None
    }

    /// Places of up to `n` pieces, different ones, at random.
    fn candidates(&self, n: usize, stream: &mut Stream) -> Vec<usize> {
        if self.n_left <= n {
            return (0..self.n_left).collect();
        }
        // A stretch of the pool, whose order is random: cheaper than n draws, and all different.
        let start = stream.below(self.n_left);
        (0..n).map(|i| (start + i) % self.n_left).collect()
    }

    /// Takes the pieces at these places.
    fn take_all(&mut self, mut places: Vec<usize>) -> Vec<Piece> {
        // From the back, so that no taking moves one that is still to be taken.
        places.sort_unstable_by(|a, b| b.cmp(a));
        places.into_iter().map(|at| self.take(at)).collect()
    }
}

/// Sums that can be reached, as bits, after each candidate.
#[derive(Default)]
struct Reach {
    rows: Vec<u64>,
}

impl Reach {
    /// Candidates whose lengths add up to the most that is not above `room`; the earliest ones that do.
    fn best(&mut self, lens: &[usize], room: usize) -> Vec<usize> {
        let words = room / 64 + 1;
        self.rows.clear();
        self.rows.resize(words * (lens.len() + 1), 0);
        self.rows[0] = 1;
        let mut n_rows = 1;
        for &len in lens {
            let (before, row) = self.rows.split_at_mut(n_rows * words);
            let before = &before[(n_rows - 1) * words..];
            let row = &mut row[..words];
            let (shift, bits) = (len / 64, len % 64);
            for at in 0..words {
                let low = at.checked_sub(shift).map_or(0, |from| before[from] << bits);
                let carry = match at.checked_sub(shift + 1) {
                    Some(from) if bits > 0 => before[from] >> (64 - bits),
                    _ => 0,
                };
                row[at] = before[at] | low | carry;
            }
            n_rows += 1;
            // Nothing is better than no padding.
            if bit(row, room) {
                break;
            }
        }
        let last = &self.rows[(n_rows - 1) * words..n_rows * words];
        let mut sum = (0..=room).rev().find(|&sum| bit(last, sum)).unwrap_or(0);
        let mut chosen = Vec::new();
        for candidate in (0..n_rows - 1).rev() {
            let before = &self.rows[candidate * words..(candidate + 1) * words];
            if !bit(before, sum) {
                chosen.push(candidate);
                sum -= lens[candidate];
            }
        }
        chosen
    }
}

fn bit(row: &[u64], at: usize) -> bool {
    row[at / 64] >> (at % 64) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Domain;

    fn padding(lens: &[usize], seqlen: usize) -> f64 {
        let mut stream = Stream::new(1, Domain::Packing, 0, 0);
        let pieces: Vec<Piece> = lens.iter().enumerate().map(|(item, &len)| Piece { item, offset: 0, len }).collect();
        let sequences = sequences(pieces, seqlen, &mut stream);
        let mut seen: Vec<usize> = sequences.iter().flatten().map(|piece| piece.item).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..lens.len()).collect::<Vec<_>>(), "each piece once");
        assert!(sequences.iter().all(|s| s.iter().map(|piece| piece.len).sum::<usize>() <= seqlen));
        1.0 - lens.iter().sum::<usize>() as f64 / (sequences.len() * seqlen) as f64
    }

    #[test]
    fn the_best_subset_is_found() {
        let mut reach = Reach::default();
        for (lens, room, expected) in [
            (&[5usize, 4, 3][..], 7, 7),
            (&[64, 128, 1], 192, 192),
            (&[10, 20, 30], 9, 0),
            (&[3, 3, 3], 8, 6),
            (&[], 5, 0),
            (&[7], 7, 7),
        ] {
            let chosen = reach.best(lens, room);
            assert_eq!(chosen.iter().map(|&i| lens[i]).sum::<usize>(), expected, "{lens:?} in {room}");
        }
    }

    #[test]
    fn pairs_of_an_image_and_a_caption_leave_little_padding() {
        // Captions of 60 tokens on average, 256 codes, two markers, begin-of-document.
        let mut stream = Stream::new(2, Domain::Packing, 0, 0);
        let lens: Vec<usize> = (0..8192).map(|_| 259 + 30 + stream.below(61)).collect();
        let share = padding(&lens, 4096);
        assert!(share < 0.03, "{share}");
    }

    #[test]
    fn texts_of_any_length_leave_little_padding() {
        let mut stream = Stream::new(3, Domain::Packing, 0, 0);
        let lens: Vec<usize> = (0..8192).map(|_| 1 + (4096.0 * stream.unit().powi(4)) as usize).collect();
        let share = padding(&lens, 4096);
        assert!(share < 0.02, "{share}");
        let short: Vec<usize> = (0..65_536).map(|_| 5 + stream.below(30)).collect();
        assert!(padding(&short, 4096) < 0.01);
        assert_eq!(padding(&[4096; 5], 4096), 0.0);
        assert_eq!(padding(&[1], 1), 0.0);
    }
}
