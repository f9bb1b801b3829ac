//! Which kernel convolves.

use crate::runtime::Dtype;

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
    use crate::runtime::Card;

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
