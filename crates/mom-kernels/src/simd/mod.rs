//! Vectors of `f32` and `f64` whose width is chosen at run time, and the functions the kernels need on them.
//!
//! Errors, over the whole finite range (tests/simd.rs measures them): `exp2` and `exp` 3e-7 relative in f32 and 1e-15 in
//! f64, and exactly 1 at 0; they saturate at 2^-126 and 2^127.49 (f32), 2^-1022 and 2^1023.49 (f64), where they would
//! leave the normal numbers. `softplus` and `sigmoid` 5e-7 and 3e-15. NaN goes in and comes out everywhere.
//!
//! Public are [`instruction_set`], which reports name beside their figures, and hidden ways in for the tests and benches of
//! the functions. [`Element`]'s hidden methods speak of `pulp`, whose version is no part of this crate's promises: nobody
//! else can implement the trait, and nobody else is to call them.

mod block;
mod element;
mod functions;
mod lanes;
mod machine;

pub(crate) use block::{
    Aligned, Block, VECTORS, add_vectors, block_channels, load_block, prefetch, splat_block, store_block,
};
pub use element::Element;
pub(crate) use functions::{silu, softplus};
pub(crate) use lanes::{MAX_LANES, lane_bits, sum_lanes};
pub(crate) use machine::dispatch;
pub use machine::instruction_set;
#[doc(hidden)]
pub use machine::{Function, apply};

#[cfg(test)]
mod tests {
    use std::marker::PhantomData;

    use pulp::Simd;

    use super::functions::sigmoid;
    use super::*;

    /// Runs on every instruction set of this machine, not the widest alone.
    fn everywhere<Op: pulp::WithSimd<Output = ()> + Copy>(op: Op) {
        Simd::vectorize(pulp::Scalar, op);
        #[cfg(target_arch = "x86_64")]
        {
            if let Some(s) = pulp::x86::V3::try_new() {
                Simd::vectorize(s, op);
            }
            if let Some(s) = pulp::x86::V4::try_new() {
                Simd::vectorize(s, op);
            }
        }
        #[cfg(target_arch = "aarch64")]
        if let Some(s) = pulp::aarch64::Neon::try_new() {
            Simd::vectorize(s, op);
        }
    }

    #[derive(Clone, Copy)]
    struct Sums<T>(PhantomData<T>);

    impl<T: Element> pulp::WithSimd for Sums<T> {
        type Output = ();
        fn with_simd<S: Simd>(self, s: S) {
            let lanes = T::lanes::<S>();
            let at = |k: usize, lane: usize| T::from_f64((100 * k + (lane * lane) % 7) as f64);
            let row = |k| (0..lanes).map(|lane| at(k, lane)).collect::<Vec<_>>();
            let mut vectors: Vec<_> = (0..lanes).map(|k| T::load(s, &row(k))).collect();
            let mut sums = [T::ZERO; MAX_LANES];
            let bits = lane_bits::<T, S>(s);
            T::store(s, &mut sums[..lanes], sum_lanes::<T, S>(s, &bits, &mut vectors));
            let want: Vec<T> = (0..lanes).map(|k| row(k).into_iter().sum()).collect();
            assert_eq!(sums[..lanes], want, "{lanes} lanes of {}", T::NAME);
        }
    }

    #[test]
    fn lanes_are_summed_on_every_instruction_set() {
        everywhere(Sums::<f32>(PhantomData));
        everywhere(Sums::<f64>(PhantomData));
    }

    #[derive(Clone, Copy)]
    struct Functions<T>(PhantomData<T>);

    impl<T: Element> pulp::WithSimd for Functions<T> {
        type Output = ();
        fn with_simd<S: Simd>(self, s: S) {
            let first = |v| {
                let mut to = [T::ZERO];
                T::store(s, &mut to, v);
                to[0].to_f64()
            };
            for x in [-80.0, -3.5, -1e-3, 0.0, 0.75, 2.0, 60.0] {
                let v = T::splat(s, T::from_f64(x));
                let x = T::from_f64(x).to_f64();
                let close =
                    |got: f64, want: f64| assert!((got - want).abs() <= 5e-7 * want.abs(), "{got} is not {want}");
                close(first(T::exp(s, v)), x.exp());
                close(first(T::exp2(s, v)), x.exp2());
                close(first(sigmoid::<T, S>(s, v)), 1.0 / (1.0 + (-x).exp()));
                close(first(softplus::<T, S>(s, v).0), x.max(0.0) + (-x.abs()).exp().ln_1p());
            }
            let nan = T::splat(s, T::from_f64(f64::NAN));
            let (value, derivative) = softplus::<T, S>(s, nan);
            for v in
                [T::exp(s, nan), T::exp2(s, nan), sigmoid::<T, S>(s, nan), value, derivative, silu::<T, S>(s, nan).0]
            {
                assert!(first(v).is_nan(), "NaN is swallowed");
            }
        }
    }

    #[test]
    fn functions_agree_and_keep_nan_on_every_instruction_set() {
        everywhere(Functions::<f32>(PhantomData));
        everywhere(Functions::<f64>(PhantomData));
    }
}
