//! A residual block of three modalities, every projection split, and the same code with one modality, with four (the most
//! that one set of kernels takes) and with eight (the other set): what a step of training takes, and what it holds.

use mom_kernels::cuda::cudarc::driver::CudaSlice;
use mom_kernels::cuda::grouped_gemm::{GroupedGrads, GroupedWeights};
use mom_kernels::cuda::half::bf16;
use mom_kernels::cuda::mixer as device;
use mom_kernels::cuda::{Detail, DevicePlan, Gpu, Result as GpuResult, Time};
use mom_kernels::mixer::{self as host, ProjectionGrads};
use mom_kernels::{ModalityPlan, Rows, RowsMut, grouped_gemm, rms_norm};

use crate::machine::allocated_bytes;
use crate::scan::{D_STATE, modality_ids};
use crate::timing::{Bench, expect, noise, relative};
use crate::{Error, Shape};

const EPS: f32 = 1e-5;

/// Parameters on the host, as the device sees them: projections (in, x, dt, out), every modality one behind the other.
struct Host {
    n_modalities: usize,
    sizes: [[usize; 2]; 4],
    projections: [Vec<bf16>; 4],
    dt_biases: Vec<f32>,
    conv_weight: Vec<f32>,
    conv_bias: Vec<f32>,
    a_log: Vec<f32>,
    d_skip: Vec<f32>,
    norm: Vec<f32>,
}

impl Host {
    fn new(shape: Shape, n_modalities: usize) -> Self {
        let (d_model, d, rank) = (shape.d_model, shape.d_inner(), shape.dt_rank());
        let sizes = [[d_model, 2 * d], [d, rank + 2 * D_STATE], [rank, d], [d, d_model]];
        let projection = |at: usize| {
            let [n_in, n_out] = sizes[at];
            let values = noise(n_modalities * n_in * n_out, 10 + at as u64, (3.0 / n_in as f32).sqrt());
            values.into_iter().map(bf16::from_f32).collect()
        };
        Self {
            n_modalities,
            sizes,
            projections: [projection(0), projection(1), projection(2), projection(3)],
            dt_biases: noise(n_modalities * d, 20, 1.0).into_iter().map(|x| x - 3.5).collect(),
            conv_weight: noise(d * 4, 21, 0.5),
            conv_bias: noise(d, 22, 0.5),
            a_log: (0..d * D_STATE).map(|i| ((i % D_STATE) as f32 + 1.0).ln()).collect(),
            d_skip: noise(d, 23, 1.0),
            norm: noise(d_model, 24, 0.3).into_iter().map(|x| 1.0 + x).collect(),
        }
    }
}

/// The same on the device, or their gradients.
struct Parameters {
    sizes: [[usize; 2]; 4],
    projections: [Vec<CudaSlice<bf16>>; 4],
    dt_biases: CudaSlice<f32>,
    conv_weight: CudaSlice<f32>,
    conv_bias: CudaSlice<f32>,
    a_log: CudaSlice<f32>,
    d_skip: CudaSlice<f32>,
    norm: CudaSlice<f32>,
}

impl Parameters {
    fn upload(gpu: &Gpu, host: &Host) -> GpuResult<Self> {
        let each = |at: usize| {
            let [n_in, n_out] = host.sizes[at];
            host.projections[at]
                .chunks_exact(n_in * n_out)
                .map(|weight| gpu.upload(weight))
                .collect::<GpuResult<Vec<_>>>()
        };
        Ok(Self {
            sizes: host.sizes,
            projections: [each(0)?, each(1)?, each(2)?, each(3)?],
            dt_biases: gpu.upload(&host.dt_biases)?,
            conv_weight: gpu.upload(&host.conv_weight)?,
            conv_bias: gpu.upload(&host.conv_bias)?,
            a_log: gpu.upload(&host.a_log)?,
            d_skip: gpu.upload(&host.d_skip)?,
            norm: gpu.upload(&host.norm)?,
        })
    }

