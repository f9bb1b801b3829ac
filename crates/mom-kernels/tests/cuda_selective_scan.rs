//! The scan on the GPU against the CPU's in f64: every output, element type, option and odd size; poisoned memory; twice
//! the same bits.

#![allow(clippy::unwrap_used)]

mod cuda_support;

use cuda_support::*;
use mom_kernels::cuda::cudarc::driver::CudaSlice;
use mom_kernels::cuda::half::{bf16, f16};
use mom_kernels::cuda::selective_scan as device;
use mom_kernels::cuda::{DeviceLayout, DevicePlan, DeviceRowsMut, Gpu};
use mom_kernels::selective_scan::{self as host, DeltaActivation};
use mom_kernels::{Element, ModalityPlan, Rows, RowsMut};

#[derive(Debug, Clone, Copy)]
struct Case {
    batch: usize,
    seqlen: usize,
    d_inner: usize,
    d_state: usize,
    n_modalities: usize,
    documents: bool,
    states: bool,
    bias: bool,
    gate_and_skip: bool,
    softplus: bool,
    /// Columns in front of B in its rows, as x_proj's output has them.
    dt_rank: usize,
}

const FULL: Case = Case {
    batch: 2,
    seqlen: 70,
    d_inner: 96,
    d_state: 16,
    n_modalities: 3,
    documents: true,
    states: true,
    bias: true,
    gate_and_skip: true,
    softplus: true,
    dt_rank: 8,
};

/// Inputs in f64, holding values of the element type where the device does.
struct Problem {
    case: Case,
    plan: ModalityPlan,
    u: Vec<f64>,
    dt: Vec<f64>,
    dt_bias: Vec<f64>,
    a: Vec<f64>,
    x_dbl: Vec<f64>,
    d_skip: Vec<f64>,
    xz: Vec<f64>,
    initial: Vec<f64>,
    grad_out: Vec<f64>,
    grad_last: Vec<f64>,
}

impl Problem {
    fn new<T: TestElement>(case: Case, seed: u64) -> Self {
        let mut r = Random(seed);
        let Case { batch, seqlen, d_inner, d_state, n_modalities, dt_rank, .. } = case;
        let n = batch * seqlen;
        let mut ids = vec![0u8; n];
        let mut at = 0;
        while at < n {
            let (id, len) = (r.below(n_modalities) as u8, 1 + r.below(40));
            let end = (at + len).min(n);
            ids[at..end].fill(id);
            at += len;
        }
        let starts: Vec<bool> = (0..n).map(|_| r.below(23) == 0).collect();
        let plan = ModalityPlan::new(batch, seqlen, n_modalities, &ids, case.documents.then_some(&starts[..])).unwrap();
        let wide = |x: Vec<f64>| rounded::<T>(&x);
        let narrow = |x: Vec<f64>| rounded::<f32>(&x);
        // delta between 1e-3 and about 0.1, as a block starts out.
        let dt_mean = if case.softplus { -3.0 } else { 0.05 };
        let dt = (0..n * d_inner).map(|_| if case.softplus { r.normal() } else { 0.03 * r.normal() });
        let dt = wide(dt.map(|x| if case.bias { x } else { x + dt_mean }).collect());
        Self {
            u: wide(r.normals(n * d_inner, 1.0)),
            dt_bias: narrow((0..n_modalities * d_inner).map(|_| dt_mean + 0.01 * r.normal()).collect()),
            a: narrow((0..d_inner * d_state).map(|i| -((i % d_state) as f64 + 1.0) * (0.5 + r.uniform())).collect()),
            x_dbl: wide(r.normals(n * (dt_rank + 2 * d_state), 1.0)),
            d_skip: narrow(r.normals(d_inner, 1.0)),
            xz: wide(r.normals(n * 2 * d_inner, 1.0)),
            initial: narrow(r.normals(batch * d_inner * d_state, 1.0)),
            grad_out: wide(r.normals(n * d_inner, 1.0)),
            grad_last: narrow(r.normals(batch * d_inner * d_state, 1.0)),
            case,
            plan,
            dt,
        }
    }
}

const NAMES: [&str; 12] = [
    "out",
    "last_state",
    "grad_u",
    "grad_dt",
    "grad_dt_bias",
    "grad_a",
    "grad_b",
    "grad_c",
    "grad_d_skip",
    "grad_z",
    "grad_initial_state",
    "out again",
];

