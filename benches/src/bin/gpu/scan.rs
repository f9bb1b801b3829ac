//! The selective scan: bf16, three modalities in interleaved spans, softplus, skip and gate, as in a block.

use mom_kernels::cuda::cudarc::driver::CudaSlice;
use mom_kernels::cuda::half::bf16;
use mom_kernels::cuda::selective_scan as device;
use mom_kernels::cuda::{DevicePlan, Gpu};
use mom_kernels::selective_scan as host;
use mom_kernels::{ModalityPlan, Rows, RowsMut};

use crate::timing::{Bench, expect, noise, relative};
use crate::{Error, Shape};

/// Sequences that are decoded at once.
const DECODED: usize = 64;

/// Biases of dt.
#[derive(Clone, Copy)]
enum Biases {
    /// delta is 0.3 on average: the states of most channels are gone after some hundred steps.
    Usual,
    /// Of a model that starts out: 1e-3 to 0.1, evenly in their logarithm.
    Initial,
    /// 3e-4: states last.
    Slow,
}

impl Biases {
    /// Of a channel for which `x` is drawn from -1..1.
    fn of(self, x: f32) -> f32 {
        match self {
            Self::Usual => x - 3.5,
            Self::Initial => (0.01 * 10f32.powf(x)).exp_m1().ln(),
            Self::Slow => x - 10.5,
        }
    }
}

/// States of a channel.
pub const D_STATE: usize = 16;

/// Modalities in spans: images of 1024 tokens, text and speech of 64 to 400.
pub fn modality_ids(n: usize, n_modalities: usize) -> Vec<u8> {
    let mut ids = Vec::with_capacity(n);
    let mut span = 0usize;
    while ids.len() < n {
        let id = span % n_modalities;
        let len = match id {
            0 => 64 + span * 97 % 337,
            1 => 1024,
            _ => 64 + span * 57 % 337,
        };
        ids.extend(std::iter::repeat_n(id as u8, len.min(n - ids.len())));
        span += 1;
    }
    ids
}

struct Problem {
    shape: Shape,
    plan: DevicePlan,
    u: CudaSlice<bf16>,
    dt: CudaSlice<bf16>,
    xz: CudaSlice<bf16>,
    x_dbl: CudaSlice<bf16>,
    grad_out: CudaSlice<bf16>,
    a: CudaSlice<f32>,
    bias: CudaSlice<f32>,
    d_skip: CudaSlice<f32>,
    host: Host,
}

struct Host {
    plan: ModalityPlan,
    u: Vec<bf16>,
    dt: Vec<bf16>,
    xz: Vec<bf16>,
    x_dbl: Vec<bf16>,
    grad_out: Vec<bf16>,
    a: Vec<f32>,
    bias: Vec<f32>,
    d_skip: Vec<f32>,
}

impl Problem {
    fn new(gpu: &Gpu, shape: Shape) -> Result<Self, Error> {
        Self::with_biases(gpu, shape, Biases::Usual)
    }

    fn with_biases(gpu: &Gpu, shape: Shape, biases: Biases) -> Result<Self, Error> {
        let (n, d) = (shape.n_rows(), shape.d_inner());
        let plan = ModalityPlan::new(shape.batch, shape.seqlen, 3, &modality_ids(n, 3), None)?;
        let to = |x: Vec<f32>| x.into_iter().map(bf16::from_f32).collect::<Vec<_>>();
        let host = Host {
            u: to(noise(n * d, 1, 1.0)),
            dt: to(noise(n * d, 2, 2.0)),
            xz: to(noise(n * 2 * d, 3, 2.0)),
            x_dbl: to(noise(n * (shape.dt_rank() + 2 * D_STATE), 4, 1.0)),
            grad_out: to(noise(n * d, 5, 1.0)),
            a: (0..d * D_STATE).map(|i| -((i % D_STATE) as f32 + 1.0)).collect(),
            bias: noise(3 * d, 6, 1.0).into_iter().map(|x| biases.of(x)).collect(),
            d_skip: noise(d, 7, 1.0),
            plan,
        };
        Ok(Self {
            shape,
            plan: DevicePlan::upload(gpu, &host.plan)?,
            u: gpu.upload(&host.u)?,
            dt: gpu.upload(&host.dt)?,
            xz: gpu.upload(&host.xz)?,
            x_dbl: gpu.upload(&host.x_dbl)?,
            grad_out: gpu.upload(&host.grad_out)?,
            a: gpu.upload(&host.a)?,
            bias: gpu.upload(&host.bias)?,
            d_skip: gpu.upload(&host.d_skip)?,
            host,
        })
    }