    fn read<'a>(&'a self, gpu: &'a Gpu) -> GpuResult<device::Block<'a, bf16>> {
        let projection = |at: usize| {
            let weights = self.projections[at].iter().map(|weight| gpu.read(weight)).collect();
            let [n_in, n_out] = self.sizes[at];
            // dt_proj alone has biases, as in the published block.
            GroupedWeights::new(n_in, n_out, weights, (at == 2).then(|| gpu.read(&self.dt_biases)))
        };
        let mixer = device::MixerWeights::new(
            projection(0)?,
            gpu.read(&self.conv_weight),
            projection(1)?,
            projection(2)?,
            gpu.read(&self.a_log),
            gpu.read(&self.d_skip),
            projection(3)?,
        )
        .with_conv_bias(gpu.read(&self.conv_bias));
        Ok(device::Block::new(gpu.read(&self.norm), EPS, mixer))
    }

    fn write<'a>(
        &'a mut self,
        gpu: &'a Gpu,
        grad_x: &'a mut CudaSlice<bf16>,
        d_model: usize,
    ) -> GpuResult<device::BlockGrads<'a, bf16>> {
        let [in_proj, x_proj, dt_proj, out_proj] = self
            .projections
            .each_mut()
            .map(|weights| GroupedGrads::new(weights.iter_mut().map(|weight| gpu.write(weight)).collect()));
        let dt_proj = dt_proj.with_grad_biases(gpu.write(&mut self.dt_biases));
        let mixer = device::MixerGrads::new(
            gpu.rows_mut(grad_x, d_model)?,
            in_proj,
            gpu.write(&mut self.conv_weight),
            x_proj,
            dt_proj,
            gpu.write(&mut self.a_log),
            gpu.write(&mut self.d_skip),
            out_proj,
        )
        .with_conv_bias(gpu.write(&mut self.conv_bias));
        Ok(device::BlockGrads::new(gpu.write(&mut self.norm), mixer))
    }
}

/// A block, its input, and all that a forward and a backward pass write.
struct Problem {
    shape: Shape,
    plan: DevicePlan,
    parameters: Parameters,
    x: CudaSlice<bf16>,
    grad_out: CudaSlice<bf16>,
    out: CudaSlice<bf16>,
    xz: CudaSlice<bf16>,
    x_dbl: CudaSlice<bf16>,
    states: CudaSlice<f32>,
    grads: Parameters,
    grad_x: CudaSlice<bf16>,
    /// For either pass: the larger of both needs.
    workspace: CudaSlice<u8>,
}

impl Problem {
    fn new(gpu: &Gpu, shape: Shape, plan: &ModalityPlan, host: &Host) -> Result<Self, Error> {
        let [x, grad_out] = inputs(shape);
        let plan = DevicePlan::upload(gpu, plan)?;
        let parameters = Parameters::upload(gpu, host)?;
        let block = parameters.read(gpu)?;
        let sizes = block.mixer.sizes(&plan)?;
        let workspace_bytes = device::block_forward_workspace_bytes(&plan, &block, device::Saves::ForBackward)?
            .max(device::block_backward_workspace_bytes(gpu, &plan, &block)?);
        drop(block);
        Ok(Self {
            shape,
            x: gpu.upload(&x)?,
            grad_out: gpu.upload(&grad_out)?,
            out: gpu.zeros(x.len())?,
            xz: gpu.zeros(sizes.xz_len())?,
            x_dbl: gpu.zeros(sizes.x_dbl_len())?,
            states: gpu.zeros(sizes.states_len)?,
            grads: Parameters::upload(gpu, host)?,
            grad_x: gpu.zeros(x.len())?,
            workspace: gpu.zeros(workspace_bytes)?,
            parameters,
            plan,
        })
    }

    fn forward(&mut self, gpu: &Gpu) -> GpuResult<()> {
        let (d_model, block) = (self.shape.d_model, self.parameters.read(gpu)?);
        let saved =
            device::MixerSaved::new(gpu.write(&mut self.xz), gpu.write(&mut self.x_dbl), gpu.write(&mut self.states));
        let bytes = device::block_forward_workspace_bytes(&self.plan, &block, device::Saves::ForBackward)?;
        let workspace = gpu.write(&mut self.workspace).first("workspace", bytes)?;
        let (x, out) = (gpu.rows(&self.x, d_model)?, gpu.rows_mut(&mut self.out, d_model)?);
        device::block_forward(gpu, &self.plan, &x, &block, out, Some(saved), workspace)
    }

