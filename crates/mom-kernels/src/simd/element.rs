//! One name for the vector operations of both element types.

use pulp::Simd;

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

/// A floating-point element of the CPU kernels: `f32` or `f64`.
///
/// The hidden methods are vector operations under one name for both types; they are called from the kernels alone.
pub trait Element:
    sealed::Sealed
    + Copy
    + Send
    + Sync
    + PartialEq
    + PartialOrd
    + std::fmt::Debug
    + std::fmt::Display
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::Div<Output = Self>
    + std::ops::Neg<Output = Self>
    + std::ops::AddAssign
    + std::ops::MulAssign
    + std::iter::Sum
    + 'static
{
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// log2(e).
    const LOG2_E: Self;
    /// Name as in Rust.
    const NAME: &'static str;
    /// Nearest value to an `f64`.
    fn from_f64(value: f64) -> Self;
    /// Exact for both types.
    fn to_f64(self) -> f64;
    /// Square root.
    fn sqrt(self) -> Self;

    #[doc(hidden)]
    type V<S: Simd>: Copy;
    #[doc(hidden)]
    fn lanes<S: Simd>() -> usize;
    #[doc(hidden)]
    fn splat<S: Simd>(s: S, x: Self) -> Self::V<S>;
    /// Loads `min(len, lanes)` elements, zeros behind them.
    #[doc(hidden)]
    fn load<S: Simd>(s: S, x: &[Self]) -> Self::V<S>;
    /// Stores `min(len, lanes)` elements.
    #[doc(hidden)]
    fn store<S: Simd>(s: S, to: &mut [Self], x: Self::V<S>);
    #[doc(hidden)]
    fn vadd<S: Simd>(s: S, a: Self::V<S>, b: Self::V<S>) -> Self::V<S>;
    #[doc(hidden)]
    fn vsub<S: Simd>(s: S, a: Self::V<S>, b: Self::V<S>) -> Self::V<S>;
    #[doc(hidden)]
    fn vmul<S: Simd>(s: S, a: Self::V<S>, b: Self::V<S>) -> Self::V<S>;
    #[doc(hidden)]
    fn vdiv<S: Simd>(s: S, a: Self::V<S>, b: Self::V<S>) -> Self::V<S>;
    /// a * b + c, fused where the machine can.
    #[doc(hidden)]
    fn mul_add<S: Simd>(s: S, a: Self::V<S>, b: Self::V<S>, c: Self::V<S>) -> Self::V<S>;
    /// `if_less` where a < b, else `otherwise` (also for NaN).
    #[doc(hidden)]
    fn select_less<S: Simd>(
        s: S,
        a: Self::V<S>,
        b: Self::V<S>,
        if_less: Self::V<S>,
        otherwise: Self::V<S>,
    ) -> Self::V<S>;
    #[doc(hidden)]
    fn vsum<S: Simd>(s: S, a: Self::V<S>) -> Self;
    /// Lane k is lane k + distance of `a`, around the end.
    #[doc(hidden)]
    fn rotate_left<S: Simd>(s: S, a: Self::V<S>, distance: usize) -> Self::V<S>;
    /// 2^x.
    #[doc(hidden)]
    fn exp2<S: Simd>(s: S, x: Self::V<S>) -> Self::V<S>;
    /// e^x.
    #[doc(hidden)]
    fn exp<S: Simd>(s: S, x: Self::V<S>) -> Self::V<S>;
    /// x between min and max; NaN stays.
    #[doc(hidden)]
    fn vclamp<S: Simd>(s: S, x: Self::V<S>, min: Self, max: Self) -> Self::V<S>;
    /// 2^(n + r), `shifted` being n + 1.5 * 2^mantissa.
    #[doc(hidden)]
    fn exp2_of_parts<S: Simd>(s: S, r: Self::V<S>, shifted: Self::V<S>) -> Self::V<S>;
    /// log(1 + e) for 0 <= e <= 1, by 2 atanh(e / (2 + e)).
    #[doc(hidden)]
    fn log1p_unit<S: Simd>(s: S, e: Self::V<S>) -> Self::V<S>;
}

