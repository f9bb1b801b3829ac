//! Attention and the rotary embedding on the GPU against the CPU's in f64; poisoned memory; twice the same bits.

#![allow(clippy::unwrap_used)]

mod cuda_support;

use std::ops::Range;

use cuda_support::*;
use mom_kernels::attention::{self as host, AttentionMask};
use mom_kernels::cuda::attention::{self as device, DeviceMask};
use mom_kernels::cuda::half::bf16;
use mom_kernels::cuda::rotary_embedding::{self, Angles};
use mom_kernels::cuda::{DevicePlan, DeviceRows, Gpu};
use mom_kernels::rotary_embedding::{self as host_rotary, Direction, RotaryTable};
use mom_kernels::{Element, ModalityPlan, Rows, RowsMut};

struct Problem {
    plan: ModalityPlan,
    mask: AttentionMask,
    n_heads: usize,
    head_dim: usize,
    /// Rows of q, k and v side by side.
    qkv: Vec<f64>,
    grad_out: Vec<f64>,
}

const NAMES: [&str; 5] = ["out", "lse", "grad_q", "grad_k", "grad_v"];

impl Problem {
    fn new<T: TestElement>(
        seed: u64,
        (batch, seqlen): (usize, usize),
        (n_heads, head_dim): (usize, usize),
        documents: bool,
        spans: &[Range<usize>],
    ) -> Self {
        let mut r = Random(seed);
        let n = batch * seqlen;
        let ids: Vec<u8> = (0..n).map(|_| r.below(3) as u8).collect();
        let inside = |p: usize| spans.iter().any(|span| (span.start + 1..span.end).contains(&p));
        let starts: Vec<bool> = (0..n).map(|p| r.below(60) == 0 && !inside(p)).collect();
        let plan = ModalityPlan::new(batch, seqlen, 3, &ids, documents.then_some(&starts[..])).unwrap();
        let mask = AttentionMask::new(plan.layout(), spans).unwrap();
        let width = n_heads * head_dim;
        Self {
            plan,
            mask,
            n_heads,
            head_dim,
            qkv: rounded::<T>(&r.normals(n * 3 * width, 1.0)),
            grad_out: rounded::<T>(&r.normals(n * width, 1.0)),
        }
    }

    fn width(&self) -> usize {
        self.n_heads * self.head_dim
    }
}

fn on_host<E: Element>(p: &Problem) -> [Vec<f64>; 5] {
    let to = |x: &[f64]| x.iter().map(|&x| E::from_f64(x)).collect::<Vec<E>>();
    let (qkv, grad_out, width) = (to(&p.qkv), to(&p.grad_out), p.width());
    let part = |i: usize| Rows::new("qkv", &qkv, 3 * width).unwrap().columns(i * width, width).unwrap();
    let inputs = host::AttentionInputs::new(p.plan.layout(), &p.mask, p.n_heads, part(0), part(1), part(2));
    let zeros = || vec![E::ZERO; p.plan.n_rows() * width];
    let (mut out, mut lse) = (zeros(), vec![E::ZERO; p.plan.n_rows() * p.n_heads]);
    host::forward(&inputs, RowsMut::new("out", &mut out, width).unwrap(), Some(&mut lse)).unwrap();
    let [mut q, mut k, mut v] = [zeros(), zeros(), zeros()];
    let rows = |x| RowsMut::new("grad", x, width).unwrap();
    let grads = host::AttentionGrads::new(rows(&mut q), rows(&mut k), rows(&mut v));
    let view = |x| Rows::new("x", x, width).unwrap();
    host::backward(&inputs, view(&out), &lse, view(&grad_out), grads).unwrap();
    [out, lse, q, k, v].map(|x| x.into_iter().map(E::to_f64).collect())
}

