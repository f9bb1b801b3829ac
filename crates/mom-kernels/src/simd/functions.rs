//! Functions that are made of the operations.

use pulp::Simd;

use super::element::Element;

/// 1 / (1 + e^-x), with no overflow on either side.
#[inline(always)]
pub(crate) fn sigmoid<T: Element, S: Simd>(s: S, x: T::V<S>) -> T::V<S> {
    let zero = T::splat(s, T::ZERO);
    let one = T::splat(s, T::ONE);
    T::vdiv(s, one, T::vadd(s, one, T::exp(s, T::vsub(s, zero, x))))
}

/// log(1 + e^x) and its derivative sigmoid(x), which share the exponential.
#[inline(always)]
pub(crate) fn softplus<T: Element, S: Simd>(s: S, x: T::V<S>) -> (T::V<S>, T::V<S>) {
    let zero = T::splat(s, T::ZERO);
    let one = T::splat(s, T::ONE);
    let minus = T::vsub(s, zero, x);
    let minus_abs = T::select_less(s, minus, x, minus, x);
    let e = T::exp(s, minus_abs);
    // x where x > 0, else 0; a NaN falls through to x.
    let relu = T::select_less(s, x, zero, zero, x);
    let value = T::vadd(s, relu, T::log1p_unit(s, e));
    let inverse = T::vdiv(s, one, T::vadd(s, one, e));
    let derivative = T::select_less(s, x, zero, T::vmul(s, e, inverse), inverse);
    (value, derivative)
}

/// x sigmoid(x) and its derivative.
#[inline(always)]
pub(crate) fn silu<T: Element, S: Simd>(s: S, x: T::V<S>) -> (T::V<S>, T::V<S>) {
    let sig = sigmoid::<T, S>(s, x);
    let value = T::vmul(s, x, sig);
    // sig + x sig (1 - sig)
    let derivative = T::mul_add(s, value, T::vsub(s, T::splat(s, T::ONE), sig), sig);
    (value, derivative)
}