/// Every output in the order of [`NAMES`]; empty where the case has none.
type Outputs = [Vec<f64>; 12];

fn on_host<E: Element>(p: &Problem) -> Outputs {
    let Case { d_inner, d_state, dt_rank, batch, seqlen, .. } = p.case;
    let n = batch * seqlen;
    let to = |x: &[f64]| x.iter().map(|&x| E::from_f64(x)).collect::<Vec<E>>();
    let (u, dt, dt_bias, a, x_dbl) = (to(&p.u), to(&p.dt), to(&p.dt_bias), to(&p.a), to(&p.x_dbl));
    let (d_skip, xz, initial) = (to(&p.d_skip), to(&p.xz), to(&p.initial));
    let (grad_out, grad_last) = (to(&p.grad_out), to(&p.grad_last));
    let x_dbl = Rows::new("x_dbl", &x_dbl, dt_rank + 2 * d_state).unwrap();
    let gate = p.case.gate_and_skip;
    let inputs = host::ScanInputs {
        layout: p.plan.layout(),
        u: Rows::new("u", &u, d_inner).unwrap(),
        dt: Rows::new("dt", &dt, d_inner).unwrap(),
        dt_bias: p.case.bias.then(|| host::DtBias { bias: &dt_bias, offsets: p.plan.modality_offsets() }),
        delta_activation: if p.case.softplus { DeltaActivation::Softplus } else { DeltaActivation::Identity },
        a: &a,
        b: x_dbl.columns(dt_rank, d_state).unwrap(),
        c: x_dbl.columns(dt_rank + d_state, d_state).unwrap(),
        d_skip: gate.then_some(&d_skip[..]),
        z: gate.then(|| Rows::new("xz", &xz, 2 * d_inner).unwrap().columns(d_inner, d_inner).unwrap()),
        initial_state: p.case.states.then_some(&initial[..]),
    };
    let zeros = |len: usize| vec![E::from_f64(0.0); len];
    let n_states = batch * d_inner * d_state;
    let (mut out, mut last) = (zeros(n * d_inner), zeros(n_states));
    let mut saved = zeros(host::saved_states_len(batch, seqlen, d_inner, d_state));
    let outputs = host::ScanOutputs {
        out: RowsMut::new("out", &mut out, d_inner).unwrap(),
        last_state: Some(&mut last),
        saved_states: Some(&mut saved),
    };
    host::forward(&inputs, outputs).unwrap();
    let (mut gu, mut gdt, mut gz, mut again) =
        (zeros(n * d_inner), zeros(n * d_inner), zeros(n * d_inner), zeros(n * d_inner));
    let (mut gbias, mut ga) = (zeros(dt_bias.len()), zeros(a.len()));
    let (mut gb, mut gc, mut gd, mut ginit) = (zeros(n * d_state), zeros(n * d_state), zeros(d_inner), zeros(n_states));
    let rows = |x| RowsMut::new("grad", x, d_inner).unwrap();
    let grads = host::ScanGrads {
        grad_u: rows(&mut gu),
        grad_dt: rows(&mut gdt),
        grad_dt_bias: p.case.bias.then_some(&mut gbias[..]),
        grad_a: &mut ga,
        grad_b: RowsMut::new("grad_b", &mut gb, d_state).unwrap(),
        grad_c: RowsMut::new("grad_c", &mut gc, d_state).unwrap(),
        grad_d_skip: gate.then_some(&mut gd[..]),
        grad_z: gate.then(|| rows(&mut gz)),
        grad_initial_state: p.case.states.then_some(&mut ginit[..]),
        out: Some(rows(&mut again)),
    };
    let output_grads = host::ScanOutputGrads {
        grad_out: Rows::new("grad_out", &grad_out, d_inner).unwrap(),
        grad_last_state: p.case.states.then_some(&grad_last[..]),
    };
    host::backward(&inputs, &saved, &output_grads, grads).unwrap();
    let empty = |present: bool, x: Vec<E>| if present { x } else { Vec::new() };
    [
        out,
        last,
        gu,
        gdt,
        empty(p.case.bias, gbias),
        ga,
        gb,
        gc,
        empty(gate, gd),
        empty(gate, gz),
        empty(p.case.states, ginit),
        again,
    ]
    .map(|x| x.into_iter().map(Element::to_f64).collect())
}

