//! Which sequences of a step are a rank's.
//!
//! A step is made of `accumulate` batches of `batch` sequences. Its sequences, in their order, are cut into as many equal stretches as there
//! are ranks, and a stretch into *pieces*, none of which reaches over the end of a batch: they are as long as that allows. So one rank
//! has whole batches wherever their number divides, and a single batch is shared where it does not.

use std::ops::Range;

use crate::Result;
use crate::error::require;

/// Some sequences of one of a step's batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Which of the step's batches.
    pub batch: usize,
    /// Which of its sequences.
    pub sequences: Range<usize>,
}

/// What a rank has of every step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pieces {
    /// Batches of a step.
    pub n_batches: usize,
    /// Sequences of a batch.
    pub batch: usize,
    pub own: Vec<Piece>,
}

impl Pieces {
    /// Those of a rank of `size`.
    ///
    /// # Errors
    /// A step whose sequences cannot be shared out evenly.
    pub fn of(rank: usize, size: usize, batch: usize, accumulate: usize) -> Result<Self> {
        let all = batch * accumulate;
        let expected = format!(
            "so many that {size} ranks have equal shares of data.batch * train.accumulate sequences, {batch} * {accumulate}"
        );
        require(all.is_multiple_of(size), "data.batch", &expected, batch)?;
        let of_rank = all / size;
        let len = divisor(of_rank, batch);
        let own = (0..of_rank / len).map(|i| {
            let first = rank * of_rank + i * len;
            Piece { batch: first / batch, sequences: first % batch..first % batch + len }
        });
        Ok(Self { n_batches: accumulate, batch, own: own.collect() })
    }
}

/// The greatest common divisor.
fn divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sequence_is_one_ranks_and_pieces_are_as_long_as_can_be() {
        for (batch, accumulate, size, len) in [
            (8, 1, 1, 8),
            (8, 4, 4, 8),
            (8, 8, 4, 8),
            (8, 1, 4, 2),
            (8, 3, 4, 2),
            (4, 3, 6, 2),
            (3, 8, 8, 3),
            (6, 1, 3, 2),
        ] {
            let mut seen = Vec::new();
            for rank in 0..size {
                let pieces = Pieces::of(rank, size, batch, accumulate).unwrap();
                for piece in &pieces.own {
                    assert!(
                        piece.sequences.len() == len && piece.sequences.end <= batch,
                        "{batch} * {accumulate} over {size}"
                    );
                    seen.extend(piece.sequences.clone().map(|sequence| piece.batch * batch + sequence));
                }
            }
            assert_eq!(seen, (0..batch * accumulate).collect::<Vec<_>>(), "in their order");
        }
        let message = Pieces::of(0, 3, 8, 1).unwrap_err().to_string();
        assert!(
            message.contains("data.batch") && message.contains("3 ranks") && message.contains("8 * 1"),
            "{message}"
        );
    }
}
