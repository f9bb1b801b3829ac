//! The convolution on the GPU against the CPU's in f64; poisoned memory; twice the same bits.

#![allow(clippy::unwrap_used)]

mod cuda_support;

use cuda_support::*;
use mom_kernels::causal_conv1d::{self as host, Activation};
use mom_kernels::cuda::DevicePlan;
use mom_kernels::cuda::Gpu;
use mom_kernels::cuda::causal_conv1d as device;
use mom_kernels::cuda::half::{bf16, f16};
use mom_kernels::{Element, ModalityPlan, Rows, RowsMut};

#[derive(Debug, Clone, Copy)]
struct Case {
    batch: usize,
    seqlen: usize,
    d_inner: usize,
    d_conv: usize,
    documents: bool,
    states: bool,
    bias: bool,
    activation: Activation,
}

const FULL: Case = Case {
    batch: 2,
    seqlen: 150,
    d_inner: 40,
    d_conv: 4,
    documents: true,
    states: true,
    bias: true,
    activation: Activation::Silu,
};

struct Problem {
    case: Case,
    plan: ModalityPlan,
    xz: Vec<f64>,
    weight: Vec<f64>,
    bias: Vec<f64>,
    initial: Vec<f64>,
    grad_out: Vec<f64>,
    grad_last: Vec<f64>,
}

impl Problem {
    fn new<T: TestElement>(case: Case, seed: u64) -> Self {
        let mut r = Random(seed);
        let Case { batch, seqlen, d_inner, d_conv, .. } = case;
        let n = batch * seqlen;
        let ids: Vec<u8> = (0..n).map(|_| r.below(3) as u8).collect();
        let starts: Vec<bool> = (0..n).map(|_| r.below(9) == 0).collect();
        let n_state = batch * (d_conv - 1) * d_inner;
        Self {
            case,
            plan: ModalityPlan::new(batch, seqlen, 3, &ids, case.documents.then_some(&starts[..])).unwrap(),
            xz: rounded::<T>(&r.normals(n * 2 * d_inner, 1.0)),
            weight: rounded::<f32>(&r.normals(d_inner * d_conv, 0.5)),
            bias: rounded::<f32>(&r.normals(d_inner, 0.5)),
            initial: rounded::<f32>(&r.normals(n_state, 1.0)),
            grad_out: rounded::<T>(&r.normals(n * d_inner, 1.0)),
            grad_last: rounded::<f32>(&r.normals(n_state, 1.0)),
        }
    }
}

const NAMES: [&str; 6] = ["out", "last_state", "grad_x", "grad_weight", "grad_bias", "grad_initial_state"];

type Outputs = [Vec<f64>; 6];

fn on_host<E: Element>(p: &Problem) -> Outputs {
    let Case { d_inner, batch, seqlen, .. } = p.case;
    let n = batch * seqlen;
    let to = |x: &[f64]| x.iter().map(|&x| E::from_f64(x)).collect::<Vec<E>>();
    let (xz, weight, bias, initial) = (to(&p.xz), to(&p.weight), to(&p.bias), to(&p.initial));
    let (grad_out, grad_last) = (to(&p.grad_out), to(&p.grad_last));
    let inputs = host::ConvInputs::new(
        p.plan.layout(),
        Rows::new("xz", &xz, 2 * d_inner).unwrap().columns(0, d_inner).unwrap(),
        &weight,
    )
    .with_bias(p.case.bias.then_some(&bias[..]))
    .with_activation(p.case.activation)
    .with_initial_state(p.case.states.then_some(&initial[..]));
    let zeros = |len: usize| vec![E::from_f64(0.0); len];
    let (mut out, mut last) = (zeros(n * d_inner), zeros(initial.len()));
    host::forward(&inputs, RowsMut::new("out", &mut out, d_inner).unwrap(), Some(&mut last)).unwrap();
    let (mut gx, mut gw, mut gb, mut gi) =
        (zeros(n * d_inner), zeros(weight.len()), zeros(d_inner), zeros(initial.len()));
    let grads = host::ConvGrads::new(RowsMut::new("grad_x", &mut gx, d_inner).unwrap(), &mut gw)
        .with_grad_bias(p.case.bias.then_some(&mut gb[..]))
        .with_grad_initial_state(p.case.states.then_some(&mut gi[..]));
    let grad_out = Rows::new("grad_out", &grad_out, d_inner).unwrap();
    host::backward(&inputs, grad_out, p.case.states.then_some(&grad_last[..]), grads).unwrap();
    let given = |present: bool, x: Vec<E>| if present { x } else { Vec::new() };
    [out, last, gx, gw, given(p.case.bias, gb), given(p.case.states, gi)]
        .map(|x| x.into_iter().map(Element::to_f64).collect())
}

