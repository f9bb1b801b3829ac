//! Sums over the lanes of many vectors at once.

use pulp::Simd;

use super::element::Element;

/// Most lanes that a vector has.
pub(crate) const MAX_LANES: usize = 16;

/// Levels of [`sum_lanes`] at the most: log2 of [`MAX_LANES`].
const MAX_LEVELS: usize = 4;

/// Which lanes have bit 0, 1, 2 and 3 set in their number: 1 there, else 0.
#[inline(always)]
pub(crate) fn lane_bits<T: Element, S: Simd>(s: S) -> [T::V<S>; MAX_LEVELS] {
    let mut bits = [T::splat(s, T::ZERO); MAX_LEVELS];
    for (level, bit) in bits.iter_mut().enumerate() {
        let mut lanes = [T::ZERO; MAX_LANES];
        for (lane, x) in lanes.iter_mut().enumerate() {
            *x = if lane >> level & 1 == 1 { T::ONE } else { T::ZERO };
        }
        *bit = T::load(s, &lanes);
    }
    bits
}

/// Sums as many vectors as a vector has lanes over their lanes: lane k of the result is the sum of `vectors[k]`.
///
/// Two vectors become one at each level. One takes the lanes whose bit is clear and the other those whose bit is set;
/// what they leave, turned by that bit's distance, lies where it is to be added. That is 4 operations for a sum instead
/// of the 10 of a vector's own. `vectors` is overwritten.
#[inline(always)]
pub(crate) fn sum_lanes<T: Element, S: Simd>(s: S, bits: &[T::V<S>; MAX_LEVELS], vectors: &mut [T::V<S>]) -> T::V<S> {
    let lanes = T::lanes::<S>();
    assert!(vectors.len() == lanes);
    let half = T::splat(s, T::from_f64(0.5));
    for level in 0..MAX_LEVELS {
        let distance = 1 << level;
        for k in 0..lanes / (2 * distance) {
            let (a, b) = (vectors[2 * k], vectors[2 * k + 1]);
            let stay = T::select_less(s, bits[level], half, a, b);
            let turn = T::select_less(s, bits[level], half, b, a);
            vectors[k] = T::vadd(s, stay, T::rotate_left(s, turn, distance));
        }
    }
    vectors[0]
}
