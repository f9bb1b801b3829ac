//! Which kernel convolves, and how it cuts time.

use super::args::{GROUP, MAX_STRETCH};
use crate::ops::causal_conv1d::params::Dims;
use crate::runtime::{Card, Dtype};

/// Fewest positions of a stretch whose length is chosen.
const MIN_STRETCH: usize = 32;

/// What a stretch costs beside its positions: three rows that are read again, taps, and the first rows' way from memory.
const ENTRY: usize = 8;

/// What a kernel of the forward pass may take for granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Assume {
    /// Nothing.
    Nothing,
    /// Vectors of channels are whole and lie on their size.
    Aligned,
    /// And there are four taps, sequences of whole groups, and no state before them or behind.
    Stateless,
}

pub(super) fn forward(dtype: Dtype, assume: Assume) -> String {
    let suffix = match assume {
        Assume::Nothing => "",
        Assume::Aligned => "_aligned",
        Assume::Stateless => "_stateless",
    };
    format!("causal_conv1d_forward_{}{suffix}", dtype.name())
}

/// Positions of a stretch such that `kernel`'s blocks fill the card in whole rounds: a last round that is not full costs as
/// much as a full one.
pub(super) fn stretch(card: &Card, kernel: &str, dims: &Dims) -> usize {
    let resident = card.resident_blocks(kernel).max(1);
    let rounds = |length: &usize| dims.n_blocks(*length).div_ceil(resident) * (length + ENTRY);
    let most = dims.seqlen.next_multiple_of(GROUP).clamp(MIN_STRETCH, MAX_STRETCH);
    (MIN_STRETCH..=most).step_by(GROUP).min_by_key(rounds).unwrap_or(MIN_STRETCH)
}

/// `consumes`: the gradient of x lies over x, or the output is asked for once more.
pub(super) fn backward(dtype: Dtype, aligned: bool, consumes: bool) -> String {
    match (aligned, consumes) {
        (true, false) => format!("causal_conv1d_backward_{}_aligned", dtype.name()),
        (true, true) => format!("causal_conv1d_consume_{}_aligned", dtype.name()),
        (false, _) => format!("causal_conv1d_consume_{}", dtype.name()),
    }
}

/// What brings the gradients at the ends of stretches to their rows, where they lie over x.
pub(super) fn edges(dtype: Dtype, aligned: bool) -> String {
    format!("causal_conv1d_edges_{}{}", dtype.name(), if aligned { "_aligned" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretch_fills_the_card_in_whole_rounds() {
        let card = Card::known((9, 0), 132).unwrap();
        let kernel = forward(Dtype::Bf16, Assume::Stateless);
        assert_eq!(card.resident_blocks(&kernel), 7 * 132);
        for (batch, seqlen, d_inner) in
            [(8, 4096, 1536), (4, 4096, 4096), (1, 65_536, 1536), (64, 1024, 1536), (1, 4, 8)]
        {
            let dims = Dims { batch, seqlen, d_inner, d_conv: 4 };
            let length = stretch(&card, &kernel, &dims);
            assert!(length.is_multiple_of(GROUP) && length <= MAX_STRETCH);
            let rounds = dims.n_blocks(length) as f64 / card.resident_blocks(&kernel) as f64;
            assert!(rounds < 1.0 || rounds.ceil() / rounds < 1.08, "{batch} {seqlen} {d_inner}: {length}, {rounds}");
        }
    }

    #[test]
    fn every_card_has_every_kernel() {
        for card in Card::capabilities().filter_map(|of| Card::known(of, 100)) {
            for dtype in [Dtype::Bf16, Dtype::F16, Dtype::F32] {
                for assume in [Assume::Nothing, Assume::Aligned, Assume::Stateless] {
                    assert!(card.has(&forward(dtype, assume)), "{dtype:?} {assume:?}");
                }
                for (aligned, consumes) in [(false, false), (false, true), (true, false), (true, true)] {
                    assert!(card.has(&backward(dtype, aligned, consumes)) && card.has(&edges(dtype, aligned)));
                }
            }
        }
    }
}