/// `in_place`: grad_x over x.
fn on_device<T: TestElement>(gpu: &Gpu, p: &Problem, in_place: bool) -> Outputs {
    let Case { d_inner, batch, seqlen, .. } = p.case;
    let n = batch * seqlen;
    let plan = DevicePlan::upload(gpu, &p.plan).unwrap();
    let (mut xz, grad_out) = (upload::<T>(gpu, &p.xz), upload::<T>(gpu, &p.grad_out));
    let mut gxz = poisoned::<T>(gpu, n * 2 * d_inner);
    let columns = |xz| gpu.rows_mut(xz, 2 * d_inner).unwrap().columns(0, d_inner).unwrap();
    let (x, grad_x) = match in_place {
        true => columns(&mut xz).in_place(),
        false => (columns(&mut xz).into_rows(), columns(&mut gxz)),
    };
    let [weight, bias, initial, grad_last] =
        [&p.weight, &p.bias, &p.initial, &p.grad_last].map(|x| upload::<f32>(gpu, x));
    let n_state = p.initial.len();
    let inputs = device::ConvInputs::new(plan.layout(gpu), x, gpu.read(&weight))
        .with_bias(p.case.bias.then(|| gpu.read(&bias)))
        .with_activation(p.case.activation)
        .with_initial_state(p.case.states.then(|| gpu.read(&initial).first("initial", n_state).unwrap()));
    let (mut out, mut last) = (poisoned::<T>(gpu, n * d_inner), poisoned::<f32>(gpu, n_state));
    let last_state = gpu.write(&mut last).first("last", n_state).unwrap();
    device::forward(gpu, &inputs, gpu.rows_mut(&mut out, d_inner).unwrap(), Some(last_state)).unwrap();
    let (mut again, mut gw) = (poisoned::<T>(gpu, n * d_inner), poisoned::<f32>(gpu, p.weight.len()));
    let (mut gb, mut gi) = (poisoned::<f32>(gpu, d_inner), poisoned::<f32>(gpu, n_state));
    let mut workspace = poisoned::<f32>(gpu, device::backward_workspace_len(&inputs).unwrap());
    let grads = device::ConvGrads::new(grad_x, gpu.write(&mut gw))
        .with_out(gpu.rows_mut(&mut again, d_inner).unwrap())
        .with_grad_bias(p.case.bias.then(|| gpu.write(&mut gb)))
        .with_grad_initial_state(p.case.states.then(|| gpu.write(&mut gi).first("initial", n_state).unwrap()));
    let grad_last = p.case.states.then(|| gpu.read(&grad_last).first("last", n_state).unwrap());
    let grad_out = gpu.rows(&grad_out, d_inner).unwrap();
    device::backward(gpu, &inputs, grad_out, grad_last, grads, gpu.write(&mut workspace)).unwrap();
    drop(inputs);
    let gxz = download(gpu, if in_place { &xz } else { &gxz });
    let half = |start: usize| gxz.chunks_exact(2 * d_inner).flat_map(move |row| row[start..start + d_inner].to_vec());
    let z = p.xz.chunks_exact(2 * d_inner).flat_map(|row| &row[d_inner..]);
    let is_untouched = |(x, z): (f64, &f64)| if in_place { x == *z } else { x.is_nan() };
    assert!(half(d_inner).zip(z).all(is_untouched), "the other half of the gradient's rows is not to be touched");
    let out = download(gpu, &out);
    assert!(
        bits(std::slice::from_ref(&out)) == bits(&[download(gpu, &again)]),
        "the backward pass gives another output"
    );
    let given = |present: bool, x: Vec<f64>| if present { x } else { Vec::new() };
    let some = |x: Vec<f64>| if n_state == 0 { Vec::new() } else { x };
    [
        out,
        some(download(gpu, &last)),
        half(0).collect(),
        download(gpu, &gw),
        given(p.case.bias, download(gpu, &gb)),
        given(p.case.states, some(download(gpu, &gi))),
    ]
}

