//! Sequences in chunks on the GPU: what a chunk leaves against the host's, and blocks over chunks against the whole. Ranks are threads
//! that share the device and ask each other by the host.
#![allow(clippy::unwrap_used)]

#[path = "cuda_support/mixer.rs"]
mod blocks;
mod common;
mod cuda_support;

use std::sync::Arc;

use blocks::*;
use common::mixer::{MixerCase, Sizes};
use common::ranks::ranks;
use common::scan::ScanCase;
use common::{Noise, Tokens, join_time};
use cuda_support::*;
use mom_kernels::cuda::half::{bf16, f16};
use mom_kernels::cuda::selective_scan::{self as device, Chunk, DtBias, Order, ScanInputs};
use mom_kernels::cuda::{DevicePlan, Dtype, Gpu};
use mom_kernels::mixer::Context;
use mom_kernels::{Rows, selective_scan};

/// Decays and ends of a chunk on the device, forward and backward, each `(batch, d_inner, d_state)`.
fn ends_on_device<T: TestElement>(gpu: &Gpu, case: &ScanCase<f64>, grad_out: &[f64]) -> [Vec<f64>; 4] {
    let (d_inner, d_state) = (case.d_inner, case.d_state);
    let plan = DevicePlan::upload(gpu, &case.plan).unwrap();
    let [u, dt, z, b, c] = ["u", "dt", "z", "b", "c"].map(|name| upload::<T>(gpu, &case.fields[name]));
    let [a, bias, d_skip] = ["a", "dt_bias", "d_skip"].map(|name| upload::<f32>(gpu, &case.fields[name]));
    let grad_out = upload::<T>(gpu, grad_out);
    let rows = |x, width| gpu.rows(x, width).unwrap();
    let inputs = ScanInputs::new(
        plan.layout(gpu),
        rows(&u, d_inner),
        rows(&dt, d_inner),
        gpu.read(&a),
        rows(&b, d_state),
        rows(&c, d_state),
    )
    .with_dt_bias(DtBias::new(gpu.read(&bias), plan.modality_offsets(gpu)))
    .with_d_skip(gpu.read(&d_skip))
    .with_z(rows(&z, d_inner));
    let of = Chunk { batch: case.tokens.batch, d_inner, d_state };
    let room = |len: usize| gpu.upload(&vec![f32::NAN; len.max(4)]).unwrap();
    let workspace_len = device::ends_workspace_len(of, case.tokens.seqlen);
    let (mut forward, mut backward) = (room(device::ends_len(of)), room(device::ends_len(of)));
    let mut workspace = room(workspace_len);
    let part = gpu.write(&mut workspace).first("workspace", workspace_len).unwrap();
    device::ends(gpu, &inputs, gpu.write(&mut forward), part).unwrap();
    let (mut workspace, grad_rows) = (room(workspace_len), rows(&grad_out, d_inner));
    let part = gpu.write(&mut workspace).first("workspace", workspace_len).unwrap();
    device::adjoint_ends(gpu, &inputs, &grad_rows, gpu.write(&mut backward), part).unwrap();
    let padded = device::ends_len(of) / (2 * of.batch * d_inner);
    let halves = |values: Vec<f64>| {
        let dense: Vec<f64> = values.chunks_exact(padded).flat_map(|states| states[..d_state].to_vec()).collect();
        let (decay, end) = dense.split_at(dense.len() / 2);
        [decay.to_vec(), end.to_vec()]
    };
    let [decay, end] = halves(download(gpu, &forward));
    let [adjoint_decay, adjoint] = halves(download(gpu, &backward));
    [decay, end, adjoint_decay, adjoint]
}

