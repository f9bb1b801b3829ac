//! The rule that splits: by a hash, so that no sample changes sides when others come or go.

use crate::readers::Sample;
use crate::rng;

/// Decides the split of a sample: a hash of its group, or of its key.
pub(crate) fn hash_of(sample: &Sample) -> u64 {
    rng::stable_hash(sample.group.as_deref().unwrap_or(&sample.key).as_bytes())
}

/// The first hash that is not held out, where a fraction of all is.
pub(crate) fn hash_bound(held_out: f64) -> u64 {
    // 53 bits of the hash are compared, as many as the fraction has.
    let bound = (held_out * (1u64 << 53) as f64).ceil().clamp(0.0, (1u64 << 53) as f64) as u64;
    bound.saturating_mul(1 << 11)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_split_is_frozen_and_has_its_fraction() {
        let held = |i: i32, fraction: f64| rng::stable_hash(format!("{i:08}").as_bytes()) < hash_bound(fraction);
        let n = (0..12_000).filter(|&i| held(i, 1.0 / 12.0)).count();
        assert!((900..1100).contains(&n), "{n}");
        assert!(!(0..1000).any(|i| held(i, 0.0)));
        let first: Vec<i32> = (0..60).filter(|&i| held(i, 1.0 / 12.0)).collect();
        assert_eq!(first, [0, 3, 4, 6, 14, 26, 51], "as it was before there were sources");
    }
}