fn check<T: TestElement>(gpu: &Gpu, case: Case, seed: u64) {
    let problem = Problem::new::<T>(case, seed);
    let (want, naive) = (on_host::<f64>(&problem), on_host::<f32>(&problem));
    let got = on_device::<T>(gpu, &problem, false);
    let name = format!("{} {}x{} d {} taps {}", T::DTYPE.name(), case.batch, case.seqlen, case.d_inner, case.d_conv);
    let mut report = Report::new(name);
    for (i, what) in NAMES.into_iter().enumerate() {
        let bound = if what.starts_with("grad") { 1e-4 } else { 1e-5 };
        match what {
            "out" | "grad_x" => report.output::<T>(what, &got[i], &want[i], &naive[i], bound),
            _ => report.within(what, &got[i], &want[i], bound),
        }
    }
    report.finish();
    let again = on_device::<T>(gpu, &problem, false);
    assert!(bits(&got) == bits(&again), "two runs differ");
    let in_place = on_device::<T>(gpu, &problem, true);
    assert!(bits(&got) == bits(&in_place), "the gradient in place is another");
}

fn bits(outputs: &[Vec<f64>]) -> Vec<u64> {
    outputs.iter().flatten().map(|x| x.to_bits()).collect()
}

fn check_all(gpu: &Gpu, case: Case) {
    check::<bf16>(gpu, case, 1);
    check::<f16>(gpu, case, 2);
    check::<f32>(gpu, case, 3);
}

#[test]
fn every_option() {
    let Some(gpu) = gpu("every_option") else { return };
    check_all(&gpu, FULL);
    check_all(&gpu, Case { documents: false, ..FULL });
    check_all(&gpu, Case { states: false, ..FULL });
    check_all(&gpu, Case { bias: false, activation: Activation::Identity, ..FULL });
    for d_conv in [1, 2, 3] {
        check_all(&gpu, Case { d_conv, ..FULL });
        check_all(&gpu, Case { d_conv, documents: false, seqlen: 2, ..FULL });
    }
}

#[test]
fn odd_sizes() {
    let Some(gpu) = gpu("odd_sizes") else { return };
    for seqlen in [1, 2, 3, 4, 5, 63, 64, 65, 66, 67, 68, 127, 128, 129, 300] {
        check::<bf16>(&gpu, Case { seqlen, documents: false, ..FULL }, 4);
        check::<f32>(&gpu, Case { seqlen, batch: 5, ..FULL }, 5);
    }
    for d_inner in [1, 3, 4, 129, 200, 1536] {
        check::<bf16>(&gpu, Case { d_inner, ..FULL }, 6);
        check::<f32>(&gpu, Case { d_inner, ..FULL }, 7);
    }
    check::<bf16>(&gpu, Case { batch: 1, seqlen: 65_536, d_inner: 32, ..FULL }, 8);
}

#[test]
fn other_overlaps_are_refused() {
    let Some(gpu) = gpu("other_overlaps_are_refused") else { return };
    let (n, d) = (8, 16);
    let layout = DevicePlan::upload(&gpu, &ModalityPlan::dense(1, n, None).unwrap()).unwrap();
    let weight = upload::<f32>(&gpu, &vec![1.0; d * 4]);
    let (mut memory, mut other) = (poisoned::<f32>(&gpu, n * 3 * d), poisoned::<f32>(&gpu, n * d));
    // What lies over columns `at..at + d` of the memory whose middle is x, or over the gradient of the output.
    let mut refuses = |at: usize, is_out: bool, want: &str| {
        let (rows, to) = gpu.rows_mut(&mut memory, 3 * d).unwrap().in_place();
        let inputs =
            device::ConvInputs::new(layout.layout(&gpu), rows.clone().columns(d, d).unwrap(), gpu.read(&weight));
        let (to, apart) = (to.columns(at, d).unwrap(), gpu.rows_mut(&mut other, d).unwrap());
        let (grad_x, out) = if is_out { (apart, Some(to)) } else { (to, None) };
        let mut grad_weight = poisoned::<f32>(&gpu, d * 4);
        let mut workspace = poisoned::<f32>(&gpu, device::backward_workspace_len(&inputs).unwrap());
        let grads = device::ConvGrads::new(grad_x, gpu.write(&mut grad_weight)).with_out(out);
        let grad_out = rows.columns(0, d).unwrap();
        let error = device::backward(&gpu, &inputs, grad_out, None, grads, gpu.write(&mut workspace)).unwrap_err();
        assert!(error.to_string().starts_with(want), "{error}");
    };
    refuses(d / 2, false, "causal_conv1d: grad_x overlaps x");
    refuses(0, false, "causal_conv1d: grad_x overlaps grad_out");
    refuses(d, true, "causal_conv1d: out overlaps x");
    refuses(0, true, "causal_conv1d: out overlaps grad_out");
}
