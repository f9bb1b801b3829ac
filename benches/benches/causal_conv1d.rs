//! The causal convolution with its SiLU, forward and backward, against what its bytes or its arithmetic cost.
#![allow(missing_docs, clippy::unwrap_used)]

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use mom_benches::floors::{Rates, Work};
use mom_benches::shape::{BATCH, D_CONV, D_INNER, N_MODALITIES, N_ROWS, SEQLEN};
use mom_benches::{best_secs, report, spans, values};
use mom_kernels::causal_conv1d::{ConvGrads, ConvInputs, backward, forward};
use mom_kernels::{Rows, RowsMut};

const WIDE: usize = N_ROWS * D_INNER;

/// x in, out out; the taps, then SiLU.
const FORWARD: Work = Work { bytes: 4 * 2 * WIDE, fmas: (D_CONV + 3) * WIDE, exps: WIDE };

/// x and grad_out in, grad_x out; the taps once more, SiLU's derivative, the gradients of taps and inputs.
const BACKWARD: Work = Work { bytes: 4 * 3 * WIDE, fmas: (3 * D_CONV + 6) * WIDE, exps: WIDE };

fn bench(c: &mut Criterion) {
    let plan = spans(BATCH, SEQLEN, N_MODALITIES).unwrap();
    // As in the mixer: x is the left half of in_proj's output.
    let xz = values(1, 2 * WIDE, 0.0, 1.0);
    let g = values(2, WIDE, 0.0, 1.0);
    let (weight, bias) = (values(3, D_INNER * D_CONV, 0.0, 0.5), values(4, D_INNER, 0.0, 0.5));
    let inputs = ConvInputs::new(
        plan.layout(),
        Rows::new("xz", &xz, 2 * D_INNER).unwrap().columns(0, D_INNER).unwrap(),
        &weight,
    )
    .with_bias(&bias[..]);
    let mut out = vec![0.0; WIDE];
    let mut run_forward = || forward(&inputs, RowsMut::new("out", &mut out, D_INNER).unwrap(), None).unwrap();
    let mut grad_xz = vec![0.0; 2 * WIDE];
    let (mut grad_weight, mut grad_bias) = (vec![0.0; weight.len()], vec![0.0; bias.len()]);
    let mut run_backward = || {
        let (grad_x, _) = RowsMut::new("grad_xz", &mut grad_xz, 2 * D_INNER).unwrap().split_columns(D_INNER).unwrap();
        let grads = ConvGrads::new(grad_x, &mut grad_weight).with_grad_bias(&mut grad_bias[..]);
        backward(&inputs, Rows::new("g", &g, D_INNER).unwrap(), None, grads).unwrap();
    };
    let rates = Rates::measure();
    let [fwd, bwd] = best_secs(Duration::from_secs(1), [&mut run_forward, &mut run_backward]);
    report("conv forward", fwd, "floor", rates.floor_secs("conv forward", FORWARD), 3.0);
    report("conv backward", bwd, "floor", rates.floor_secs("conv backward", BACKWARD), 3.0);
    c.bench_function("causal_conv1d/forward", |b| b.iter(&mut run_forward));
    c.bench_function("causal_conv1d/backward", |b| b.iter(&mut run_backward));
}

criterion_group!(benches, bench);
criterion_main!(benches);
