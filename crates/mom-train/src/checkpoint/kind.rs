//! What there is of each parameter.

/// What there is an array of for each parameter, in the order of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Weights,
    First,
    Second,
    /// Averages of the weights, where the run has them.
    Ema,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Weights, Self::First, Self::Second, Self::Ema];

    /// As ranks name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Weights => "weights",
            Self::First => "first",
            Self::Second => "second",
            Self::Ema => "ema",
        }
    }
}