    fn backward(&mut self, gpu: &Gpu) -> GpuResult<()> {
        let (d_model, block) = (self.shape.d_model, self.parameters.read(gpu)?);
        let pass = device::MixerBackward::new(
            gpu.rows(&self.x, d_model)?,
            device::MixerSaved::new(gpu.write(&mut self.xz), gpu.write(&mut self.x_dbl), gpu.write(&mut self.states)),
            gpu.rows(&self.grad_out, d_model)?,
        );
        let bytes = device::block_backward_workspace_bytes(gpu, &self.plan, &block)?;
        let workspace = gpu.write(&mut self.workspace).first("workspace", bytes)?;
        let grads = self.grads.write(gpu, &mut self.grad_x, d_model)?;
        device::block_backward(gpu, &self.plan, &block, pass, grads, workspace)
    }
}

/// x and the gradient of the output.
fn inputs(shape: Shape) -> [Vec<bf16>; 2] {
    [1, 2].map(|seed| noise(shape.n_rows() * shape.d_model, seed, 1.0).into_iter().map(bf16::from_f32).collect())
}

/// The modalities in spans.
fn plan(shape: Shape, n_modalities: usize) -> Result<ModalityPlan, Error> {
    let n = shape.n_rows();
    Ok(ModalityPlan::new(shape.batch, shape.seqlen, n_modalities, &modality_ids(n, n_modalities), None)?)
}

/// Checks one sequence of the shape against f64, then times all of it, with `profile` by kernel too. The plan is sorted once a batch, not
/// in a block.
pub fn run(bench: &mut Bench<'_>, shape: Shape, profile: bool) -> Result<(), Error> {
    if !bench.wants("block") {
        return Ok(());
    }
    for (n_modalities, name) in [(3, "block"), (1, "block K = 1"), (4, "block K = 4"), (8, "block K = 8")] {
        let host = Host::new(shape, n_modalities);
        check(bench.gpu, Shape { batch: 1, ..shape }, &host, name)?;
        let before = allocated_bytes(bench.gpu)?;
        // The library's workspace counts.
        let gpu = &Gpu::with_stream(bench.gpu.stream().clone())?;
        gpu.load_library()?;
        let mut problem = Problem::new(gpu, shape, &plan(shape, n_modalities)?, &host)?;
        let weights: usize = host.sizes.iter().map(|[n_in, n_out]| n_in * n_out).sum();
        let flop = 2.0 * shape.n_rows() as f64 * weights as f64;
        let time = |bench: &mut Bench<'_>, what: &str, flop: f64, call: &mut dyn FnMut() -> GpuResult<()>| {
            bench.time(&format!("{name} {what}"), shape.name, 0.0, flop, call)
        };
        // No backward pass alone: it consumes what the forward pass saved.
        time(bench, "forward", flop, &mut || problem.forward(gpu))?;
        time(bench, "forward + backward", 3.0 * flop, &mut || {
            problem.forward(gpu)?;
            problem.backward(gpu)
        })?;
        if profile {
            let passes = bench.reps();
            gpu.start_profile(Detail::Launches);
            for _ in 0..passes {
                problem.forward(gpu)?;
                problem.backward(gpu)?;
            }
            let mut kernels = gpu.end_profile()?;
            kernels.sort_by(|a, b| b.ms.total_cmp(&a.ms));
            for Time { name: kernel, count, ms } in kernels {
                let (count, ms) = (count / passes, ms / passes as f32);
                println!("    {name:12} {:10} {kernel:32} {count:3} {ms:8.4} ms", shape.name);
            }
        }
        bench.holds(&format!("{name} peak memory"), shape.name, allocated_bytes(gpu)? - before);
    }
    Ok(())
}