fn on_device<T: TestElement>(gpu: &Gpu, p: &Problem) -> Outputs {
    let Case { d_inner, d_state, dt_rank, batch, seqlen, .. } = p.case;
    let n = batch * seqlen;
    let plan = DevicePlan::upload(gpu, &p.plan).unwrap();
    let (u, dt, x_dbl): (CudaSlice<T>, CudaSlice<T>, CudaSlice<T>) =
        (upload(gpu, &p.u), upload(gpu, &p.dt), upload(gpu, &p.x_dbl));
    let (xz, grad_out): (CudaSlice<T>, CudaSlice<T>) = (upload(gpu, &p.xz), upload(gpu, &p.grad_out));
    let [dt_bias, a, d_skip, initial, grad_last] =
        [&p.dt_bias, &p.a, &p.d_skip, &p.initial, &p.grad_last].map(|x| upload::<f32>(gpu, x));
    let width = dt_rank + 2 * d_state;
    let gate = p.case.gate_and_skip;
    let inputs = device::ScanInputs {
        layout: plan.layout(gpu),
        u: gpu.rows(&u, d_inner).unwrap(),
        dt: gpu.rows(&dt, d_inner).unwrap(),
        dt_bias: p.case.bias.then(|| device::DtBias { bias: gpu.read(&dt_bias), offsets: plan.modality_offsets(gpu) }),
        delta_activation: if p.case.softplus { DeltaActivation::Softplus } else { DeltaActivation::Identity },
        a: gpu.read(&a),
        b: gpu.rows(&x_dbl, width).unwrap().columns(dt_rank, d_state).unwrap(),
        c: gpu.rows(&x_dbl, width).unwrap().columns(dt_rank + d_state, d_state).unwrap(),
        d_skip: gate.then(|| gpu.read(&d_skip)),
        z: gate.then(|| gpu.rows(&xz, 2 * d_inner).unwrap().columns(d_inner, d_inner).unwrap()),
        initial_state: p.case.states.then(|| gpu.read(&initial)),
    };
    let n_states = batch * d_inner * d_state;
    let (mut out, mut last) = (poisoned::<T>(gpu, n * d_inner), poisoned::<f32>(gpu, n_states));
    let mut saved = poisoned::<f32>(gpu, device::saved_states_len(batch, seqlen, d_inner, d_state));
    let outputs = device::ScanOutputs {
        out: gpu.rows_mut(&mut out, d_inner).unwrap(),
        last_state: Some(gpu.write(&mut last)),
        saved_states: Some(gpu.write(&mut saved)),
    };
    device::forward(gpu, &inputs, outputs).unwrap();
    let (mut gu, mut gdt) = (poisoned::<T>(gpu, n * d_inner), poisoned::<T>(gpu, n * d_inner));
    let (mut gxz, mut again) = (poisoned::<T>(gpu, n * 2 * d_inner), poisoned::<T>(gpu, n * d_inner));
    let mut gx_dbl = poisoned::<T>(gpu, n * width);
    let (mut gbias, mut ga) = (poisoned::<f32>(gpu, p.dt_bias.len()), poisoned::<f32>(gpu, p.a.len()));
    let (mut gd, mut ginit) = (poisoned::<f32>(gpu, d_inner), poisoned::<f32>(gpu, n_states));
    let mut workspace = poisoned::<f32>(gpu, device::backward_workspace_len(&inputs).unwrap());
    {
        let (_, bc) = gpu.rows_mut(&mut gx_dbl, width).unwrap().split_columns(dt_rank).unwrap();
        let (grad_b, grad_c) = bc.split_columns(d_state).unwrap();
        let grads = device::ScanGrads {
            grad_u: gpu.rows_mut(&mut gu, d_inner).unwrap(),
            grad_dt: gpu.rows_mut(&mut gdt, d_inner).unwrap(),
            grad_dt_bias: p.case.bias.then(|| gpu.write(&mut gbias)),
            grad_a: gpu.write(&mut ga),
            grad_b,
            grad_c,
            grad_d_skip: gate.then(|| gpu.write(&mut gd)),
            grad_z: gate
                .then(|| gpu.rows_mut(&mut gxz, 2 * d_inner).unwrap())
                .map(|rows| rows.columns(d_inner, d_inner).unwrap()),
            grad_initial_state: p.case.states.then(|| gpu.write(&mut ginit)),
            out: Some(gpu.rows_mut(&mut again, d_inner).unwrap()),
        };
        let output_grads = device::ScanOutputGrads {
            grad_out: gpu.rows(&grad_out, d_inner).unwrap(),
            grad_last_state: p.case.states.then(|| gpu.read(&grad_last)),
        };
        let len = device::backward_workspace_len(&inputs).unwrap();
        let workspace = gpu.write(&mut workspace).first("workspace", len).unwrap();
        device::backward(gpu, &inputs, gpu.read(&saved), &output_grads, grads, workspace).unwrap();
    }
    let columns = |x: Vec<f64>, width: usize, start: usize, len: usize| -> Vec<f64> {
        x.chunks_exact(width).flat_map(|row| row[start..start + len].to_vec()).collect()
    };
    let gx_dbl = download(gpu, &gx_dbl);
    // What a matrix holds beside the columns that were asked for is not touched.
    assert!(columns(gx_dbl.clone(), width, 0, dt_rank).iter().all(|x| x.is_nan()));
    let gxz = download(gpu, &gxz);
    assert!(columns(gxz.clone(), 2 * d_inner, 0, d_inner).iter().all(|x| x.is_nan()));
    let given = |present: bool, x: Vec<f64>| if present { x } else { Vec::new() };
    [
        download(gpu, &out),
        download(gpu, &last),
        download(gpu, &gu),
        download(gpu, &gdt),
        given(p.case.bias, download(gpu, &gbias)),
        download(gpu, &ga),
        columns(gx_dbl.clone(), width, dt_rank, d_state),
        columns(gx_dbl, width, dt_rank + d_state, d_state),
        given(gate, download(gpu, &gd)),
        given(gate, columns(gxz, 2 * d_inner, d_inner, d_inner)),
        given(p.case.states, download(gpu, &ginit)),
        download(gpu, &again),
    ]
}

