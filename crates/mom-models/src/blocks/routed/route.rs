//! Who chooses a token's expert.

/// Who chooses a token's expert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Route {
    /// A linear layer, trained with the rest.
    Learned,
    /// A hash of the token's position in its document.
    Hashed,
}

/// The expert of a position: each equally often, without a pattern that a model could use.
pub(super) fn hashed(position: usize, n_experts: usize) -> u8 {
    // SplitMix64's finaliser.
    let mut bits = (position as u64).wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((bits ^ (bits >> 31)) % n_experts.max(1) as u64) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn experts_have_equal_shares() {
        for n_experts in [2, 3, 8] {
            let mut counts = vec![0usize; n_experts];
            (0..30_000).for_each(|t| counts[usize::from(hashed(t, n_experts))] += 1);
            let mean = 30_000.0 / n_experts as f64;
            assert!(counts.iter().all(|&count| (count as f64 / mean - 1.0).abs() < 0.04), "{counts:?}");
        }
    }
}