    fn inputs<'a>(&'a self, gpu: &'a Gpu) -> Result<device::ScanInputs<'a, bf16>, Error> {
        let (d, rank) = (self.shape.d_inner(), self.shape.dt_rank());
        let x_dbl = gpu.rows(&self.x_dbl, rank + 2 * D_STATE)?;
        Ok(device::ScanInputs::new(
            self.plan.layout(gpu),
            gpu.rows(&self.u, d)?,
            gpu.rows(&self.dt, d)?,
            gpu.read(&self.a),
            x_dbl.clone().columns(rank, D_STATE)?,
            x_dbl.columns(rank + D_STATE, D_STATE)?,
        )
        .with_dt_bias(device::DtBias::new(gpu.read(&self.bias), self.plan.modality_offsets(gpu)))
        .with_d_skip(gpu.read(&self.d_skip))
        .with_z(gpu.rows(&self.xz, 2 * d)?.columns(d, d)?))
    }
}

/// The host's values in f64.
struct Wide {
    u: Vec<f64>,
    dt: Vec<f64>,
    xz: Vec<f64>,
    x_dbl: Vec<f64>,
    grad_out: Vec<f64>,
    a: Vec<f64>,
    bias: Vec<f64>,
    d_skip: Vec<f64>,
}

impl Host {
    fn wide(&self) -> Wide {
        Wide {
            u: wide(&self.u),
            dt: wide(&self.dt),
            xz: wide(&self.xz),
            x_dbl: wide(&self.x_dbl),
            grad_out: wide(&self.grad_out),
            a: wide32(&self.a),
            bias: wide32(&self.bias),
            d_skip: wide32(&self.d_skip),
        }
    }
}

impl Wide {
    fn inputs<'a>(&'a self, shape: Shape, plan: &'a ModalityPlan) -> Result<host::ScanInputs<'a, f64>, Error> {
        let (d, rank) = (shape.d_inner(), shape.dt_rank());
        let x_dbl = Rows::new("x_dbl", &self.x_dbl, rank + 2 * D_STATE)?;
        Ok(host::ScanInputs::new(
            plan.layout(),
            Rows::new("u", &self.u, d)?,
            Rows::new("dt", &self.dt, d)?,
            &self.a,
            x_dbl.columns(rank, D_STATE)?,
            x_dbl.columns(rank + D_STATE, D_STATE)?,
        )
        .with_dt_bias(host::DtBias::new(&self.bias, plan.modality_offsets()))
        .with_d_skip(&self.d_skip[..])
        .with_z(Rows::new("xz", &self.xz, 2 * d)?.columns(d, d)?))
    }
}

fn wide(x: &[bf16]) -> Vec<f64> {
    x.iter().map(|x| x.to_f64()).collect()
}