fn check<T: TestElement>(gpu: &Gpu, case: Case, seed: u64) {
    let problem = Problem::new::<T>(case, seed);
    let (want, naive) = (on_host::<f64>(&problem), on_host::<f32>(&problem));
    let got = on_device::<T>(gpu, &problem);
    let name = format!("{} {}x{} d {} n {}", T::DTYPE.name(), case.batch, case.seqlen, case.d_inner, case.d_state);
    let mut report = Report::new(name);
    for (i, what) in NAMES.into_iter().enumerate() {
        let bound = if what.starts_with("grad") { 1e-4 } else { 1e-5 };
        match what {
            // f32 whatever T is. The bias's gradient sums grad_dt as it was stored.
            "grad_dt_bias" if size_of::<T>() == 2 => report.within(what, &got[i], &want[i], 4e-3),
            "last_state" | "grad_a" | "grad_d_skip" | "grad_initial_state" => {
                report.within(what, &got[i], &want[i], bound);
            }
            _ => report.output::<T>(what, &got[i], &want[i], &naive[i], bound),
        }
    }
    report.finish();
    let again = on_device::<T>(gpu, &problem);
    let bits = |outputs: &Outputs| outputs.iter().flatten().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert!(bits(&got) == bits(&again), "two runs differ");
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
    check_all(&gpu, Case { documents: false, states: false, ..FULL });
    check_all(&gpu, Case { bias: false, gate_and_skip: false, ..FULL });
    check_all(&gpu, Case { bias: false, softplus: false, ..FULL });
    check_all(&gpu, Case { n_modalities: 1, ..FULL });
    check_all(&gpu, Case { batch: 17, seqlen: 33, n_modalities: 200, ..FULL });
}

#[test]
fn odd_sizes() {
    let Some(gpu) = gpu("odd_sizes") else { return };
    for seqlen in [1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65] {
        check::<bf16>(&gpu, Case { seqlen, ..FULL }, 4);
        check::<f32>(&gpu, Case { seqlen, ..FULL }, 5);
    }
    for d_inner in [1, 5, 31, 33, 40, 200] {
        check::<bf16>(&gpu, Case { d_inner, ..FULL }, 6);
        check::<f32>(&gpu, Case { d_inner, ..FULL }, 7);
    }
    for d_state in [1, 2, 3, 8, 15, 17, 32, 33, 48, 64] {
        check_all(&gpu, Case { d_state, ..FULL });
    }
    // Rows that do not lie on 16 bytes.
    check_all(&gpu, Case { dt_rank: 3, ..FULL });
}