fn on_device<T: TestElement>(gpu: &Gpu, p: &Problem) -> [Vec<f64>; 5] {
    let (width, n) = (p.width(), p.plan.n_rows());
    let plan = DevicePlan::upload(gpu, &p.plan).unwrap();
    let mask = DeviceMask::upload(gpu, &p.mask).unwrap();
    let (qkv, grad_out) = (upload::<T>(gpu, &p.qkv), upload::<T>(gpu, &p.grad_out));
    let part = |i: usize| gpu.rows(&qkv, 3 * width).unwrap().columns(i * width, width).unwrap();
    let inputs = device::AttentionInputs::new(plan.layout(gpu), mask.view(gpu), p.n_heads, part(0), part(1), part(2));
    let mut lse = poisoned::<f32>(gpu, n * p.n_heads);
    let [mut out, mut q, mut k, mut v] = [(); 4].map(|()| poisoned::<T>(gpu, n * width));
    device::forward(gpu, &inputs, gpu.rows_mut(&mut out, width).unwrap(), gpu.write(&mut lse)).unwrap();
    let mut workspace =
        poisoned::<f32>(gpu, device::backward_workspace_len(p.plan.batch(), p.plan.seqlen(), p.n_heads));
    {
        let view = |x| -> DeviceRows<'_, T> { gpu.rows(x, width).unwrap() };
        let (to_q, to_k, to_v) = (
            gpu.rows_mut(&mut q, width).unwrap(),
            gpu.rows_mut(&mut k, width).unwrap(),
            gpu.rows_mut(&mut v, width).unwrap(),
        );
        let grads = device::AttentionGrads::new(to_q, to_k, to_v);
        let (out, grad_out, lse) = (view(&out), view(&grad_out), gpu.read(&lse));
        device::backward(gpu, &inputs, &out, &lse, &grad_out, grads, gpu.write(&mut workspace)).unwrap();
    }
    let lse = download(gpu, &lse);
    let [out, q, k, v] = [&out, &q, &k, &v].map(|x| download(gpu, x));
    [out, lse, q, k, v]
}

fn check<T: TestElement>(gpu: &Gpu, name: &str, p: &Problem, limits: [f64; 2]) {
    let (got, want) = (on_device::<T>(gpu, p), on_host::<f64>(p));
    let again = on_device::<T>(gpu, p);
    for (((what, got), want), again) in NAMES.iter().zip(&got).zip(&want).zip(&again) {
        // A single position has no gradient of q and k: what is left is rounding of zero.
        let error = relative(got, want);
        let limit = if *what == "out" || *what == "lse" { limits[0] } else { limits[1] };
        let tiny = want.iter().all(|x| x.abs() < 1e-12) && got.iter().all(|x| x.abs() < 1e-2);
        assert!(error <= limit || tiny, "{name}: {what} is off by {error:.2e}, limit {limit:.1e}");
        assert_eq!(got, again, "{name}: {what} differs from call to call");
    }
}

/// Twice what rounding the output to bf16 costs is 3.3e-3 (measured on naive attention in bf16, in which probabilities and
/// gradients of scores are rounded too: 3.3e-3 for the output, 4.5e-3 for gradients).
const BF16: [f64; 2] = [6.6e-3, 9e-3];
const F32: [f64; 2] = [2e-6, 5e-6];

/// Name, (batch, seqlen), (n_heads, head_dim), documents, spans.
type Case = (&'static str, (usize, usize), (usize, usize), bool, &'static [Range<usize>]);

#[test]
fn every_shape() {
    let Some(gpu) = gpu("attention::every_shape") else { return };
    let cases: [Case; 9] = [
        ("one position", (1, 1), (1, 64), false, &[]),
        ("one tile", (1, 128), (1, 64), false, &[]),
        ("odd ends", (2, 300), (3, 64), false, &[]),
        ("documents", (2, 700), (2, 64), true, &[]),
        ("documents and spans", (2, 700), (2, 32), true, &[3..90, 200..456, 710..720, 1000..1400]),
        ("narrow heads", (3, 77), (4, 8), true, &[10..40]),
        ("one span", (1, 512), (1, 64), false, &[0..512]),
        ("long", (1, 2100), (1, 64), false, &[1000..1256]),
        ("heads of 48", (1, 200), (2, 48), true, &[]),
    ];
    let portable = with_stream(gpu.stream().clone()).portable();
    for (name, sizes, heads, documents, spans) in cases {
        let in_bf16 = Problem::new::<bf16>(7, sizes, heads, documents, spans);
        check::<bf16>(&gpu, name, &in_bf16, BF16);
        check::<bf16>(&portable, &format!("{name}, for every card"), &in_bf16, BF16);
        check::<f32>(&gpu, name, &Problem::new::<f32>(8, sizes, heads, documents, spans), F32);
    }
    // Heads that are no whole vectors, in f32 alone.
    check::<f32>(&gpu, "heads of 5", &Problem::new::<f32>(9, (2, 90), (3, 5), true, &[]), F32);
}

