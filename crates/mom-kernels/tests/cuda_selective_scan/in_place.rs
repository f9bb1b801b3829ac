//! Gradients that are written over what they are made of are those that are written elsewhere.

use mom_kernels::cuda::Gpu;
use mom_kernels::cuda::half::{bf16, f16};

use crate::cuda_support::*;
use crate::scan::*;

/// Every kernel reads an element before it writes over it.
#[test]
fn in_place_is_apart() {
    let Some(gpu) = gpu("in_place_is_apart") else { return };
    let plain = Case { bias: false, gate_and_skip: false, ..FULL };
    let cases = [
        FULL,
        Case { batch: 4, d_inner: 4096, seqlen: 37, ..FULL }, // the grid of `wide`, on a card with 132 multiprocessors
        Case { softplus: false, ..FULL },
        plain,
        Case { d_inner: 33, ..FULL },
        Case { dt_rank: 3, ..FULL },
        Case { d_state: 32, seqlen: 33, ..FULL },
        Case { d_state: 64, seqlen: 17, ..plain },
        Case { batch: 1, seqlen: 1, ..FULL },
        Case { batch: 1, seqlen: 600, ..FULL }, // in chunks
    ];
    for (seed, case) in cases.into_iter().enumerate() {
        in_place::<bf16>(&gpu, case, 40 + seed as u64);
        in_place::<f16>(&gpu, case, 60 + seed as u64);
        in_place::<f32>(&gpu, case, 80 + seed as u64);
    }
}

fn in_place<T: TestElement>(gpu: &Gpu, case: Case, seed: u64) {
    let problem = Problem::new::<T>(case, seed);
    let apart = on_device::<T>(gpu, &problem, Places::Apart);
    assert!(apart.iter().flatten().all(|x| x.is_finite()), "{} {case:?}", T::DTYPE.name());
    // Each over its own input; as a block does, which needs u again; each elsewhere.
    for places in [[0, 1, 2, 3], [3, 1, 2, 0], [1, 2, 3, 0]] {
        let over = on_device::<T>(gpu, &problem, Places::Over(places));
        for (what, (apart, over)) in NAMES.iter().zip(apart.iter().zip(&over)) {
            let bits = |x: &[f64]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert!(bits(apart) == bits(over), "{} {case:?} over {places:?}: {what} differs", T::DTYPE.name());
        }
    }
}