#[test]
fn shapes_of_models() {
    let Some(gpu) = gpu("shapes_of_models") else { return };
    // Enough blocks to take each of the aligned kernels.
    check::<bf16>(&gpu, Case { batch: 2, seqlen: 300, d_inner: 1536, documents: false, dt_rank: 48, ..FULL }, 8);
    check::<bf16>(&gpu, Case { batch: 4, seqlen: 100, d_inner: 4096, documents: false, dt_rank: 128, ..FULL }, 9);
    check::<f32>(&gpu, Case { batch: 4, seqlen: 100, d_inner: 2048, dt_rank: 64, ..FULL }, 10);
}

#[test]
fn grids_between_two_kernels() {
    let Some(gpu) = gpu("grids_between_two_kernels") else { return };
    // Blocks of 32 channels that fit three times a multiprocessor, then four times, on a card with 132 of them.
    for batch in [3, 4] {
        let case = Case { batch, seqlen: 37, d_inner: 4096, dt_rank: 128, ..FULL };
        check::<bf16>(&gpu, case, 13);
        check::<f16>(&gpu, case, 14);
    }
}

#[test]
fn long_sequences() {
    let Some(gpu) = gpu("long_sequences") else { return };
    let case = Case { batch: 1, seqlen: 65_536, d_inner: 64, documents: false, ..FULL };
    check::<bf16>(&gpu, case, 11);
    check::<f32>(&gpu, case, 12);
}

#[test]
fn no_position() {
    let Some(gpu) = gpu("no_position") else { return };
    // No step: states and their gradients pass through, sums are zero.
    let (d_inner, d_state) = (40, 16);
    let empty = gpu.zeros::<f32>(1).unwrap();
    let none = || gpu.read(&empty).first("none", 0).unwrap();
    let a = gpu.upload(&vec![-1.0f32; d_inner * d_state]).unwrap();
    let state: Vec<f32> = (0..2 * d_inner * d_state).map(|i| i as f32).collect();
    let initial = gpu.upload(&state).unwrap();
    let rows = |width| mom_kernels::cuda::DeviceRows::new("none", none(), width).unwrap();
    let inputs = device::ScanInputs::<f32> {
        layout: DeviceLayout::contiguous(2, 0, None).unwrap(),
        u: rows(d_inner),
        dt: rows(d_inner),
        dt_bias: None,
        delta_activation: DeltaActivation::Softplus,
        a: gpu.read(&a),
        b: rows(d_state),
        c: rows(d_state),
        d_skip: None,
        z: None,
        initial_state: Some(gpu.read(&initial)),
    };
    let mut out = gpu.zeros::<f32>(1).unwrap();
    let mut last = poisoned::<f32>(&gpu, state.len());
    let no_rows = |slice, width| DeviceRowsMut::new("none", gpu.write(slice).first("none", 0).unwrap(), width).unwrap();
    let outputs = device::ScanOutputs {
        out: no_rows(&mut out, d_inner),
        last_state: Some(gpu.write(&mut last)),
        saved_states: None,
    };
    device::forward(&gpu, &inputs, outputs).unwrap();
    assert_eq!(gpu.download(&last).unwrap(), state);
    let [mut gu, mut gdt, mut gb, mut gc] = [(); 4].map(|()| gpu.zeros::<f32>(1).unwrap());
    let mut ga = poisoned::<f32>(&gpu, d_inner * d_state);
    let mut ginit = poisoned::<f32>(&gpu, state.len());
    let mut workspace = poisoned::<f32>(&gpu, device::backward_workspace_len(&inputs).unwrap());
    let grads = device::ScanGrads {
        grad_u: no_rows(&mut gu, d_inner),
        grad_dt: no_rows(&mut gdt, d_inner),
        grad_dt_bias: None,
        grad_a: gpu.write(&mut ga),
        grad_b: no_rows(&mut gb, d_state),
        grad_c: no_rows(&mut gc, d_state),
        grad_d_skip: None,
        grad_z: None,
        grad_initial_state: Some(gpu.write(&mut ginit)),
        out: None,
    };
    let output_grads = device::ScanOutputGrads { grad_out: rows(d_inner), grad_last_state: Some(gpu.read(&last)) };
    device::backward(&gpu, &inputs, none(), &output_grads, grads, gpu.write(&mut workspace)).unwrap();
    assert_eq!(gpu.download(&ginit).unwrap(), state);
    assert_eq!(gpu.download(&ga).unwrap(), vec![0.0; d_inner * d_state]);
}