/// The output and every gradient.
fn check(gpu: &Gpu, shape: Shape, host: &Host, name: &str) -> Result<(), Error> {
    let gpu = &Gpu::with_stream(gpu.stream().clone())?;
    gpu.load_library()?;
    let host_plan = plan(shape, host.n_modalities)?;
    let mut problem = Problem::new(gpu, shape, &host_plan, host)?;
    problem.forward(gpu)?;
    problem.backward(gpu)?;
    let want = on_host(shape, &host_plan, host)?;
    let narrow = |x: &CudaSlice<bf16>| -> GpuResult<Vec<f64>> { Ok(wide(&gpu.download(x)?)) };
    let narrow32 = |x: &CudaSlice<f32>| -> GpuResult<Vec<f64>> { Ok(wide32(&gpu.download(x)?)) };
    let projection = |at: usize| -> GpuResult<Vec<f64>> {
        Ok(problem.grads.projections[at].iter().map(narrow).collect::<GpuResult<Vec<_>>>()?.concat())
    };
    let grads = &problem.grads;
    let got = [
        ("out", narrow(&problem.out)?),
        ("grad x", narrow(&problem.grad_x)?),
        ("grad norm", narrow32(&grads.norm)?),
        ("grad in_proj", projection(0)?),
        ("grad conv", narrow32(&grads.conv_weight)?),
        ("grad conv bias", narrow32(&grads.conv_bias)?),
        ("grad x_proj", projection(1)?),
        ("grad dt_proj", projection(2)?),
        ("grad dt bias", narrow32(&grads.dt_biases)?),
        ("grad A_log", narrow32(&grads.a_log)?),
        ("grad D", narrow32(&grads.d_skip)?),
        ("grad out_proj", projection(3)?),
    ];
    // Ten matrices are rounded to bf16 on the way, each by 1.7e-3 of its norm.
    for ((what, got), want) in got.into_iter().zip(want) {
        expect(&format!("{name} {what} {}", shape.name), relative(got, &want), 1.7e-2)?;
    }
    Ok(())
}

fn wide(x: &[bf16]) -> Vec<f64> {
    x.iter().map(|x| x.to_f64()).collect()
}

fn wide32(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// What [`check`] compares, in its order, in f64.
fn on_host(shape: Shape, plan: &ModalityPlan, of: &Host) -> Result<[Vec<f64>; 12], Error> {
    let d_model = shape.d_model;
    let [x, grad_out] = inputs(shape).map(|x| wide(&x));
    let projections = of.projections.each_ref().map(|weights| wide(weights));
    let [dt_biases, conv_weight, conv_bias, a_log, d_skip, norm] =
        [&of.dt_biases, &of.conv_weight, &of.conv_bias, &of.a_log, &of.d_skip, &of.norm].map(|x| wide32(x));
    let projection = |at: usize| {
        let [n_in, n_out] = of.sizes[at];
        let biases = (at == 2).then(|| dt_biases.chunks_exact(n_out).collect());
        grouped_gemm::GroupedWeights::new(n_in, n_out, projections[at].chunks_exact(n_in * n_out).collect(), biases)
    };
    let weights = host::MixerWeights::new(
        projection(0)?,
        &conv_weight,
        projection(1)?,
        projection(2)?,
        &a_log,
        &d_skip,
        projection(3)?,
    )
    .with_conv_bias(&conv_bias[..]);
    let (eps, rows) = (f64::from(EPS), Rows::new("x", &x, d_model)?);
    let mut normed = vec![0.0; x.len()];
    rms_norm::forward(rows, &norm, eps, RowsMut::new("normed", &mut normed, d_model)?)?;
    let normed = Rows::new("normed", &normed, d_model)?;
    let (mut out, saved) = host::forward_saving(plan, normed, &weights)?;
    out.iter_mut().zip(&x).for_each(|(out, x)| *out += x);
    let grads = host::backward(plan, normed, &weights, &saved, Rows::new("grad_out", &grad_out, d_model)?)?;
    let (mut grad_x, mut grad_norm) = (vec![0.0; x.len()], vec![0.0; d_model]);
    let grad_normed = Rows::new("grad_normed", &grads.x, d_model)?;
    rms_norm::backward(rows, &norm, eps, grad_normed, RowsMut::new("grad_x", &mut grad_x, d_model)?, &mut grad_norm)?;
    grad_x.iter_mut().zip(&grad_out).for_each(|(grad, past)| *grad += past);
    let flat = |grads: &ProjectionGrads<f64>| grads.weights.concat();
    Ok([
        out,
        grad_x,
        grad_norm,
        flat(&grads.in_proj),
        grads.conv_weight,
        grads.conv_bias,
        flat(&grads.x_proj),
        flat(&grads.dt_proj),
        grads.dt_proj.biases.concat(),
        grads.a_log,
        grads.d_skip,
        flat(&grads.out_proj),
    ])
}