/// 2^x - 1 = x P(x) on [-1/2, 1/2]; relative error of 1 + x P(x) 9.2e-8 (Lawson iteration, P(0) free, value 1 at 0).
#[allow(clippy::approx_constant)] // fitted, not ln 2
const EXP2_F32: [f32; 5] = [0.693_147, 0.240_222_42, 0.055_507_337, 0.009_671_513, 0.001_326_472_6];
/// Taylor: ln(2)^k / k!, k = 1..13; the first term left out is below 1e-17 on [-1/2, 1/2].
const EXP2_F64: [f64; 13] = [
    std::f64::consts::LN_2,
    0.240_226_506_959_100_72,
    0.055_504_108_664_821_58,
    0.009_618_129_107_628_477,
    0.001_333_355_814_642_844_3,
    0.000_154_035_303_933_816_1,
    1.525_273_380_405_984e-5,
    1.321_548_679_014_431e-6,
    1.017_808_600_923_97e-7,
    7.054_911_620_801_123e-9,
    4.445_538_271_870_811_6e-10,
    2.567_843_599_348_820_6e-11,
    1.369_148_885_390_412_8e-12,
];
/// atanh(r) = r (1 + r^2 Q(r^2)) for r^2 <= 1/9; error of the bracket 4.6e-9.
const ATANH_F32: [f32; 4] = [0.333_332_06, 0.200_108_5, 0.139_995_7, 0.140_122_31];
/// 1/3, 1/5, ..., the series itself; the first term left out is below 1e-18 at r^2 = 1/9.
const ATANH_F64: [f64; 17] = {
    let mut series = [0.0; 17];
    let mut k = 0;
    while k < 17 {
        series[k] = 1.0 / (2 * k + 3) as f64;
        k += 1;
    }
    series
};

macro_rules! element {
    ($t:ident, $vec:ident, $lanes:ident, $as_simd:ident, $as_mut_simd:ident, $partial_load:ident, $partial_store:ident,
     $splat:ident, $add:ident, $sub:ident, $mul:ident, $div:ident, $mul_add:ident, $less:ident, $select:ident, $sum:ident,
     $rotate:ident,
     $min:ident, $max:ident, $exp2_poly:ident, $atanh_poly:ident, $magic:expr, $power:ident, $exp2_min:expr, $exp2_max:expr, $log2e_lo:expr) => {
        impl Element for $t {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const LOG2_E: Self = std::$t::consts::LOG2_E;
            const NAME: &'static str = stringify!($t);

            #[inline(always)]
            fn from_f64(value: f64) -> Self {
                value as $t
            }
            #[inline(always)]
            fn to_f64(self) -> f64 {
                f64::from(self)
            }
            #[inline(always)]
            fn sqrt(self) -> Self {
                self.sqrt()
            }

            type V<S: Simd> = S::$vec;
            #[inline(always)]
            fn lanes<S: Simd>() -> usize {
                S::$lanes
            }
            #[inline(always)]
            fn splat<S: Simd>(s: S, x: Self) -> S::$vec {
                s.$splat(x)
            }
            #[inline(always)]
            fn load<S: Simd>(s: S, x: &[Self]) -> S::$vec {
                match S::$as_simd(x).0.first() {
                    Some(&whole) => whole,
                    None => s.$partial_load(x),
                }
            }
            #[inline(always)]
            fn store<S: Simd>(s: S, to: &mut [Self], x: S::$vec) {
                if to.len() >= S::$lanes {
                    S::$as_mut_simd(to).0[0] = x;
                } else {
                    s.$partial_store(to, x);
                }
            }
            #[inline(always)]
            fn vadd<S: Simd>(s: S, a: S::$vec, b: S::$vec) -> S::$vec {
                s.$add(a, b)
            }
            #[inline(always)]
            fn vsub<S: Simd>(s: S, a: S::$vec, b: S::$vec) -> S::$vec {
                s.$sub(a, b)
            }
            #[inline(always)]
            fn vmul<S: Simd>(s: S, a: S::$vec, b: S::$vec) -> S::$vec {
                s.$mul(a, b)
            }
            #[inline(always)]
            fn vdiv<S: Simd>(s: S, a: S::$vec, b: S::$vec) -> S::$vec {
                s.$div(a, b)
            }
            #[inline(always)]
            fn mul_add<S: Simd>(s: S, a: S::$vec, b: S::$vec, c: S::$vec) -> S::$vec {
                s.$mul_add(a, b, c)
            }
            #[inline(always)]
            fn select_less<S: Simd>(s: S, a: S::$vec, b: S::$vec, if_less: S::$vec, otherwise: S::$vec) -> S::$vec {
                s.$select(s.$less(a, b), if_less, otherwise)
            }
            #[inline(always)]
            fn vsum<S: Simd>(s: S, a: S::$vec) -> Self {
                s.$sum(a)
            }
            #[inline(always)]
            fn rotate_left<S: Simd>(s: S, a: S::$vec, distance: usize) -> S::$vec {
                s.$rotate(a, S::$lanes - distance)
            }

            #[inline(always)]
            fn exp2<S: Simd>(s: S, x: S::$vec) -> S::$vec {
                let x = Self::vclamp(s, x, $exp2_min, $exp2_max);
                // Adding 1.5 * 2^mantissa rounds x to an integer n that then stands in the low bits.
                let magic = s.$splat($magic);
                let shifted = s.$add(x, magic);
                let r = s.$sub(x, s.$sub(shifted, magic));
                Self::exp2_of_parts(s, r, shifted)
            }
            #[inline(always)]
            fn exp<S: Simd>(s: S, x: S::$vec) -> S::$vec {
                let x = Self::vclamp(s, x, $exp2_min * std::$t::consts::LN_2, $exp2_max * std::$t::consts::LN_2);
                // log2(e) in two parts keeps the reduced argument exact to the last bit.
                let (hi, lo, magic) = (s.$splat(Self::LOG2_E), s.$splat($log2e_lo), s.$splat($magic));
                let shifted = s.$mul_add(x, hi, magic);
                let n = s.$sub(shifted, magic);
                let r = s.$mul_add(x, lo, s.$mul_add(x, hi, s.$sub(s.$splat(0.0), n)));
                Self::exp2_of_parts(s, r, shifted)
            }
            #[inline(always)]
            fn vclamp<S: Simd>(s: S, x: S::$vec, min: Self, max: Self) -> S::$vec {
                let (min, max) = (s.$splat(min), s.$splat(max));
                if S::$lanes == 1 {
                    // The scalar minimum and maximum drop a NaN; comparisons keep it.
                    let x = Self::select_less(s, x, min, min, x);
                    Self::select_less(s, max, x, max, x)
                } else {
                    // The vector ones return their second operand where one is NaN (x86) or any NaN (Arm).
                    s.$min(max, s.$max(min, x))
                }
            }
            #[inline(always)]
            fn exp2_of_parts<S: Simd>(s: S, r: S::$vec, shifted: S::$vec) -> S::$vec {
                let mut p = s.$splat($exp2_poly[$exp2_poly.len() - 1]);
                for k in (0..$exp2_poly.len() - 1).rev() {
                    p = s.$mul_add(p, r, s.$splat($exp2_poly[k]));
                }
                s.$mul(s.$mul_add(p, r, s.$splat(1.0)), $power(s, shifted))
            }
            #[inline(always)]
            fn log1p_unit<S: Simd>(s: S, e: S::$vec) -> S::$vec {
                let r = s.$div(e, s.$add(s.$splat(2.0), e));
                let r2 = s.$mul(r, r);
                let mut q = s.$splat($atanh_poly[$atanh_poly.len() - 1]);
                for k in (0..$atanh_poly.len() - 1).rev() {
                    q = s.$mul_add(q, r2, s.$splat($atanh_poly[k]));
                }
                let twice = s.$add(r, r);
                s.$mul_add(s.$mul(twice, r2), q, twice)
            }
        }
    };
}

