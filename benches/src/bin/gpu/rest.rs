//! The norm with its residual, the modality plan, sums by modality, the optimiser with its norm.

use mom_kernels::cuda::adamw::{AdamWStep, AdamWTensor, Clip, adamw, global_norm, global_norm_workspace_len};
use mom_kernels::cuda::cudarc::driver::CudaSlice;
use mom_kernels::cuda::half::bf16;
use mom_kernels::cuda::rms_norm as device;
use mom_kernels::cuda::{DevicePlan, Gpu, Result as GpuResult, column_sums};
use mom_kernels::{ModalityPlan, Rows, RowsMut, rms_norm as host};

use crate::scan::modality_ids;
use crate::timing::{Bench, expect, noise, relative};
use crate::{Error, Shape};

const EPS: f32 = 1e-5;

/// Tensors of the optimiser's bench.
pub const N_TENSORS: usize = 64;
/// Their length.
pub const TENSOR_LEN: usize = 1 << 20;
const STEP: AdamWStep = AdamWStep::new(1e-3, 1).with_betas(0.9, 0.95);
const DECAY: f64 = 0.1;
const MAX_NORM: f64 = 1.0;

/// Norm, plan and sums at a shape.
pub fn run(bench: &mut Bench<'_>, shape: Shape) -> Result<(), Error> {
    if bench.wants("norm") {
        norm(bench, shape)?;
    }
    if bench.wants("plan") {
        plan(bench, shape)?;
    }
    if bench.wants("column sums") {
        sums(bench, shape)?;
    }
    Ok(())
}

fn norm(bench: &mut Bench<'_>, shape: Shape) -> Result<(), Error> {
    let gpu = bench.gpu;
    let (n, d) = (shape.n_rows(), shape.d_model);
    let to = |x: Vec<f32>| x.into_iter().map(bf16::from_f32).collect::<Vec<_>>();
    let (x, residual, grad_y) = (to(noise(n * d, 1, 2.0)), to(noise(n * d, 2, 1.0)), to(noise(n * d, 3, 1.0)));
    let weight = noise(d, 4, 1.0);
    let (d_x, d_residual, d_grad_y) = (gpu.upload(&x)?, gpu.upload(&residual)?, gpu.upload(&grad_y)?);
    let d_weight = gpu.upload(&weight)?;
    let (mut y, mut sum) = (gpu.zeros::<bf16>(n * d)?, gpu.zeros::<bf16>(n * d)?);
    let forward = |sum: &mut CudaSlice<bf16>, y: &mut CudaSlice<bf16>| {
        let parts = device::Residual::new(gpu.rows(&d_residual, d)?, gpu.rows_mut(sum, d)?);
        device::forward(gpu, gpu.rows(&d_x, d)?, Some(parts), gpu.read(&d_weight), EPS, gpu.rows_mut(y, d)?)
    };
    let (mut grad_x, mut grad_weight) = (gpu.zeros::<bf16>(n * d)?, gpu.zeros::<f32>(d)?);
    let mut workspace = gpu.zeros::<f32>(device::backward_workspace_len(n, d))?;
    let mut backward = |sum: &CudaSlice<bf16>, grad_x: &mut CudaSlice<bf16>, grad_weight: &mut CudaSlice<f32>| {
        let inputs = device::NormInputs::new(gpu.rows(sum, d)?, gpu.read(&d_weight), EPS, gpu.rows(&d_grad_y, d)?)
            .with_grad_sum(gpu.rows(&d_residual, d)?);
        let (grad_x, workspace) = (gpu.rows_mut(grad_x, d)?, gpu.write(&mut workspace));
        device::backward(gpu, &inputs, grad_x, gpu.write(grad_weight), workspace)
    };
    forward(&mut sum, &mut y)?;
    backward(&sum, &mut grad_x, &mut grad_weight)?;
    let got = [gpu.download(&y)?, gpu.download(&sum)?, gpu.download(&grad_x)?];
    check_norm(
        shape,
        [&x, &residual, &grad_y],
        &weight,
        got.each_ref().map(Vec::as_slice),
        &gpu.download(&grad_weight)?,
    )?;
    let bytes = (n * d) as f64 * 2.0;
    bench.time("norm + residual forward", shape.name, 4.0 * bytes, 0.0, || forward(&mut sum, &mut y))?;
    bench.time("norm + residual backward", shape.name, 4.0 * bytes, 0.0, || {
        backward(&sum, &mut grad_x, &mut grad_weight)
    })?;
    Ok(())
}