fn wide32(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

struct Outputs {
    out: CudaSlice<bf16>,
    saved: CudaSlice<f32>,
    forward_workspace: CudaSlice<f32>,
    grad_u: CudaSlice<bf16>,
    grad_dt: CudaSlice<bf16>,
    grad_xz: CudaSlice<bf16>,
    grad_x_dbl: CudaSlice<bf16>,
    grad_a: CudaSlice<f32>,
    grad_bias: CudaSlice<f32>,
    grad_d: CudaSlice<f32>,
    workspace: CudaSlice<f32>,
}

impl Outputs {
    fn new(gpu: &Gpu, p: &Problem) -> Result<Self, Error> {
        let (n, d) = (p.shape.n_rows(), p.shape.d_inner());
        Ok(Self {
            out: gpu.zeros(n * d)?,
            saved: gpu.zeros(device::saved_states_len(p.shape.batch, p.shape.seqlen, d, D_STATE))?,
            forward_workspace: gpu.zeros(device::forward_workspace_len(p.shape.batch, p.shape.seqlen, d, D_STATE))?,
            grad_u: gpu.zeros(n * d)?,
            grad_dt: gpu.zeros(n * d)?,
            grad_xz: gpu.zeros(n * 2 * d)?,
            grad_x_dbl: gpu.zeros(n * (p.shape.dt_rank() + 2 * D_STATE))?,
            grad_a: gpu.zeros(d * D_STATE)?,
            grad_bias: gpu.zeros(3 * d)?,
            grad_d: gpu.zeros(d)?,
            workspace: gpu.zeros(device::backward_workspace_len(&p.inputs(gpu)?)?)?,
        })
    }

    fn forward(&mut self, gpu: &Gpu, p: &Problem, save: bool) -> Result<(), Error> {
        let outputs = device::ScanOutputs::new(gpu.rows_mut(&mut self.out, p.shape.d_inner())?)
            .with_saved_states(save.then(|| gpu.write(&mut self.saved)));
        Ok(device::forward(gpu, &p.inputs(gpu)?, outputs, gpu.write(&mut self.forward_workspace))?)
    }

    fn backward(&mut self, gpu: &Gpu, p: &Problem) -> Result<(), Error> {
        let (d, rank) = (p.shape.d_inner(), p.shape.dt_rank());
        let (_, bc) = gpu.rows_mut(&mut self.grad_x_dbl, rank + 2 * D_STATE)?.split_columns(rank)?;
        let (grad_b, grad_c) = bc.split_columns(D_STATE)?;
        let grads = device::ScanGrads::new(
            gpu.rows_mut(&mut self.grad_u, d)?,
            gpu.rows_mut(&mut self.grad_dt, d)?,
            gpu.write(&mut self.grad_a),
            grad_b,
            grad_c,
        )
        .with_grad_dt_bias(gpu.write(&mut self.grad_bias))
        .with_grad_d_skip(gpu.write(&mut self.grad_d))
        .with_grad_z(gpu.rows_mut(&mut self.grad_xz, 2 * d)?.columns(d, d)?);
        let output_grads = device::ScanOutputGrads::new(gpu.rows(&p.grad_out, d)?);
        let workspace = gpu.write(&mut self.workspace);
        Ok(device::backward(gpu, &p.inputs(gpu)?, gpu.read(&self.saved), &output_grads, grads, workspace)?)
    }
}

/// Checks against f64 at the shape's own sizes (one sequence of it), then times; last a step of decoding.
pub fn run(bench: &mut Bench<'_>, shape: Shape) -> Result<(), Error> {
    if !bench.wants("scan") {
        return Ok(());
    }
    check(bench.gpu, Shape { batch: 1, ..shape })?;
    time(bench, shape, shape.name, Biases::Usual)?;
    step(bench, Shape { batch: DECODED, seqlen: 1, ..shape })
}

/// Times only: a length. Of one sequence also with states that last, for which its chunks must be read further.
pub fn sweep(bench: &mut Bench<'_>, shape: Shape) -> Result<(), Error> {
    if !bench.wants("scan") {
        return Ok(());
    }
    let mut name = format!("{} x {}", shape.batch, shape.seqlen);
    if shape.d_model != crate::SMALL.d_model {
        name += &format!(" x {}", shape.d_inner());
    }
    time(bench, shape, &name, Biases::Usual)?;
    if shape.batch == 1 {
        time(bench, shape, &format!("{name}, initial"), Biases::Initial)?;
        time(bench, shape, &format!("{name}, slow"), Biases::Slow)?;
    }
    Ok(())
}

fn time(bench: &mut Bench<'_>, shape: Shape, name: &str, biases: Biases) -> Result<(), Error> {
    let gpu = bench.gpu;
    let p = Problem::with_biases(gpu, shape, biases)?;
    let mut outputs = Outputs::new(gpu, &p)?;
    let elements = (shape.n_rows() * shape.d_inner()) as f64;
    let small = (shape.n_rows() * 2 * D_STATE) as f64 * 2.0;
    let states = elements; // 16 f32 every 16 steps: 4 bytes an element
    // Per element and state: decay, product, two multiply-adds.
    let flop = elements * D_STATE as f64 * 6.0;
    bench.time("scan forward", name, elements * 8.0 + small, flop, || outputs.forward(gpu, &p, false))?;
    bench.time("scan forward, saving", name, elements * 8.0 + small + 4.0 * states, flop, || {
        outputs.forward(gpu, &p, true)
    })?;
    bench.time("scan backward", name, elements * 14.0 + 2.0 * small + 4.0 * states, 3.0 * flop, || {
        outputs.backward(gpu, &p)
    })?;
    Ok(())
}

/// A position of every sequence, from a state that is not zero.
fn step(bench: &mut Bench<'_>, shape: Shape) -> Result<(), Error> {
    let gpu = bench.gpu;
    let p = Problem::new(gpu, shape)?;
    let d = shape.d_inner();
    let state = noise(shape.batch * d * D_STATE, 8, 1.0);
    let mut device_state = gpu.upload(&state)?;
    let mut out = gpu.zeros::<bf16>(shape.batch * d)?;
    let run = |state: &mut CudaSlice<f32>, out: &mut CudaSlice<bf16>| -> Result<(), Error> {
        Ok(device::step(gpu, &p.inputs(gpu)?, gpu.write(state), gpu.rows_mut(out, d)?)?)
    };
    run(&mut device_state, &mut out)?;
    let (h, mut want_state, mut want) = (p.host.wide(), wide32(&state), vec![0.0; shape.batch * d]);
    host::step(&h.inputs(shape, &p.host.plan)?, &mut want_state, RowsMut::new("out", &mut want, d)?)?;
    expect(&format!("scan step out {}", shape.name), relative(wide(&gpu.download(&out)?), &want), 2e-3)?;
    expect(
        &format!("scan step state {}", shape.name),
        relative(wide32(&gpu.download(&device_state)?), &want_state),
        1e-5,
    )?;
    let elements = (shape.batch * d) as f64;
    let bytes = elements * (8.0 * D_STATE as f64 + 8.0);
    bench.time(
        &format!("scan step, {DECODED} sequences"),
        shape.name,
        bytes,
        elements * D_STATE as f64 * 6.0,
        || run(&mut device_state, &mut out),
    )?;
    Ok(())
}

fn check(gpu: &Gpu, shape: Shape) -> Result<(), Error> {
    let p = Problem::new(gpu, shape)?;
    let mut outputs = Outputs::new(gpu, &p)?;
    outputs.forward(gpu, &p, true)?;
    outputs.backward(gpu, &p)?;
    let (n, d, rank) = (shape.n_rows(), shape.d_inner(), shape.dt_rank());
    let h = p.host.wide();
    let inputs = h.inputs(shape, &p.host.plan)?;
    let zeros = |len: usize| vec![0.0f64; len];
    let (mut out, mut saved) = (zeros(n * d), zeros(host::saved_states_len(shape.batch, shape.seqlen, d, D_STATE)));
    let to = host::ScanOutputs::new(RowsMut::new("out", &mut out, d)?).with_saved_states(&mut saved[..]);
    host::forward(&inputs, to)?;
    let (mut gu, mut gdt, mut gz, mut gb, mut gc) =
        (zeros(n * d), zeros(n * d), zeros(n * d), zeros(n * D_STATE), zeros(n * D_STATE));
    let (mut gbias, mut ga, mut gd) = (zeros(3 * d), zeros(d * D_STATE), zeros(d));
    let grads = host::ScanGrads::new(
        RowsMut::new("grad_u", &mut gu, d)?,
        RowsMut::new("grad_dt", &mut gdt, d)?,
        &mut ga,
        RowsMut::new("grad_b", &mut gb, D_STATE)?,
        RowsMut::new("grad_c", &mut gc, D_STATE)?,
    )
    .with_grad_dt_bias(&mut gbias[..])
    .with_grad_d_skip(&mut gd[..])
    .with_grad_z(RowsMut::new("grad_z", &mut gz, d)?);
    let output_grads = host::ScanOutputGrads::new(Rows::new("grad_out", &h.grad_out, d)?);
    host::backward(&inputs, &saved, &output_grads, grads)?;

    let narrow = |x: &CudaSlice<bf16>| -> Result<Vec<f64>, Error> { Ok(wide(&gpu.download(x)?)) };
    let narrow32 = |x: &CudaSlice<f32>| -> Result<Vec<f64>, Error> { Ok(wide32(&gpu.download(x)?)) };
    let columns = |x: Vec<f64>, width: usize, start: usize, len: usize| -> Vec<f64> {
        x.chunks_exact(width).flat_map(|row| row[start..start + len].to_vec()).collect()
    };
    let gx = narrow(&outputs.grad_x_dbl)?;
    let gxz = narrow(&outputs.grad_xz)?;
    // bf16's own rounding is 1.6e-3 to 1.7e-3.
    for (what, got, want, limit) in [
        ("scan out", narrow(&outputs.out)?, &out, 2e-3),
        ("scan grad_u", narrow(&outputs.grad_u)?, &gu, 2e-3),
        ("scan grad_dt", narrow(&outputs.grad_dt)?, &gdt, 2e-3),
        ("scan grad_z", columns(gxz, 2 * d, d, d), &gz, 2e-3),
        ("scan grad_b", columns(gx.clone(), rank + 2 * D_STATE, rank, D_STATE), &gb, 2e-3),
        ("scan grad_c", columns(gx, rank + 2 * D_STATE, rank + D_STATE, D_STATE), &gc, 2e-3),
        ("scan grad_a", narrow32(&outputs.grad_a)?, &ga, 1e-4),
        ("scan grad_d", narrow32(&outputs.grad_d)?, &gd, 1e-4),
        ("scan grad_dt_bias", narrow32(&outputs.grad_bias)?, &gbias, 4e-3),
    ] {
        expect(&format!("{what} {}", shape.name), relative(got, want), limit)?;
    }
    Ok(())
}