/// 2^n, n being the low bits of `shifted`: they move into the exponent field.
#[inline(always)]
fn power_f32<S: Simd>(s: S, shifted: S::f32s) -> S::f32s {
    let n = s.wrapping_dyn_shl_u32s(s.transmute_u32s_f32s(shifted), s.splat_u32s(23));
    s.transmute_f32s_u32s(s.add_u32s(n, s.splat_u32s(127 << 23)))
}

/// As [`power_f32`]. There is no portable 64-bit vector shift; the loop below is one once it is compiled.
#[inline(always)]
fn power_f64<S: Simd>(_s: S, mut shifted: S::f64s) -> S::f64s {
    let bits: &mut [u64] = pulp::bytemuck::cast_slice_mut(std::slice::from_mut(&mut shifted));
    for n in bits {
        *n = (*n << 52).wrapping_add(1023 << 52);
    }
    shifted
}

element!(
    f32,
    f32s,
    F32_LANES,
    as_simd_f32s,
    as_mut_simd_f32s,
    partial_load_f32s,
    partial_store_f32s,
    splat_f32s,
    add_f32s,
    sub_f32s,
    mul_f32s,
    div_f32s,
    mul_add_f32s,
    less_than_f32s,
    select_f32s,
    reduce_sum_f32s,
    rotate_right_f32s,
    min_f32s,
    max_f32s,
    EXP2_F32,
    ATANH_F32,
    12_582_912.0,
    power_f32,
    -126.0,
    127.49,
    1.925_963e-8
);
element!(
    f64,
    f64s,
    F64_LANES,
    as_simd_f64s,
    as_mut_simd_f64s,
    partial_load_f64s,
    partial_store_f64s,
    splat_f64s,
    add_f64s,
    sub_f64s,
    mul_f64s,
    div_f64s,
    mul_add_f64s,
    less_than_f64s,
    select_f64s,
    reduce_sum_f64s,
    rotate_right_f64s,
    min_f64s,
    max_f64s,
    EXP2_F64,
    ATANH_F64,
    6_755_399_441_055_744.0,
    power_f64,
    -1022.0,
    1023.49,
    2.035_527_374_093_103_3e-17
);