#[test]
fn steps_are_the_sequence() {
    let Some(gpu) = gpu("steps_are_the_sequence") else { return };
    steps::<f32>(&gpu, 1e-5);
    steps::<bf16>(&gpu, 4e-3);
    steps::<f16>(&gpu, 6e-4);
}

fn steps<T: TestElement>(gpu: &Gpu, limit: f64) {
    let case = Case { seqlen: 5, d_inner: 33, d_state: 10, n_modalities: 1, dt_rank: 0, ..FULL };
    let p = Problem::new::<T>(case, 20);
    let want = on_host::<f64>(&p);
    let mut state = upload::<f32>(gpu, &p.initial);
    let [bias, a, d_skip] = [&p.dt_bias, &p.a, &p.d_skip].map(|x| upload::<f32>(gpu, x));
    let mut got = vec![0.0; want[0].len()];
    for t in 0..case.seqlen {
        // One row a sequence: position t of each.
        let gather = |x: &[f64], width: usize| -> Vec<f64> {
            (0..case.batch).flat_map(|b| x[(b * case.seqlen + t) * width..][..width].to_vec()).collect()
        };
        let u = upload::<T>(gpu, &gather(&p.u, 33));
        let dt = upload::<T>(gpu, &gather(&p.dt, 33));
        let bc = upload::<T>(gpu, &gather(&p.x_dbl, 20));
        let xz = upload::<T>(gpu, &gather(&p.xz, 66));
        let starts: Vec<u8> =
            (0..case.batch).map(|b| u8::from(p.plan.document_starts().unwrap()[b * case.seqlen + t])).collect();
        let starts = gpu.upload(&starts).unwrap();
        let inputs = device::ScanInputs {
            layout: DeviceLayout::contiguous(case.batch, 1, Some(gpu.read(&starts))).unwrap(),
            u: gpu.rows(&u, 33).unwrap(),
            dt: gpu.rows(&dt, 33).unwrap(),
            dt_bias: Some(device::DtBias {
                bias: gpu.read(&bias),
                offsets: mom_kernels::cuda::DeviceOffsets::single(case.batch),
            }),
            delta_activation: DeltaActivation::Softplus,
            a: gpu.read(&a),
            b: gpu.rows(&bc, 20).unwrap().columns(0, 10).unwrap(),
            c: gpu.rows(&bc, 20).unwrap().columns(10, 10).unwrap(),
            d_skip: Some(gpu.read(&d_skip)),
            z: Some(gpu.rows(&xz, 66).unwrap().columns(33, 33).unwrap()),
            initial_state: None,
        };
        let mut out = poisoned::<T>(gpu, case.batch * 33);
        device::step(gpu, &inputs, gpu.write(&mut state), gpu.rows_mut(&mut out, 33).unwrap()).unwrap();
        for (b, row) in download(gpu, &out).chunks_exact(33).enumerate() {
            got[(b * case.seqlen + t) * 33..][..33].copy_from_slice(row);
        }
    }
    let mut report = Report::new(format!("{} step", T::DTYPE.name()));
    report.within("out", &got, &want[0], limit);
    report.within("state", &download(gpu, &state), &want[1], 1e-5);
    report.finish();
}

