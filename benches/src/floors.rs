//! What the machine can do: copy bandwidth, fused multiply-adds and powers of two a second, with all threads at work.

use std::hint::black_box;
use std::time::Duration;

use mom_kernels::simd::{Function, apply, instruction_set};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::best_secs;

/// Rates of f32 operations, all of rayon's threads together.
#[derive(Debug, Clone, Copy)]
pub struct Rates {
    /// Bytes read plus bytes written by a copy that no cache holds.
    pub copy_bytes_per_sec: f64,
    /// Lanes of fused multiply-adds.
    pub fma_per_sec: f64,
    /// Lanes of this project's exp2, its argument in the first-level cache.
    pub exp2_per_sec: f64,
}

/// What a kernel cannot do without.
#[derive(Debug, Clone, Copy)]
pub struct Work {
    /// Bytes that must be read or written once.
    pub bytes: usize,
    /// Multiplications, additions or both at once.
    pub fmas: usize,
    /// Exponentials.
    pub exps: usize,
}

impl Rates {
    /// Measures them, in turns.
    pub fn measure() -> Self {
        const COPY_FLOATS: usize = 16 << 20;
        const CHUNK: usize = 1 << 16;
        const EXP_FLOATS: usize = 2048;
        const EXP_ROUNDS: usize = 500;
        const FMA_ROUNDS: usize = 200_000;
        let n_threads = rayon::current_num_threads();
        let from = vec![1.0f32; COPY_FLOATS];
        let mut to = vec![0.0f32; COPY_FLOATS];
        let mut copy = || {
            to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK)).for_each(|(to, from)| to.copy_from_slice(from));
            black_box(&mut to);
        };
        let mut fma = || {
            rayon::broadcast(|_| black_box(pulp::Arch::new().dispatch(Chains { n_rounds: FMA_ROUNDS })));
        };
        let mut exp2 = || {
            rayon::broadcast(|_| {
                let mut x = vec![0.25f32; EXP_FLOATS];
                for _ in 0..EXP_ROUNDS {
                    apply(Function::Exp2, black_box(&mut x));
                }
            });
        };
        let [copy, fma, exp2] = best_secs(Duration::from_millis(700), [&mut copy, &mut fma, &mut exp2]);
        let rates = Self {
            copy_bytes_per_sec: (2 * 4 * COPY_FLOATS) as f64 / copy,
            fma_per_sec: (n_threads * FMA_ROUNDS * CHAINS * lanes()) as f64 / fma,
            exp2_per_sec: (n_threads * EXP_ROUNDS * EXP_FLOATS) as f64 / exp2,
        };
        println!(
            "{n_threads} threads, {}: copy {:.1} GB/s, {:.1} G fma/s, {:.2} G exp2/s",
            instruction_set(),
            rates.copy_bytes_per_sec / 1e9,
            rates.fma_per_sec / 1e9,
            rates.exp2_per_sec / 1e9
        );
        rates
    }

    /// The time that no implementation of this work beats: its bytes or its arithmetic, whichever is more.
    pub fn floor_secs(&self, name: &str, work: Work) -> f64 {
        let bytes = work.bytes as f64 / self.copy_bytes_per_sec;
        let arithmetic = work.fmas as f64 / self.fma_per_sec + work.exps as f64 / self.exp2_per_sec;
        println!("{name} floor: bytes {:.3} ms, arithmetic {:.3} ms", bytes * 1e3, arithmetic * 1e3);
        bytes.max(arithmetic)
    }
}

/// Independent chains: enough to fill two pipes of latency four.
const CHAINS: usize = 12;

/// Fused multiply-adds in registers.
struct Chains {
    n_rounds: usize,
}

impl WithSimd for Chains {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) -> f32 {
        let (factor, term) = (s.splat_f32s(black_box(0.5)), s.splat_f32s(black_box(1.0)));
        let mut chains = [s.splat_f32s(1.0); CHAINS];
        for _ in 0..self.n_rounds {
            for chain in &mut chains {
                *chain = s.mul_add_f32s(*chain, factor, term);
            }
        }
        chains.into_iter().map(|chain| s.reduce_sum_f32s(chain)).sum()
    }
}

fn lanes() -> usize {
    struct Lanes;
    impl WithSimd for Lanes {
        type Output = usize;
        fn with_simd<S: Simd>(self, _: S) -> usize {
            S::F32_LANES
        }
    }
    pulp::Arch::new().dispatch(Lanes)
}