fn compare_ends<T: TestElement>(gpu: &Gpu, tokens: Tokens, d_inner: usize, d_state: usize) {
    let mut case = ScanCase::random(tokens, d_inner, d_state, 5).without(&["initial_state"]);
    for (name, values) in &mut case.fields {
        let wide = matches!(*name, "a" | "dt_bias" | "d_skip");
        *values = if wide { rounded::<f32>(values) } else { rounded::<T>(values) };
    }
    let grad_out = rounded::<T>(&Noise::new(6).values(case.tokens.n_rows() * d_inner, 0.0, 1.0));
    let got = ends_on_device::<T>(gpu, &case, &grad_out);
    let room = || vec![0.0; case.state_len()];
    let (mut decay, mut end, mut adjoint_decay, mut adjoint) = (room(), room(), room(), room());
    selective_scan::ends(&case.inputs(), &mut decay, &mut end).unwrap();
    let rows = Rows::new("grad_out", &grad_out, d_inner).unwrap();
    selective_scan::adjoint_ends(&case.inputs(), rows, &mut adjoint_decay, &mut adjoint).unwrap();
    let Tokens { batch, seqlen, .. } = case.tokens;
    let mut report = Report::new(format!("{} ends {batch} x {seqlen} x {d_inner} x {d_state}", T::DTYPE.name()));
    // Sums over time of what is computed in f32; 16-bit gates are approximate.
    let limit = if T::DTYPE == Dtype::F32 { 5e-5 } else { 5e-3 };
    for (what, (got, want)) in ["decay", "end", "adjoint decay", "adjoint"].into_iter().zip(got.iter().zip([
        &decay,
        &end,
        &adjoint_decay,
        &adjoint,
    ])) {
        let largest = want.iter().fold(0.0f64, |most, x| most.max(x.abs()));
        if largest < 1e-10 {
            assert!(got.iter().all(|x| x.abs() < 1e-9), "{what}: what has decayed is there");
        } else {
            report.within(what, got, want, limit);
        }
    }
    report.finish();
}

/// Uncut, and cut into chunks of their own of which the last is not whole; documents, or none; every number of states that there are kernels
/// for, off vectors and on them.
#[test]
fn what_a_chunk_leaves_agrees_with_the_host() {
    let Some(gpu) = gpu("what_a_chunk_leaves_agrees_with_the_host") else { return };
    for (batch, seqlen, d_inner, d_state) in [
        (2, 5, 64, 16),
        (1, 40, 37, 5),
        (2, 77, 40, 20),
        (1, 65, 24, 64),
        (1, 1000, 64, 16),
        (2, 2500, 128, 16),
        (1, 1333, 37, 9),
    ] {
        for documents in [false, true] {
            let tokens = Tokens::random(seqlen as u64, batch, seqlen, 3);
            let tokens = if documents { sparse(tokens) } else { tokens };
            compare_ends::<f32>(&gpu, tokens.clone(), d_inner, d_state);
            compare_ends::<bf16>(&gpu, tokens.clone(), d_inner, d_state);
            compare_ends::<f16>(&gpu, tokens, d_inner, d_state);
        }
    }
}

/// One document start, in the first sequence alone.
fn sparse(tokens: Tokens) -> Tokens {
    let at = tokens.seqlen * 2 / 3;
    Tokens { starts: Some((0..tokens.batch * tokens.seqlen).map(|position| position == at).collect()), ..tokens }
}

#[test]
fn a_state_goes_through_chunks_in_either_order() {
    let Some(gpu) = gpu("a_state_goes_through_chunks_in_either_order") else { return };
    let of = Chunk { batch: 2, d_inner: 5, d_state: 3 };
    let (len, padded) = (device::ends_len(of), 16);
    let values = rounded::<f32>(&Noise::new(1).values(4 * len, 0.5, 0.5));
    let all = upload::<f32>(&gpu, &values);
    for (chunks, order) in [(0..3, Order::FirstFirst), (1..4, Order::LastFirst), (2..2, Order::FirstFirst)] {
        let mut state = poisoned::<f32>(&gpu, of.batch * of.d_inner * of.d_state);
        device::carry(&gpu, &gpu.read(&all), of, chunks.clone(), order, gpu.write(&mut state)).unwrap();
        let mut indices: Vec<usize> = chunks.collect();
        if order == Order::LastFirst {
            indices.reverse();
        }
        let of_state = |i: usize| {
            let at = i / of.d_state * padded + i % of.d_state;
            indices.iter().fold(0.0, |state, chunk| {
                let chunk = &values[chunk * len..][..len];
                chunk[at] * state + chunk[len / 2 + at]
            })
        };
        let want: Vec<f64> = (0..of.batch * of.d_inner * of.d_state).map(of_state).collect();
        let mut report = Report::new("carry");
        report.within("state", &download(&gpu, &state), &want, 1e-6);
        report.finish();
    }
    let mut state = poisoned::<f32>(&gpu, of.batch * of.d_inner * of.d_state);
    let error = device::carry(&gpu, &gpu.read(&all), of, 2..5, Order::FirstFirst, gpu.write(&mut state)).unwrap_err();
    assert!(error.to_string().contains("chunks = 5"), "{error}");
}