/// More than 2^31 elements: the last sequence of many is what it is alone.
#[test]
fn beyond_two_gigaelements() {
    let Some(gpu) = gpu("beyond_two_gigaelements") else { return };
    let (batch, seqlen, d_inner, d_state) = (520, 1024, 4096, 16);
    let n = batch * seqlen;
    assert!(n * d_inner > 1 << 31);
    let free = gpu.stream().context().mem_get_info().unwrap().0;
    let workspace_bytes = 4 * (128 * n * 32 + batch * d_inner * 17 + batch * seqlen / 16 * d_inner * 16);
    let needed = 5 * n * d_inner * 2 + workspace_bytes + (2 << 30);
    if free < needed {
        eprintln!(
            "SKIPPED beyond_two_gigaelements: needs {} GiB of device memory, {} are free",
            needed >> 30,
            free >> 30
        );
        return;
    }
    let mut r = Random(30);
    let mut random =
        |len: usize, scale: f64| -> Vec<bf16> { (0..len).map(|_| bf16::round(scale * r.normal())).collect() };
    let (u, dt, bc) = (random(seqlen * d_inner, 1.0), random(seqlen * d_inner, 1.0), random(seqlen * 32, 1.0));
    let grad_out = random(seqlen * d_inner, 1.0);
    let run = |batch: usize| -> Vec<Vec<bf16>> {
        let n = batch * seqlen;
        let last = |data: &[bf16], width: usize| {
            let mut slice = gpu.zeros::<bf16>(n * width).unwrap();
            gpu.stream().memcpy_htod(data, &mut slice.slice_mut((n - seqlen) * width..)).unwrap();
            slice
        };
        let (u, dt, bc, grad_out) = (last(&u, d_inner), last(&dt, d_inner), last(&bc, 32), last(&grad_out, d_inner));
        let a = gpu.upload(&vec![-0.5f32; d_inner * d_state]).unwrap();
        let inputs = device::ScanInputs {
            layout: DeviceLayout::contiguous(batch, seqlen, None).unwrap(),
            u: gpu.rows(&u, d_inner).unwrap(),
            dt: gpu.rows(&dt, d_inner).unwrap(),
            dt_bias: None,
            delta_activation: DeltaActivation::Softplus,
            a: gpu.read(&a),
            b: gpu.rows(&bc, 32).unwrap().columns(0, 16).unwrap(),
            c: gpu.rows(&bc, 32).unwrap().columns(16, 16).unwrap(),
            d_skip: None,
            z: None,
            initial_state: None,
        };
        let mut out = gpu.zeros::<bf16>(n * d_inner).unwrap();
        let mut saved = gpu.zeros::<f32>(device::saved_states_len(batch, seqlen, d_inner, d_state)).unwrap();
        let outputs = device::ScanOutputs {
            out: gpu.rows_mut(&mut out, d_inner).unwrap(),
            last_state: None,
            saved_states: Some(gpu.write(&mut saved)),
        };
        device::forward(&gpu, &inputs, outputs).unwrap();
        let tail = |slice: &CudaSlice<bf16>, width: usize| -> Vec<bf16> {
            gpu.stream().clone_dtoh(&slice.slice((n - seqlen) * width..)).unwrap()
        };
        let forward = tail(&out, d_inner);
        // The gradient of u takes the place of the output.
        let mut gu = out;
        let mut gdt = gpu.zeros::<bf16>(n * d_inner).unwrap();
        let mut gbc = gpu.zeros::<bf16>(n * 32).unwrap();
        let mut ga = gpu.zeros::<f32>(d_inner * d_state).unwrap();
        let mut workspace = gpu.zeros::<f32>(device::backward_workspace_len(&inputs).unwrap()).unwrap();
        let (grad_b, grad_c) = gpu.rows_mut(&mut gbc, 32).unwrap().split_columns(16).unwrap();
        let grads = device::ScanGrads {
            grad_u: gpu.rows_mut(&mut gu, d_inner).unwrap(),
            grad_dt: gpu.rows_mut(&mut gdt, d_inner).unwrap(),
            grad_dt_bias: None,
            grad_a: gpu.write(&mut ga),
            grad_b,
            grad_c,
            grad_d_skip: None,
            grad_z: None,
            grad_initial_state: None,
            out: None,
        };
        let output_grads =
            device::ScanOutputGrads { grad_out: gpu.rows(&grad_out, d_inner).unwrap(), grad_last_state: None };
        device::backward(&gpu, &inputs, gpu.read(&saved), &output_grads, grads, gpu.write(&mut workspace)).unwrap();
        vec![forward, tail(&gu, d_inner), tail(&gdt, d_inner), tail(&gbc, 32)]
    };
    let (alone, many) = (run(1), run(batch));
    assert!(alone.iter().flatten().any(|x| x.wide() != 0.0));
    for (i, (alone, many)) in alone.iter().zip(&many).enumerate() {
        assert!(alone == many, "output {i} of the last sequence differs");
    }
}
