//! mom-kernels alone on a GPU: two sequences of three modalities through the scan, and the same on the CPU beside it.
//!
//! `cargo run --release -p mom-kernels --features cuda --example gpu_scan`. Needs no toolkit; without a driver it says so.

use mom_kernels::cuda::half::bf16;
use mom_kernels::cuda::selective_scan::{ScanInputs, ScanOutputs, forward, forward_workspace_len};
use mom_kernels::cuda::{DevicePlan, Gpu};
use mom_kernels::selective_scan as host;
use mom_kernels::{ModalityPlan, Rows, RowsMut};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (batch, seqlen, d_inner, d_state) = (2, 512, 256, 16);
    let n_rows = batch * seqlen;
    // Spans of 64 tokens of modality 0, 1, 2, 0, ...
    let ids: Vec<u8> = (0..n_rows).map(|position| (position / 64 % 3) as u8).collect();
    // Values between -1 and 1 that look random.
    let wave = |len: usize, step: f32| (0..len).map(|i| bf16::from_f32((i as f32 * step).sin())).collect::<Vec<_>>();
    let (u, dt, bc) = (wave(n_rows * d_inner, 0.7), wave(n_rows * d_inner, 1.3), wave(n_rows * 2 * d_state, 2.1));
    let a: Vec<f32> = (0..d_inner * d_state).map(|i| -((i % d_state) as f32 + 1.0)).collect();

    // On the GPU: the plan is sorted there, the scan finds its rows through it.
    let gpu = Gpu::new(0)?;
    let device_ids = gpu.upload(&ids)?;
    let plan = DevicePlan::sort(&gpu, batch, seqlen, 3, &gpu.read(&device_ids), None)?;
    let (device_u, device_dt, device_bc, device_a) =
        (gpu.upload(&u)?, gpu.upload(&dt)?, gpu.upload(&bc)?, gpu.upload(&a)?);
    let mut out = gpu.zeros::<bf16>(n_rows * d_inner)?;
    let inputs = ScanInputs::new(
        plan.layout(&gpu),
        gpu.rows(&device_u, d_inner)?,
        gpu.rows(&device_dt, d_inner)?,
        gpu.read(&device_a),
        gpu.rows(&device_bc, 2 * d_state)?.columns(0, d_state)?,
        gpu.rows(&device_bc, 2 * d_state)?.columns(d_state, d_state)?,
    );
    let outputs = ScanOutputs::new(gpu.rows_mut(&mut out, d_inner)?);
    let mut workspace = gpu.zeros::<f32>(forward_workspace_len(batch, seqlen, d_inner, d_state))?;
    forward(&gpu, &inputs, outputs, gpu.write(&mut workspace))?;
    let on_gpu = gpu.download(&out)?;

    // On the CPU, in f64.
    let wide = |x: &[bf16]| x.iter().map(|x| x.to_f64()).collect::<Vec<f64>>();
    let (u, dt, bc) = (wide(&u), wide(&dt), wide(&bc));
    let a: Vec<f64> = a.iter().map(|&a| f64::from(a)).collect();
    let host_plan = ModalityPlan::new(batch, seqlen, 3, &ids, None)?;
    let bc = Rows::new("bc", &bc, 2 * d_state)?;
    let mut out = vec![0.0; n_rows * d_inner];
    let inputs = host::ScanInputs::new(
        host_plan.layout(),
        Rows::new("u", &u, d_inner)?,
        Rows::new("dt", &dt, d_inner)?,
        &a,
        bc.columns(0, d_state)?,
        bc.columns(d_state, d_state)?,
    );
    let outputs = host::ScanOutputs::new(RowsMut::new("out", &mut out, d_inner)?);
    host::forward(&inputs, outputs)?;

    let error: f64 = on_gpu.iter().zip(&out).map(|(got, want)| (got.to_f64() - want).powi(2)).sum();
    let norm: f64 = out.iter().map(|want| want * want).sum();
    let relative = (error / norm).sqrt();
    println!(
        "{n_rows} rows x {d_inner} channels: the GPU's bf16 differs from the CPU's f64 by {relative:.1e} of its norm"
    );
    if relative < 4e-3 { Ok(()) } else { Err("the two scans differ".into()) }
}
