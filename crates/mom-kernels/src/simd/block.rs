//! Blocks of channels, the unit of work of conv and scan.

use pulp::Simd;

use super::element::Element;
use super::machine::dispatch;

/// Vectors in a channel block: enough independent chains to hide the latency of a fused multiply-add.
pub(crate) const VECTORS: usize = 4;

/// On its own cache lines: pulp's vectors have the alignment of an element, and one that straddles two lines costs twice.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Aligned<X>(pub X);

impl<X> std::ops::Deref for Aligned<X> {
    type Target = X;
    #[inline(always)]
    fn deref(&self) -> &X {
        &self.0
    }
}

impl<X> std::ops::DerefMut for Aligned<X> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut X {
        &mut self.0
    }
}

/// The vectors of one channel block.
pub(crate) type Block<T, S> = Aligned<[<T as Element>::V<S>; VECTORS]>;

/// Channels in a block on this machine, the unit of parallel work of conv and scan.
pub(crate) fn block_channels<T: Element>() -> usize {
    struct Lanes<T>(std::marker::PhantomData<T>);
    impl<T: Element> pulp::WithSimd for Lanes<T> {
        type Output = usize;
        fn with_simd<S: Simd>(self, _: S) -> usize {
            T::lanes::<S>()
        }
    }
    VECTORS * dispatch(Lanes::<T>(std::marker::PhantomData))
}

#[inline(always)]
pub(crate) fn splat_block<T: Element, S: Simd>(s: S, x: T) -> Block<T, S> {
    Aligned([T::splat(s, x); VECTORS])
}

/// Asks for a part of a row before it is read. Rows lie farther apart than the hardware looks ahead.
#[inline(always)]
pub(crate) fn prefetch<T>(x: &[T]) {
    #[cfg(target_arch = "x86_64")]
    for line in x.chunks(64 / size_of::<T>()) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: SSE is part of x86-64, and a prefetch of any address is sound; this one is borrowed.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = x;
}

/// Loads up to a block of channels, zeros behind them.
#[inline(always)]
pub(crate) fn load_block<T: Element, S: Simd>(s: S, x: &[T]) -> Block<T, S> {
    let lanes = T::lanes::<S>();
    let mut block = splat_block::<T, S>(s, T::ZERO);
    if x.len() == VECTORS * lanes {
        for j in 0..VECTORS {
            block[j] = T::load(s, &x[j * lanes..(j + 1) * lanes]);
        }
    } else {
        for (j, part) in x.chunks(lanes).enumerate().take(VECTORS) {
            block[j] = T::load(s, part);
        }
    }
    block
}

/// Stores up to a block of channels.
#[inline(always)]
pub(crate) fn store_block<T: Element, S: Simd>(s: S, to: &mut [T], block: &Block<T, S>) {
    let lanes = T::lanes::<S>();
    if to.len() == VECTORS * lanes {
        for j in 0..VECTORS {
            T::store(s, &mut to[j * lanes..(j + 1) * lanes], block[j]);
        }
    } else {
        for (j, part) in to.chunks_mut(lanes).enumerate().take(VECTORS) {
            T::store(s, part, block[j]);
        }
    }
}

/// The vectors of a block added up: what is left to sum are its lanes.
#[inline(always)]
pub(crate) fn add_vectors<T: Element, S: Simd>(s: S, block: &Block<T, S>) -> T::V<S> {
    let mut total = block[0];
    for j in 1..VECTORS {
        total = T::vadd(s, total, block[j]);
    }
    total
}
