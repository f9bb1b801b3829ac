//! What layers are asked for.

/// Which keys a query sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::codecs) enum Heads {
    /// All.
    Full,
    /// Its own position and the `window - 1` before it.
    Causal {
        /// Positions that are seen, with one's own.
        window: usize,
    },
}

/// What is behind a norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::codecs) enum Activation {
    None,
    Silu,
    /// By the error function.
    Gelu,
}
