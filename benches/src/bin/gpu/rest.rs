//! The norm with its residual, the optimiser with its norm, the modality plan.

use mom_kernels::cuda::DevicePlan;
use mom_kernels::cuda::adamw::{AdamWStep, AdamWTensor, Clip, adamw, global_norm, global_norm_workspace_len};
use mom_kernels::cuda::half::bf16;
use mom_kernels::cuda::rms_norm as device;
use mom_kernels::{ModalityPlan, Rows, RowsMut, rms_norm as host};

use crate::scan::modality_ids;
use crate::timing::{Bench, expect, noise, relative};
use crate::{Error, Shape};

/// Norm and plan at a shape.
pub fn run(bench: &mut Bench<'_>, shape: Shape) -> Result<(), Error> {
    if bench.wants("norm") {
        norm(bench, shape)?;
    }
    if bench.wants("plan") {
        plan(bench, shape)?;
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
    let mut forward = || {
        let parts = device::Residual { residual: gpu.rows(&d_residual, d)?, sum: gpu.rows_mut(&mut sum, d)? };
        device::forward(gpu, gpu.rows(&d_x, d)?, Some(parts), gpu.read(&d_weight), 1e-5, gpu.rows_mut(&mut y, d)?)
    };
    let bytes = (n * d) as f64 * 2.0;
    forward()?;
    bench.time("norm + residual forward", shape.name, 4.0 * bytes, 0.0, forward)?;
    let (mut grad_x, mut grad_weight) = (gpu.zeros::<bf16>(n * d)?, gpu.zeros::<f32>(d)?);
    let mut workspace = gpu.zeros::<f32>(device::backward_workspace_len(n, d))?;
    let backward = || {
        let inputs = device::NormInputs {
            x: gpu.rows(&sum, d)?,
            weight: gpu.read(&d_weight),
            eps: 1e-5,
            grad_y: gpu.rows(&d_grad_y, d)?,
            grad_sum: Some(gpu.rows(&d_residual, d)?),
        };
        let (grad_x, workspace) = (gpu.rows_mut(&mut grad_x, d)?, gpu.write(&mut workspace));
        device::backward(gpu, &inputs, grad_x, gpu.write(&mut grad_weight), workspace)
    };
    bench.time("norm + residual backward", shape.name, 4.0 * bytes, 0.0, backward)?;
    let wide = |x: &[bf16]| x.iter().map(|x| x.to_f64()).collect::<Vec<f64>>();
    let normed = wide(&gpu.download(&sum)?);
    let weight: Vec<f64> = weight.iter().map(|&w| f64::from(w)).collect();
    let mut want = vec![0.0; n * d];
    host::forward(Rows::new("sum", &normed, d)?, &weight, 1e-5, RowsMut::new("y", &mut want, d)?)?;
    expect(&format!("norm y {}", shape.name), relative(wide(&gpu.download(&y)?), &want), 2e-3)
}

fn plan(bench: &mut Bench<'_>, shape: Shape) -> Result<(), Error> {
    let gpu = bench.gpu;
    let n = shape.n_rows();
    let ids = modality_ids(n);
    let d_ids = gpu.upload(&ids)?;
    let mut plan = DevicePlan::sort(gpu, shape.batch, shape.seqlen, 3, &gpu.read(&d_ids), None)?;
    let want = ModalityPlan::new(shape.batch, shape.seqlen, 3, &ids, None)?;
    if gpu.download(plan.row_of_position())? != want.row_of_position() {
        return Err("the plan differs from the host's".into());
    }
    bench.time("modality plan", shape.name, n as f64 * 10.0, 0.0, || plan.sort_again(gpu, &gpu.read(&d_ids)))?;
    Ok(())
}

/// 64 M weights in 64 tensors, bf16 gradients, clipped.
pub fn optimiser(bench: &mut Bench<'_>) -> Result<(), Error> {
    if !bench.wants("adamw") {
        return Ok(());
    }
    let gpu = bench.gpu;
    let (n, len) = (64, 1 << 20);
    let grad = gpu.upload(&noise(len, 1, 1.0).into_iter().map(bf16::from_f32).collect::<Vec<_>>())?;
    let mut state = Vec::new();
    for _ in 0..n {
        state.push((
            gpu.zeros::<f32>(len)?,
            gpu.zeros::<f32>(len)?,
            gpu.zeros::<f32>(len)?,
            gpu.zeros::<bf16>(len)?,
            grad.clone(),
        ));
    }
    let mut norm = gpu.zeros::<f32>(1)?;
    let mut workspace = gpu.zeros::<f32>(global_norm_workspace_len((0..n).map(|_| len)))?;
    let weights = (n * len) as f64;
    bench.time("global norm", "64 M", 2.0 * weights, 2.0 * weights, || {
        let grads: Vec<_> = state.iter().map(|state| gpu.read(&state.4)).collect();
        global_norm(gpu, &grads, &mut gpu.write(&mut norm), gpu.write(&mut workspace))
    })?;
    let mut step = 0;
    bench.time("adamw", "64 M", 28.0 * weights, 15.0 * weights, || {
        step += 1;
        let mut tensors: Vec<_> = state
            .iter_mut()
            .map(|(master, first, second, weight, grad)| AdamWTensor {
                grad: gpu.read(grad),
                master: gpu.write(master),
                first: gpu.write(first),
                second: gpu.write(second),
                weight: Some(gpu.write(weight)),
                weight_decay: 0.1,
            })
            .collect();
        let clip = Clip { norm: gpu.read(&norm), max_norm: 1.0 };
        let config = AdamWStep { lr: 1e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, step };
        adamw(gpu, &mut tensors, config, Some(&clip))
    })?;
    Ok(())
}
