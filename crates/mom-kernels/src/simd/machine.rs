//! The vectors of this machine.

use pulp::Simd;

use super::element::Element;
use super::functions::{sigmoid, softplus};

/// Runs `op` with the widest vectors of this machine.
#[inline]
pub(crate) fn dispatch<Op: pulp::WithSimd>(op: Op) -> Op::Output {
    pulp::Arch::new().dispatch(op)
}

/// Applies one of the vector functions to every element in place: what the accuracy tests and benches call.
#[doc(hidden)]
pub fn apply<T: Element>(function: Function, x: &mut [T]) {
    struct Apply<'a, T>(Function, &'a mut [T]);
    impl<T: Element> pulp::WithSimd for Apply<'_, T> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, s: S) {
            for x in self.1.chunks_mut(T::lanes::<S>()) {
                let v = T::load(s, x);
                let y = match self.0 {
                    Function::Exp => T::exp(s, v),
                    Function::Exp2 => T::exp2(s, v),
                    Function::Sigmoid => sigmoid::<T, S>(s, v),
                    Function::Softplus => softplus::<T, S>(s, v).0,
                };
                T::store(s, x, y);
            }
        }
    }
    dispatch(Apply(function, x));
}

/// The functions that [`apply`] knows.
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
pub enum Function {
    Exp,
    Exp2,
    Sigmoid,
    Softplus,
}

/// Name of the vector instructions in use: `scalar`, `avx2` or `avx512` on x86-64, `neon` on aarch64.
pub fn instruction_set() -> &'static str {
    struct Width;
    impl pulp::WithSimd for Width {
        type Output = usize;
        fn with_simd<S: Simd>(self, _: S) -> usize {
            S::F32_LANES
        }
    }
    match dispatch(Width) {
        16 => "avx512",
        8 => "avx2",
        4 if cfg!(target_arch = "aarch64") => "neon",
        4 => "simd128",
        _ => "scalar",
    }
}