/// Blocks over chunks against the whole block on the same device and on the host in f64.
fn compare_blocks<T: TestElement>(gpu: &Gpu, name: &str, case: MixerCase<f64>, lengths: &[usize]) {
    let (case, around) = seen_by_device::<T>(case);
    let d_model = case.sizes.d_model;
    let ends = lengths.iter().scan(0, |end, length| {
        *end += length;
        Some(*end - length..*end)
    });
    let ranges: Vec<_> = ends.collect();
    assert_eq!(ranges.last().unwrap().end, case.tokens.seqlen);
    let of_ranks = ranks(ranges.len(), |rank| {
        // A rank has the device, and its default stream, like all others.
        let gpu = cuda_support::gpu("a rank").unwrap();
        let range = ranges[rank.index()].clone();
        let part = case.time(range.clone());
        let grad_out = case.tokens.rows_of_time(&around.grad_out, d_model, range);
        let around = Around { norm: around.norm.clone(), grad_out };
        let mut results = in_context::<T>(&gpu, &part, &around, Some(Arc::new(rank)));
        for what in ["x", "out"] {
            let by_position = part.tokens.to_positions(&results[what], d_model);
            results.insert(what, by_position);
        }
        results
    });
    let (whole, want) = (on_device::<T>(gpu, &case, &around), on_host(&case, &around));
    let mut report = Report::new(format!("{} {name} {lengths:?}", T::DTYPE.name()));
    for (&what, want) in &want {
        let got: Vec<f64> = if matches!(what, "x" | "out") {
            let parts: Vec<Vec<f64>> = of_ranks.iter().map(|results| results[what].clone()).collect();
            case.tokens.to_rows(&join_time(&parts, case.tokens.batch), d_model)
        } else {
            (0..want.len()).map(|i| of_ranks.iter().map(|results| results[what][i]).sum()).collect()
        };
        let limit = match (T::DTYPE, what) {
            (Dtype::F32, "out") => 1e-5,
            (Dtype::F32, _) => 1e-4,
            // As of a whole block; gradients of weights are rounded to 16 bits once for each chunk.
            _ => 2e-2,
        };
        report.within(what, &got, want, limit);
        let limit = if T::DTYPE == Dtype::F32 { 1e-5 } else { 1.5e-2 };
        report.within(&format!("{what}, beside the whole"), &got, &whole[what], limit);
    }
    report.finish();
}

/// Few and small, for tools that make kernels slow.
#[test]
fn a_block_over_three_chunks() {
    let Some(gpu) = gpu("a_block_over_three_chunks") else { return };
    let tokens = sparse(Tokens::random(1, 2, 96, 3));
    compare_blocks::<f32>(&gpu, "three", MixerCase::random(tokens.clone(), ODD, ALL, 1), &[20, 44, 32]);
    compare_blocks::<bf16>(&gpu, "three", MixerCase::random(tokens, ALIGNED, ALL, 1), &[20, 44, 32]);
}

#[test]
fn blocks_over_chunks_are_whole_blocks() {
    let Some(gpu) = gpu("blocks_over_chunks_are_whole_blocks") else { return };
    let spans = |seqlen| Tokens::random(1, 2, seqlen, 3);
    for lengths in [&[96][..], &[48, 48], &[93, 3], &[20, 44, 32], &[3, 8, 12, 10, 20, 20, 20, 3]] {
        let seqlen = lengths.iter().sum();
        for (name, tokens) in [
            ("whole", spans(seqlen)),
            ("documents", spans(seqlen).with_documents(3)),
            ("one start", sparse(spans(seqlen))),
        ] {
            let case = |sizes| MixerCase::random(tokens.clone(), sizes, ALL, 1);
            compare_blocks::<f32>(&gpu, name, case(ALIGNED), lengths);
            compare_blocks::<bf16>(&gpu, name, case(ALIGNED), lengths);
            compare_blocks::<f32>(&gpu, name, case(ODD), lengths);
            // No window, and one of a single position.
            compare_blocks::<f32>(&gpu, name, case(Sizes { d_conv: 1, ..ODD }), lengths);
            compare_blocks::<f32>(&gpu, name, case(Sizes { d_conv: 2, ..ODD }), lengths);
        }
    }
    // Chunks that the scan cuts once more.
    let long = MixerCase::random(Tokens::random(2, 1, 1800, 2), Sizes { d_model: 16, d_inner: 64, ..ALIGNED }, ALL, 2);
    compare_blocks::<f32>(&gpu, "long", long.clone(), &[900, 600, 300]);
    compare_blocks::<bf16>(&gpu, "long", long, &[900, 600, 300]);
}
