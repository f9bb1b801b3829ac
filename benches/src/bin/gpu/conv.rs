//! The causal convolution with SiLU, width 4, on the left half of in_proj's output, as in a block.

use mom_kernels::causal_conv1d as host;
use mom_kernels::cuda::DevicePlan;
use mom_kernels::cuda::causal_conv1d as device;
use mom_kernels::cuda::half::bf16;
use mom_kernels::{ModalityPlan, Rows, RowsMut};

use crate::scan::modality_ids;
use crate::timing::{Bench, expect, noise, relative};
use crate::{Error, Shape};

/// Checks one sequence of the shape against f64, then times all of it.
pub fn run(bench: &mut Bench<'_>, shape: Shape) -> Result<(), Error> {
    if !bench.wants("conv") {
        return Ok(());
    }
    one(bench, Shape { batch: 1, ..shape }, None)?;
    one(bench, shape, Some(shape.name))
}

/// Times only: lengths at constant tokens.
pub fn sweep(bench: &mut Bench<'_>, shape: Shape) -> Result<(), Error> {
    if !bench.wants("conv") {
        return Ok(());
    }
    one(bench, shape, Some(&format!("{} x {}", shape.batch, shape.seqlen)))
}

/// Times both directions under a name, or checks them without one.
fn one(bench: &mut Bench<'_>, shape: Shape, timed_as: Option<&str>) -> Result<(), Error> {
    let gpu = bench.gpu;
    let (n, d) = (shape.n_rows(), shape.d_inner());
    let host_plan = ModalityPlan::new(shape.batch, shape.seqlen, 3, &modality_ids(n, 3), None)?;
    let plan = DevicePlan::upload(gpu, &host_plan)?;
    let to = |x: Vec<f32>| x.into_iter().map(bf16::from_f32).collect::<Vec<_>>();
    let (xz, grad_out) = (to(noise(n * 2 * d, 1, 2.0)), to(noise(n * d, 2, 1.0)));
    let (weight, bias) = (noise(d * 4, 3, 0.5), noise(d, 4, 0.5));
    let (d_xz, d_grad_out) = (gpu.upload(&xz)?, gpu.upload(&grad_out)?);
    let (d_weight, d_bias) = (gpu.upload(&weight)?, gpu.upload(&bias)?);
    let inputs = device::ConvInputs::new(plan.layout(gpu), gpu.rows(&d_xz, 2 * d)?.columns(0, d)?, gpu.read(&d_weight))
        .with_bias(gpu.read(&d_bias));
    let mut out = gpu.zeros::<bf16>(n * d)?;
    let mut grad_xz = gpu.zeros::<bf16>(n * 2 * d)?;
    let (mut grad_weight, mut grad_bias) = (gpu.zeros::<f32>(d * 4)?, gpu.zeros::<f32>(d)?);
    let mut workspace = gpu.zeros::<f32>(device::backward_workspace_len(&inputs)?)?;
    let mut forward = || device::forward(gpu, &inputs, gpu.rows_mut(&mut out, d)?, None);
    let mut backward = || {
        let grads =
            device::ConvGrads::new(gpu.rows_mut(&mut grad_xz, 2 * d)?.columns(0, d)?, gpu.write(&mut grad_weight))
                .with_grad_bias(gpu.write(&mut grad_bias));
        device::backward(gpu, &inputs, gpu.rows(&d_grad_out, d)?, None, grads, gpu.write(&mut workspace))
    };
    if let Some(name) = timed_as {
        let elements = (n * d) as f64;
        bench.time("conv forward", name, 4.0 * elements, 8.0 * elements, forward)?;
        bench.time("conv backward", name, 6.0 * elements, 24.0 * elements, backward)?;
        return Ok(());
    }
    forward()?;
    backward()?;
    let wide = |x: &[bf16]| x.iter().map(|x| x.to_f64()).collect::<Vec<f64>>();
    let wide32 = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
    let (xz, grad_out, weight, bias) = (wide(&xz), wide(&grad_out), wide32(&weight), wide32(&bias));
    let inputs = host::ConvInputs::new(host_plan.layout(), Rows::new("xz", &xz, 2 * d)?.columns(0, d)?, &weight)
        .with_bias(&bias[..]);
    let (mut want, mut want_x) = (vec![0.0; n * d], vec![0.0; n * d]);
    let (mut want_weight, mut want_bias) = (vec![0.0; d * 4], vec![0.0; d]);
    host::forward(&inputs, RowsMut::new("out", &mut want, d)?, None)?;
    let grads = host::ConvGrads::new(RowsMut::new("grad_x", &mut want_x, d)?, &mut want_weight)
        .with_grad_bias(&mut want_bias[..]);
    host::backward(&inputs, Rows::new("grad_out", &grad_out, d)?, None, grads)?;
    let got_x: Vec<f64> =
        wide(&gpu.download(&grad_xz)?).chunks_exact(2 * d).flat_map(|row| row[..d].to_vec()).collect();
    for (what, got, want, limit) in [
        ("conv out", wide(&gpu.download(&out)?), &want, 2e-3),
        ("conv grad_x", got_x, &want_x, 2e-3),
        ("conv grad_weight", wide32(&gpu.download(&grad_weight)?), &want_weight, 1e-4),
        ("conv grad_bias", wide32(&gpu.download(&grad_bias)?), &want_bias, 1e-4),
    ] {
        expect(&format!("{what} {}", shape.name), relative(got, want), limit)?;
    }
    Ok(())
}
