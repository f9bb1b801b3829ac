//! The scan, forward and backward, against what its bytes or its arithmetic cost at the least.
#![allow(missing_docs, clippy::unwrap_used)]

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use mom_benches::floors::{Rates, Work};
use mom_benches::shape::{BATCH, D_INNER, D_STATE, N_MODALITIES, N_ROWS, SEQLEN};
use mom_benches::{best_secs, report, spans, values};
use mom_kernels::selective_scan::{
    DtBias, ScanGrads, ScanInputs, ScanOutputGrads, ScanOutputs, backward, forward, saved_states_len,
};
use mom_kernels::{Rows, RowsMut};

const WIDE: usize = N_ROWS * D_INNER;
const STATES: usize = WIDE * D_STATE;

/// u, dt, z, B, C in; out and the saved states out. For each state: the decay's exponent, its power, the product that
/// comes in, the state, the output. For each element: softplus and gate.
fn forward_work() -> Work {
    let saved = saved_states_len(BATCH, SEQLEN, D_INNER, D_STATE);
    Work { bytes: 4 * (4 * WIDE + 2 * N_ROWS * D_STATE + saved), fmas: 4 * STATES + 8 * WIDE, exps: STATES + 2 * WIDE }
}

/// u, dt, z, grad_out, B, C and the saved states in; grad_u, grad_dt, grad_z, out, grad_B, grad_C out. For each state
/// the forward step once more, then lambda, its way back, e, and the sums for A, B (2), C (2), delta and delta u.
fn backward_work() -> Work {
    let saved = saved_states_len(BATCH, SEQLEN, D_INNER, D_STATE);
    Work {
        bytes: 4 * (8 * WIDE + 4 * N_ROWS * D_STATE + saved),
        fmas: (4 + 10) * STATES + 16 * WIDE,
        exps: STATES + 2 * WIDE,
    }
}

fn bench(c: &mut Criterion) {
    let plan = spans(BATCH, SEQLEN, N_MODALITIES).unwrap();
    let wide = |seed| values(seed, WIDE, 0.0, 1.0);
    let (u, dt, z, g) = (wide(1), wide(2), wide(3), wide(4));
    let bc = values(5, N_ROWS * 2 * D_STATE, 0.0, 1.0);
    let bias = values(6, N_MODALITIES * D_INNER, -4.5, 2.0);
    let a: Vec<f32> = (0..D_INNER * D_STATE).map(|i| -((i % D_STATE + 1) as f32)).collect();
    let d_skip = vec![1.0; D_INNER];
    let rows = |x| Rows::new("x", x, D_INNER).unwrap();
    let bc = Rows::new("bc", &bc, 2 * D_STATE).unwrap();
    let inputs = ScanInputs::new(
        plan.layout(),
        rows(&u),
        rows(&dt),
        &a,
        bc.columns(0, D_STATE).unwrap(),
        bc.columns(D_STATE, D_STATE).unwrap(),
    )
    .with_dt_bias(DtBias::new(&bias, plan.modality_offsets()))
    .with_d_skip(&d_skip[..])
    .with_z(rows(&z));
    let mut out = vec![0.0; WIDE];
    let mut saved = vec![0.0; saved_states_len(BATCH, SEQLEN, D_INNER, D_STATE)];
    let mut run_forward = || {
        let out = RowsMut::new("out", &mut out, D_INNER).unwrap();
        forward(&inputs, ScanOutputs::new(out).with_saved_states(&mut saved[..])).unwrap();
    };
    run_forward();
    let states = saved_copy(&inputs);
    let [mut grad_u, mut grad_dt, mut grad_z, mut again] = [0; 4].map(|_| vec![0.0; WIDE]);
    let mut grad_bc = vec![0.0; N_ROWS * 2 * D_STATE];
    let (mut grad_bias, mut grad_a, mut grad_d) = (vec![0.0; bias.len()], vec![0.0; a.len()], vec![0.0; D_INNER]);
    let mut run_backward = || {
        let (grad_b, grad_c) =
            RowsMut::new("grad_bc", &mut grad_bc, 2 * D_STATE).unwrap().split_columns(D_STATE).unwrap();
        let grads = ScanGrads::new(
            RowsMut::new("grad_u", &mut grad_u, D_INNER).unwrap(),
            RowsMut::new("grad_dt", &mut grad_dt, D_INNER).unwrap(),
            &mut grad_a,
            grad_b,
            grad_c,
        )
        .with_grad_dt_bias(&mut grad_bias[..])
        .with_grad_d_skip(&mut grad_d[..])
        .with_grad_z(RowsMut::new("grad_z", &mut grad_z, D_INNER).unwrap())
        .with_out(RowsMut::new("out", &mut again, D_INNER).unwrap());
        backward(&inputs, &states, &ScanOutputGrads::new(rows(&g)), grads).unwrap();
    };

    let rates = Rates::measure();
    let [fwd, bwd] = best_secs(Duration::from_secs(2), [&mut run_forward, &mut run_backward]);
    report("scan forward", fwd, "floor", rates.floor_secs("scan forward", forward_work()), 3.0);
    report("scan backward", bwd, "floor", rates.floor_secs("scan backward", backward_work()), 3.0);
    c.bench_function("selective_scan/forward", |b| b.iter(&mut run_forward));
    c.bench_function("selective_scan/backward", |b| b.iter(&mut run_backward));
}

fn saved_copy(inputs: &ScanInputs<'_, f32>) -> Vec<f32> {
    let mut out = vec![0.0; WIDE];
    let mut saved = vec![0.0; saved_states_len(BATCH, SEQLEN, D_INNER, D_STATE)];
    let out = RowsMut::new("out", &mut out, D_INNER).unwrap();
    forward(inputs, ScanOutputs::new(out).with_saved_states(&mut saved[..])).unwrap();
    saved
}

criterion_group!(benches, bench);
criterion_main!(benches);