/// Small enough for compute-sanitizer: more than one block, tiles with a mask and without, rows past the end.
#[test]
fn a_few_tiles() {
    let Some(gpu) = gpu("attention::a_few_tiles") else { return };
    let spans: &[Range<usize>] = &[10..200];
    let in_bf16 = Problem::new::<bf16>(7, (1, 270), (1, 64), true, spans);
    check::<bf16>(&gpu, "spans", &in_bf16, BF16);
    let portable = with_stream(gpu.stream().clone()).portable();
    check::<bf16>(&portable, "spans, for every card", &in_bf16, BF16);
    check::<f32>(&gpu, "spans", &Problem::new::<f32>(8, (1, 100), (1, 24), true, &[10..40]), F32);
}

#[test]
fn what_the_kernels_are_not_written_for_is_refused() {
    let Some(gpu) = gpu("attention::refused") else { return };
    let gpu = &gpu;
    let refused = |p: &Problem| {
        let width = p.width();
        let plan = DevicePlan::upload(gpu, &p.plan).unwrap();
        let mask = DeviceMask::upload(gpu, &p.mask).unwrap();
        let qkv = upload::<bf16>(gpu, &p.qkv);
        let part = |i: usize| gpu.rows(&qkv, 3 * width).unwrap().columns(i * width, width).unwrap();
        let inputs =
            device::AttentionInputs::new(plan.layout(gpu), mask.view(gpu), p.n_heads, part(0), part(1), part(2));
        let mut lse = poisoned::<f32>(gpu, p.plan.n_rows() * p.n_heads);
        let mut out = poisoned::<bf16>(gpu, p.plan.n_rows() * width);
        let to = gpu.rows_mut(&mut out, width).unwrap();
        device::forward(gpu, &inputs, to, gpu.write(&mut lse)).unwrap_err().to_string()
    };
    let wide = refused(&Problem::new::<bf16>(1, (1, 8), (1, 72), false, &[]));
    assert!(wide.contains("head_dim = 72 is outside 1..=64"), "{wide}");
    let odd = refused(&Problem::new::<bf16>(1, (1, 8), (2, 12), false, &[]));
    assert!(odd.contains("head_dim"), "{odd}");
}

#[test]
fn rotations() {
    let Some(gpu) = gpu("attention::rotations") else { return };
    rotate::<bf16>(&gpu, 3e-3);
    rotate::<f32>(&gpu, 1e-6);
}

fn rotate<T: TestElement>(gpu: &Gpu, limit: f64) {
    let p = Problem::new::<T>(3, (2, 150), (3, 32), true, &[]);
    let (width, n) = (p.width(), p.plan.n_rows());
    let positions = p.mask.positions_in_documents();
    let table = RotaryTable::new(150, p.head_dim, 10_000.0).unwrap();
    let mut want = vec![0.0; n * width];
    host_rotary::rotate(
        p.plan.layout(),
        &positions,
        &table,
        p.n_heads,
        Rows::new("x", &p.grad_out, width).unwrap(),
        RowsMut::new("out", &mut want, width).unwrap(),
        Direction::Forward,
    )
    .unwrap();
    let plan = DevicePlan::upload(gpu, &p.plan).unwrap();
    let turns: Vec<f32> = table.turns().iter().map(|&turn| turn as f32).collect();
    let (positions, turns) = (gpu.upload(&positions).unwrap(), gpu.upload(&turns).unwrap());
    let turned = |x: &[f64], direction| {
        let x = upload::<T>(gpu, x);
        let mut out = poisoned::<T>(gpu, n * width);
        let (from, to) = (gpu.rows(&x, width).unwrap(), gpu.rows_mut(&mut out, width).unwrap());
        let (layout, positions, table) = (plan.layout(gpu), gpu.read(&positions), gpu.read(&turns));
        let angles = Angles { layout, positions, table, n_heads: p.n_heads, head_dim: p.head_dim };
        // SAFETY: the table has 150 positions, as many as a sequence.
        unsafe { rotary_embedding::rotate(gpu, &angles, &from, to, direction) }.unwrap();
        download(gpu, &out)
    };
    let got = turned(&p.grad_out, Direction::Forward);
    assert!(relative(&got, &want) < limit, "{:.2e}", relative(&got, &want));
    let back = turned(&got, Direction::Backward);
    assert!(relative(&back, &p.grad_out) < 2.0 * limit);
}
