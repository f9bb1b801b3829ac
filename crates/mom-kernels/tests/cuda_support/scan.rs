//! Problems for the tests of the scan on the GPU, solved by the CPU and by the GPU.
#![allow(dead_code, clippy::unwrap_used)] // each test binary uses a part of it

use mom_kernels::cuda::cudarc::driver::CudaSlice;
use mom_kernels::cuda::half::{bf16, f16};
use mom_kernels::cuda::selective_scan as device;
use mom_kernels::cuda::{DeviceMut, DevicePlan, DeviceRows, DeviceRowsMut, Gpu};
use mom_kernels::selective_scan::{self as host, DeltaActivation};
use mom_kernels::{Element, ModalityPlan, Rows, RowsMut};

use crate::cuda_support::*;

#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub batch: usize,
    pub seqlen: usize,
    pub d_inner: usize,
    pub d_state: usize,
    pub n_modalities: usize,
    pub documents: bool,
    pub states: bool,
    pub bias: bool,
    pub gate_and_skip: bool,
    pub softplus: bool,
    /// Columns in front of B in its rows, as x_proj's output has them.
    pub dt_rank: usize,
}

pub const FULL: Case = Case {
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
pub struct Problem {
    pub case: Case,
    pub plan: ModalityPlan,
    pub u: Vec<f64>,
    pub dt: Vec<f64>,
    pub dt_bias: Vec<f64>,
    pub a: Vec<f64>,
    pub x_dbl: Vec<f64>,
    pub d_skip: Vec<f64>,
    pub xz: Vec<f64>,
    pub initial: Vec<f64>,
    pub grad_out: Vec<f64>,
    pub grad_last: Vec<f64>,
}

impl Problem {
    pub fn new<T: TestElement>(case: Case, seed: u64) -> Self {
        let mut r = Random(!seed);
        let starts: Vec<bool> = (0..case.batch * case.seqlen).map(|_| r.below(23) == 0).collect();
        Self::with_starts::<T>(case, &starts, seed)
    }

    /// With documents that start at these positions, where the case has any.
    pub fn with_starts<T: TestElement>(case: Case, starts: &[bool], seed: u64) -> Self {
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
        let plan = ModalityPlan::new(batch, seqlen, n_modalities, &ids, case.documents.then_some(starts)).unwrap();
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

pub const NAMES: [&str; 12] = [
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
pub type Outputs = [Vec<f64>; 12];

pub fn on_host<E: Element>(p: &Problem) -> Outputs {
    let Case { d_inner, d_state, dt_rank, batch, seqlen, .. } = p.case;
    let n = batch * seqlen;
    let to = |x: &[f64]| x.iter().map(|&x| E::from_f64(x)).collect::<Vec<E>>();
    let (u, dt, dt_bias, a, x_dbl) = (to(&p.u), to(&p.dt), to(&p.dt_bias), to(&p.a), to(&p.x_dbl));
    let (d_skip, xz, initial) = (to(&p.d_skip), to(&p.xz), to(&p.initial));
    let (grad_out, grad_last) = (to(&p.grad_out), to(&p.grad_last));
    let x_dbl = Rows::new("x_dbl", &x_dbl, dt_rank + 2 * d_state).unwrap();
    let gate = p.case.gate_and_skip;
    let inputs = host::ScanInputs::new(
        p.plan.layout(),
        Rows::new("u", &u, d_inner).unwrap(),
        Rows::new("dt", &dt, d_inner).unwrap(),
        &a,
        x_dbl.columns(dt_rank, d_state).unwrap(),
        x_dbl.columns(dt_rank + d_state, d_state).unwrap(),
    )
    .with_dt_bias(p.case.bias.then(|| host::DtBias::new(&dt_bias, p.plan.modality_offsets())))
    .with_delta_activation(if p.case.softplus { DeltaActivation::Softplus } else { DeltaActivation::Identity })
    .with_d_skip(gate.then_some(&d_skip[..]))
    .with_z(gate.then(|| Rows::new("xz", &xz, 2 * d_inner).unwrap().columns(d_inner, d_inner).unwrap()))
    .with_initial_state(p.case.states.then_some(&initial[..]));
    let zeros = |len: usize| vec![E::from_f64(0.0); len];
    let n_states = batch * d_inner * d_state;
    let (mut out, mut last) = (zeros(n * d_inner), zeros(n_states));
    let mut saved = zeros(host::saved_states_len(batch, seqlen, d_inner, d_state));
    let outputs = host::ScanOutputs::new(RowsMut::new("out", &mut out, d_inner).unwrap())
        .with_last_state(&mut last[..])
        .with_saved_states(&mut saved[..]);
    host::forward(&inputs, outputs).unwrap();
    let (mut gu, mut gdt, mut gz, mut again) =
        (zeros(n * d_inner), zeros(n * d_inner), zeros(n * d_inner), zeros(n * d_inner));
    let (mut gbias, mut ga) = (zeros(dt_bias.len()), zeros(a.len()));
    let (mut gb, mut gc, mut gd, mut ginit) = (zeros(n * d_state), zeros(n * d_state), zeros(d_inner), zeros(n_states));
    let rows = |x| RowsMut::new("grad", x, d_inner).unwrap();
    let grads = host::ScanGrads::new(
        rows(&mut gu),
        rows(&mut gdt),
        &mut ga,
        RowsMut::new("grad_b", &mut gb, d_state).unwrap(),
        RowsMut::new("grad_c", &mut gc, d_state).unwrap(),
    )
    .with_grad_dt_bias(p.case.bias.then_some(&mut gbias[..]))
    .with_grad_d_skip(gate.then_some(&mut gd[..]))
    .with_grad_z(gate.then(|| rows(&mut gz)))
    .with_grad_initial_state(p.case.states.then_some(&mut ginit[..]))
    .with_out(rows(&mut again));
    let output_grads = host::ScanOutputGrads::new(Rows::new("grad_out", &grad_out, d_inner).unwrap())
        .with_grad_last_state(p.case.states.then_some(&grad_last[..]));
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

/// What the device reads that no gradient may overwrite.
struct Inputs<T> {
    plan: DevicePlan,
    x_dbl: CudaSlice<T>,
    dt_bias: CudaSlice<f32>,
    a: CudaSlice<f32>,
    d_skip: CudaSlice<f32>,
    initial: CudaSlice<f32>,
}

impl<T: TestElement> Inputs<T> {
    fn new(gpu: &Gpu, p: &Problem) -> Self {
        let [dt_bias, a, d_skip, initial] = [&p.dt_bias, &p.a, &p.d_skip, &p.initial].map(|x| upload::<f32>(gpu, x));
        let plan = DevicePlan::upload(gpu, &p.plan).unwrap();
        Self { plan, x_dbl: upload(gpu, &p.x_dbl), dt_bias, a, d_skip, initial }
    }

    /// With u, dt and, where the case has a gate, z.
    fn with<'a>(
        &'a self,
        gpu: &'a Gpu,
        case: Case,
        [u, dt, z]: [Option<DeviceRows<'a, T>>; 3],
    ) -> device::ScanInputs<'a, T> {
        let Case { d_state, dt_rank, .. } = case;
        let x_dbl = gpu.rows(&self.x_dbl, dt_rank + 2 * d_state).unwrap();
        let offsets = self.plan.modality_offsets(gpu);
        device::ScanInputs::new(
            self.plan.layout(gpu),
            u.unwrap(),
            dt.unwrap(),
            gpu.read(&self.a),
            x_dbl.clone().columns(dt_rank, d_state).unwrap(),
            x_dbl.columns(dt_rank + d_state, d_state).unwrap(),
        )
        .with_dt_bias(case.bias.then(|| device::DtBias::new(gpu.read(&self.dt_bias), offsets)))
        .with_delta_activation(if case.softplus { DeltaActivation::Softplus } else { DeltaActivation::Identity })
        .with_d_skip(case.gate_and_skip.then(|| gpu.read(&self.d_skip)))
        .with_z(z)
        .with_initial_state(case.states.then(|| gpu.read(&self.initial)))
    }
}

/// Where grad_u, grad_dt, grad_z and out go: into memory of their own, or over u (0), dt (1), z (2) or grad_out (3), each
/// of which is named once. Without a gate there is no z, and what would lie there has memory of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Places {
    Apart,
    Over([usize; 4]),
}

fn columns(x: &[f64], width: usize, start: usize, len: usize) -> Vec<f64> {
    x.chunks_exact(width).flat_map(|row| row[start..start + len].to_vec()).collect()
}

pub fn on_device<T: TestElement>(gpu: &Gpu, p: &Problem, places: Places) -> Outputs {
    run_on_device::<T>(gpu, p, places, Ends::Computed)
}

/// Who computes what the chunks of a sequence leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    /// The pass.
    Computed,
    /// `ends` and `adjoint_ends`, before it.
    Given,
}

/// What the chunks leave, as `run` leaves it in its workspace.
fn given_ends(
    gpu: &Gpu,
    case: Case,
    run: impl FnOnce(DeviceMut<'_, f32>, DeviceMut<'_, f32>),
) -> (CudaSlice<f32>, usize) {
    let of = device::Chunk { batch: case.batch, d_inner: case.d_inner, d_state: case.d_state };
    let len = device::ends_workspace_len(of, case.seqlen);
    let (mut to, mut workspace) = (poisoned::<f32>(gpu, device::ends_len(of)), poisoned::<f32>(gpu, len));
    run(gpu.write(&mut to), gpu.write(&mut workspace).first("workspace", len).unwrap());
    (workspace, len)
}

pub fn run_on_device<T: TestElement>(gpu: &Gpu, p: &Problem, places: Places, ends: Ends) -> Outputs {
    let Case { d_inner, d_state, dt_rank, batch, seqlen, .. } = p.case;
    let n = batch * seqlen;
    let gate = p.case.gate_and_skip;
    let others = Inputs::<T>::new(gpu, p);
    // What is read, and as many matrices to be written. Of xz and its gradient the right half.
    let mut read: [CudaSlice<T>; 4] = [&p.u, &p.dt, &p.xz, &p.grad_out].map(|x| upload(gpu, x));
    let mut apart: [CudaSlice<T>; 4] = [1, 1, 2, 1].map(|width| poisoned(gpu, n * width * d_inner));
    let n_states = batch * d_inner * d_state;
    let (mut out, mut last) = (poisoned::<T>(gpu, n * d_inner), poisoned::<f32>(gpu, n_states));
    let mut saved = poisoned::<f32>(gpu, device::saved_states_len(batch, seqlen, d_inner, d_state));
    {
        let z = gate.then(|| gpu.rows(&read[2], 2 * d_inner).unwrap().columns(d_inner, d_inner).unwrap());
        let [u, dt] = [0, 1].map(|i| Some(gpu.rows(&read[i], d_inner).unwrap()));
        let outputs = device::ScanOutputs::new(gpu.rows_mut(&mut out, d_inner).unwrap())
            .with_last_state(gpu.write(&mut last))
            .with_saved_states(gpu.write(&mut saved));
        let len = device::forward_workspace_len(batch, seqlen, d_inner, d_state);
        let mut workspace = poisoned::<f32>(gpu, len);
        let workspace = gpu.write(&mut workspace).first("workspace", len).unwrap();
        let inputs = others.with(gpu, p.case, [u, dt, z]);
        match ends {
            Ends::Computed => device::forward(gpu, &inputs, outputs, workspace).unwrap(),
            Ends::Given => {
                let chunk = inputs.clone().with_initial_state(None);
                let run =
                    |to: DeviceMut<'_, f32>, room: DeviceMut<'_, f32>| device::ends(gpu, &chunk, to, room).unwrap();
                let (given, len) = given_ends(gpu, p.case, run);
                let given = gpu.read(&given).first("ends", len).unwrap();
                device::forward_with_ends(gpu, &inputs, outputs, given).unwrap();
            }
        }
    }
    let grad_last = upload::<f32>(gpu, &p.grad_last);
    let width = dt_rank + 2 * d_state;
    let mut gx_dbl = poisoned::<T>(gpu, n * width);
    let (mut gbias, mut ga) = (poisoned::<f32>(gpu, p.dt_bias.len()), poisoned::<f32>(gpu, p.a.len()));
    let (mut gd, mut ginit) = (poisoned::<f32>(gpu, d_inner), poisoned::<f32>(gpu, n_states));
    {
        fn rows<'a, T>(gpu: &'a Gpu, memory: &'a mut [CudaSlice<T>; 4], d: usize) -> [Option<DeviceRowsMut<'a, T>>; 4] {
            let [a, b, wide, c] = memory;
            let right = gpu.rows_mut(wide, 2 * d).unwrap().columns(d, d).unwrap();
            [
                Some(gpu.rows_mut(a, d).unwrap()),
                Some(gpu.rows_mut(b, d).unwrap()),
                Some(right),
                Some(gpu.rows_mut(c, d).unwrap()),
            ]
        }
        let mut to = rows(gpu, &mut apart, d_inner);
        let mut from = [const { None }; 4];
        let mut over = [const { None }; 4];
        for (i, rows) in rows(gpu, &mut read, d_inner).into_iter().enumerate() {
            let (reads, writes) = rows.unwrap().in_place();
            from[i] = Some(reads).filter(|_| i != 2 || gate);
            over[i] = Some(writes).filter(|_| i != 2 || gate);
        }
        if let Places::Over(at) = places {
            for i in 0..4 {
                to[i] = over[at[i]].take().or(to[i].take());
            }
        }
        let [u, dt, z, grad_out] = from;
        let inputs = others.with(gpu, p.case, [u, dt, z]);
        let (_, bc) = gpu.rows_mut(&mut gx_dbl, width).unwrap().split_columns(dt_rank).unwrap();
        let (grad_b, grad_c) = bc.split_columns(d_state).unwrap();
        let [grad_u, grad_dt, grad_z, out] = to;
        let grads = device::ScanGrads::new(grad_u.unwrap(), grad_dt.unwrap(), gpu.write(&mut ga), grad_b, grad_c)
            .with_grad_dt_bias(p.case.bias.then(|| gpu.write(&mut gbias)))
            .with_grad_d_skip(gate.then(|| gpu.write(&mut gd)))
            .with_grad_z(grad_z.filter(|_| gate))
            .with_grad_initial_state(p.case.states.then(|| gpu.write(&mut ginit)))
            .with_out(out);
        let output_grads = device::ScanOutputGrads::new(grad_out.unwrap())
            .with_grad_last_state(p.case.states.then(|| gpu.read(&grad_last)));
        let len = device::backward_workspace_len(&inputs).unwrap();
        let mut workspace = poisoned::<f32>(gpu, len);
        let workspace = gpu.write(&mut workspace).first("workspace", len).unwrap();
        match ends {
            Ends::Computed => {
                device::backward(gpu, &inputs, gpu.read(&saved), &output_grads, grads, workspace).unwrap();
            }
            Ends::Given => {
                let (chunk, grad_out) = (inputs.clone().with_initial_state(None), &output_grads.grad_out);
                let (given, len) = given_ends(gpu, p.case, |to, room| {
                    device::adjoint_ends(gpu, &chunk, grad_out, to, room).unwrap();
                });
                let given = gpu.read(&given).first("ends", len).unwrap();
                let saved = gpu.read(&saved);
                device::backward_with_ends(gpu, &inputs, saved, &output_grads, grads, given, workspace).unwrap();
            }
        }
    }
    let gx_dbl = download(gpu, &gx_dbl);
    // What a matrix holds beside the columns that were asked for is not touched.
    assert!(columns(&gx_dbl, width, 0, dt_rank).iter().all(|x| x.is_nan()));
    let (read, apart) = (read.map(|x| download(gpu, &x)), apart.map(|x| download(gpu, &x)));
    assert!(columns(&read[2], 2 * d_inner, 0, d_inner) == columns(&p.xz, 2 * d_inner, 0, d_inner));
    assert!(columns(&apart[2], 2 * d_inner, 0, d_inner).iter().all(|x| x.is_nan()));
    let written = |i: usize| -> Vec<f64> {
        let (memory, at) = match places {
            Places::Over(at) if at[i] != 2 || gate => (&read, at[i]),
            _ => (&apart, i),
        };
        if at == 2 { columns(&memory[2], 2 * d_inner, d_inner, d_inner) } else { memory[at].clone() }
    };
    let given = |present: bool, x: Vec<f64>| if present { x } else { Vec::new() };
    [
        download(gpu, &out),
        download(gpu, &last),
        written(0),
        written(1),
        given(p.case.bias, download(gpu, &gbias)),
        download(gpu, &ga),
        columns(&gx_dbl, width, dt_rank, d_state),
        columns(&gx_dbl, width, dt_rank + d_state, d_state),
        given(gate, download(gpu, &gd)),
        given(gate, written(2)),
        given(p.case.states, download(gpu, &ginit)),
        written(3),
    ]
}

/// Whether two runs gave the same bits.
pub fn same_bits(a: &Outputs, b: &Outputs) -> bool {
    let bits =
        |outputs: &Outputs| outputs.iter().map(|x| x.iter().map(|x| x.to_bits()).collect()).collect::<Vec<Vec<_>>>();
    bits(a) == bits(b)
}

pub fn check<T: TestElement>(gpu: &Gpu, case: Case, seed: u64) {
    check_problem::<T>(gpu, &Problem::new::<T>(case, seed));
}

pub fn check_problem<T: TestElement>(gpu: &Gpu, problem: &Problem) {
    let case = problem.case;
    let (want, naive) = (on_host::<f64>(problem), on_host::<f32>(problem));
    let got = on_device::<T>(gpu, problem, Places::Apart);
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
    let again = on_device::<T>(gpu, problem, Places::Apart);
    assert!(same_bits(&got, &again), "two runs differ");
}

pub fn check_all(gpu: &Gpu, case: Case) {
    check::<bf16>(gpu, case, 1);
    check::<f16>(gpu, case, 2);
    check::<f32>(gpu, case, 3);
}