/// y, the sum, grad_x and grad_weight against f64; the gradient of the sum from elsewhere is `residual` again.
fn check_norm(
    shape: Shape,
    [x, residual, grad_y]: [&[bf16]; 3],
    weight: &[f32],
    [y, sum, grad_x]: [&[bf16]; 3],
    grad_weight: &[f32],
) -> Result<(), Error> {
    let d = shape.d_model;
    let wide = |x: &[bf16]| x.iter().map(|x| x.to_f64()).collect::<Vec<f64>>();
    let wide32 = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
    let [x, residual, grad_y, y, sum, grad_x] = [x, residual, grad_y, y, sum, grad_x].map(wide);
    let weight = wide32(weight);
    let want_sum: Vec<f64> = x.iter().zip(&residual).map(|(x, residual)| x + residual).collect();
    // The norm is that of the sum as it was stored.
    let rows = Rows::new("sum", &sum, d)?;
    let (mut want_y, mut want_x, mut want_weight) = (vec![0.0; y.len()], vec![0.0; y.len()], vec![0.0; d]);
    host::forward(rows, &weight, f64::from(EPS), RowsMut::new("y", &mut want_y, d)?)?;
    let (grad_y, to_x) = (Rows::new("grad_y", &grad_y, d)?, RowsMut::new("grad_x", &mut want_x, d)?);
    host::backward(rows, &weight, f64::from(EPS), grad_y, to_x, &mut want_weight)?;
    want_x.iter_mut().zip(&residual).for_each(|(grad, sum)| *grad += sum);
    let name = |what: &str| format!("norm {what} {}", shape.name);
    expect(&name("sum"), relative(sum, &want_sum), 2e-3)?;
    expect(&name("y"), relative(y, &want_y), 2e-3)?;
    expect(&name("grad_x"), relative(grad_x, &want_x), 2e-3)?;
    expect(&name("grad_weight"), relative(wide32(grad_weight), &want_weight), 1e-4)
}

fn plan(bench: &mut Bench<'_>, shape: Shape) -> Result<(), Error> {
    let gpu = bench.gpu;
    let n = shape.n_rows();
    let ids = modality_ids(n, 3);
    let d_ids = gpu.upload(&ids)?;
    let mut plan = DevicePlan::sort(gpu, shape.batch, shape.seqlen, 3, &gpu.read(&d_ids), None)?;
    let want = ModalityPlan::new(shape.batch, shape.seqlen, 3, &ids, None)?;
    if gpu.download(plan.row_of_position())? != want.row_of_position() {
        return Err("the plan differs from the host's".into());
    }
    bench.time("modality plan", shape.name, n as f64 * 10.0, 0.0, || plan.sort_again(gpu, &gpu.read(&d_ids)))?;
    Ok(())
}

/// The gradient of dt_proj's biases: rows of d_inner summed by modality.
fn sums(bench: &mut Bench<'_>, shape: Shape) -> Result<(), Error> {
    let gpu = bench.gpu;
    let (n, d) = (shape.n_rows(), shape.d_inner());
    let host_plan = ModalityPlan::new(shape.batch, shape.seqlen, 3, &modality_ids(n, 3), None)?;
    let plan = DevicePlan::upload(gpu, &host_plan)?;
    let x: Vec<bf16> = noise(n * d, 1, 1.0).into_iter().map(bf16::from_f32).collect();
    let (device_x, mut to) = (gpu.upload(&x)?, gpu.zeros::<f32>(3 * d)?);
    let mut workspace = gpu.zeros::<f32>(column_sums::workspace_len(n, 3, d))?;
    let mut run = |to: &mut CudaSlice<f32>| {
        let (x, workspace) = (gpu.rows(&device_x, d)?, gpu.write(&mut workspace));
        column_sums::column_sums(gpu, &plan.modality_offsets(gpu), &x, gpu.write(to), workspace)
    };
    run(&mut to)?;
    let mut want = vec![0.0; 3 * d];
    for (modality, want) in want.chunks_exact_mut(d).enumerate() {
        for row in host_plan.modality_offsets().rows(modality) {
            want.iter_mut().zip(&x[row * d..]).for_each(|(sum, x)| *sum += x.to_f64());
        }
    }
    let got = gpu.download(&to)?.into_iter().map(f64::from);
    expect(&format!("column sums {}", shape.name), relative(got, &want), 1e-5)?;
    bench.time("column sums", shape.name, 2.0 * (n * d) as f64, (n * d) as f64, || run(&mut to))?;
    Ok(())
}

/// Weights, moments and the rounded weights of a tensor, and its gradient.
struct Tensor {
    master: CudaSlice<f32>,
    first: CudaSlice<f32>,
    second: CudaSlice<f32>,
    weight: CudaSlice<bf16>,
    grad: CudaSlice<bf16>,
}

/// A step over all tensors, clipped.
fn step(gpu: &Gpu, tensors: &mut [Tensor], norm: &CudaSlice<f32>, step: u32) -> GpuResult<()> {
    let mut tensors: Vec<_> = tensors
        .iter_mut()
        .map(|tensor| {
            AdamWTensor::new(
                gpu.read(&tensor.grad),
                gpu.write(&mut tensor.master),
                gpu.write(&mut tensor.first),
                gpu.write(&mut tensor.second),
            )
            .with_weight(gpu.write(&mut tensor.weight))
            .with_weight_decay(DECAY as f32)
        })
        .collect();
    let clip = Clip::new(gpu.read(norm), MAX_NORM as f32);
    adamw(gpu, &mut tensors, STEP.with_step(step), Some(&clip))
}

/// 64 M weights in 64 tensors, bf16 gradients, clipped.
pub fn optimiser(bench: &mut Bench<'_>) -> Result<(), Error> {
    if !bench.wants("adamw") {
        return Ok(());
    }
    let gpu = bench.gpu;
    let grad: Vec<bf16> = noise(TENSOR_LEN, 1, 1.0).into_iter().map(bf16::from_f32).collect();
    let master = noise(TENSOR_LEN, 2, 1.0);
    let mut tensors = Vec::new();
    for _ in 0..N_TENSORS {
        tensors.push(Tensor {
            master: gpu.upload(&master)?,
            first: gpu.zeros(TENSOR_LEN)?,
            second: gpu.zeros(TENSOR_LEN)?,
            weight: gpu.zeros(TENSOR_LEN)?,
            grad: gpu.upload(&grad)?,
        });
    }
    let mut norm = gpu.zeros::<f32>(1)?;
    let mut workspace = gpu.zeros::<f32>(global_norm_workspace_len([TENSOR_LEN; N_TENSORS]))?;
    let mut sum = |norm: &mut CudaSlice<f32>, tensors: &[Tensor]| {
        let grads: Vec<_> = tensors.iter().map(|tensor| gpu.read(&tensor.grad)).collect();
        global_norm(gpu, &grads, &mut gpu.write(norm), gpu.write(&mut workspace))
    };
    sum(&mut norm, &tensors)?;
    step(gpu, &mut tensors, &norm, 1)?;
    check_step(gpu, &grad, &master, &tensors, &norm)?;
    let weights = (N_TENSORS * TENSOR_LEN) as f64;
    bench.time("global norm", "64 M", 2.0 * weights, 2.0 * weights, || sum(&mut norm, &tensors))?;
    let mut n_steps = 1;
    bench.time("adamw", "64 M", 28.0 * weights, 15.0 * weights, || {
        n_steps += 1;
        step(gpu, &mut tensors, &norm, n_steps)
    })?;
    Ok(())
}

/// The first step, of the first and the last tensor, in f64.
fn check_step(
    gpu: &Gpu,
    grad: &[bf16],
    master: &[f32],
    tensors: &[Tensor],
    norm: &CudaSlice<f32>,
) -> Result<(), Error> {
    let wide = |x: Vec<f32>| x.into_iter().map(f64::from).collect::<Vec<f64>>();
    let mut grad: Vec<f64> = grad.iter().map(|x| x.to_f64()).collect();
    let want_norm = (N_TENSORS as f64 * grad.iter().map(|g| g * g).sum::<f64>()).sqrt();
    expect("global norm", relative(wide(gpu.download(norm)?), &[want_norm]), 1e-6)?;
    grad.iter_mut().for_each(|g| *g *= (MAX_NORM / want_norm).min(1.0));
    let first: Vec<f64> = grad.iter().map(|g| (1.0 - STEP.beta1) * g).collect();
    let second: Vec<f64> = grad.iter().map(|g| (1.0 - STEP.beta2) * g * g).collect();
    // At the first step the corrections undo the betas.
    let update = |(w, g): (&f32, &f64)| f64::from(*w) - STEP.lr * (DECAY * f64::from(*w) + g / (g.abs() + STEP.eps));
    let want: Vec<f64> = master.iter().zip(&grad).map(update).collect();
    for tensor in [&tensors[0], &tensors[N_TENSORS - 1]] {
        expect("adamw weights", relative(wide(gpu.download(&tensor.master)?), &want), 1e-6)?;
        expect("adamw first moment", relative(wide(gpu.download(&tensor.first)?), &first), 1e-5)?;
        expect("adamw second moment", relative(wide(gpu.download(&tensor.second)?), &second), 1e-5)?;
        let rounded = gpu.download(&tensor.weight)?.into_iter().map(|w| w.to_f64());
        expect("adamw rounded weights", relative(rounded, &want), 2e-3)?;
    }
    Ok(())
}
