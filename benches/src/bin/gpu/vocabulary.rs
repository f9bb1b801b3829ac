//! What a model does over its vocabulary: rows of the embedding and their gradient, the loss and its gradient. bf16.

use mom_kernels::RowsMut;
use mom_kernels::cross_entropy::{self as host, Gradient, RowLoss};
use mom_kernels::cuda::cross_entropy::{self as loss, Losses, Scale, Targets};
use mom_kernels::cuda::cudarc::driver::CudaSlice;
use mom_kernels::cuda::embedding::{self, Into};
use mom_kernels::cuda::half::bf16;
use mom_kernels::cuda::{Gpu, Result as GpuResult};

use crate::timing::{Bench, expect, noise, relative};
use crate::{Error, Shape};

/// Tokens that a model tells apart.
pub const VOCABULARY: usize = 32_000;

/// Rows that are made on the host and checked; the others repeat them.
const TILE: usize = 1024;

/// Loss and embedding at a shape's rows.
pub fn run(bench: &mut Bench<'_>, shape: Shape) -> Result<(), Error> {
    if bench.wants("cross entropy") {
        cross_entropy(bench, shape)?;
    }
    if bench.wants("embedding") {
        rows_by_id(bench, shape)?;
    }
    Ok(())
}

/// Ids that look random.
fn ids(n: usize) -> Vec<u32> {
    noise(n, 5, 0.5).into_iter().map(|x| ((x + 0.5) * VOCABULARY as f32) as u32 % VOCABULARY as u32).collect()
}

fn to_bf16(x: Vec<f32>) -> Vec<bf16> {
    x.into_iter().map(bf16::from_f32).collect()
}

/// What the loss writes.
struct LossOutputs {
    grad: CudaSlice<bf16>,
    loss: CudaSlice<f32>,
    lse: CudaSlice<f32>,
    out_of_range: CudaSlice<u32>,
}

impl LossOutputs {
    fn run(&mut self, gpu: &Gpu, logits: &CudaSlice<bf16>, targets: &CudaSlice<u32>, scale: Scale) -> GpuResult<()> {
        let mut losses =
            Losses::new(gpu.write(&mut self.loss), gpu.write(&mut self.lse), gpu.write(&mut self.out_of_range));
        let (logits, mut grad) = (gpu.rows(logits, VOCABULARY)?, gpu.rows_mut(&mut self.grad, VOCABULARY)?);
        let targets = Targets::new(gpu.read(targets));
        loss::forward_backward(gpu, &logits, &targets, scale, &mut grad, &mut losses)
    }
}

fn cross_entropy(bench: &mut Bench<'_>, shape: Shape) -> Result<(), Error> {
    let gpu = bench.gpu;
    let n = shape.n_rows();
    let (tile, targets) = (to_bf16(noise(TILE * VOCABULARY, 1, 4.0)), ids(n));
    let device_tile = gpu.upload(&tile)?;
    let mut logits = gpu.zeros::<bf16>(n * VOCABULARY)?;
    for start in (0..n * VOCABULARY).step_by(tile.len()) {
        gpu.stream().memcpy_dtod(&device_tile, &mut logits.slice_mut(start..start + tile.len()))?;
    }
    drop(device_tile);
    let device_targets = gpu.upload(&targets)?;
    let mut outputs = LossOutputs {
        grad: gpu.zeros(n * VOCABULARY)?,
        loss: gpu.zeros(n)?,
        lse: gpu.zeros(n)?,
        out_of_range: gpu.zeros(1)?,
    };
    let (scale, z) = (1.0 / n as f32, 1e-4);
    outputs.run(gpu, &logits, &device_targets, Scale::new(scale).with_z(z))?;
    loss::check(gpu, &outputs.out_of_range)?;

    let mut want: Vec<f64> = tile.iter().map(|x| x.to_f64()).collect();
    let mut losses = vec![RowLoss::default(); TILE];
    let gradient = Gradient::InPlace { scale: f64::from(scale), z: f64::from(z) };
    let rows = RowsMut::new("logits", &mut want, VOCABULARY)?;
    host::forward_backward(rows, &targets[..TILE], gradient, &mut losses)?;
    let first = gpu.stream().clone_dtoh(&outputs.grad.slice(..tile.len()))?;
    let name = |what: &str| format!("cross entropy {what} {}", shape.name);
    expect(&name("grad"), relative(first.iter().map(|x| x.to_f64()), &want), 2e-3)?;
    let of = |rows: &CudaSlice<f32>| gpu.download(rows).map(|rows| rows.into_iter().take(TILE).map(f64::from));
    let nll: Vec<f64> = losses.iter().map(|loss| loss.nll).collect();
    let lse: Vec<f64> = losses.iter().map(|loss| loss.lse).collect();
    expect(&name("loss"), relative(of(&outputs.loss)?, &nll), 1e-5)?;
    expect(&name("lse"), relative(of(&outputs.lse)?, &lse), 1e-5)?;

    let elements = (n * VOCABULARY) as f64;
    bench.time("cross entropy forward + backward", shape.name, 4.0 * elements, 0.0, || {
        outputs.run(gpu, &logits, &device_targets, Scale::new(scale).with_z(z))
    })?;
    Ok(())
}

fn rows_by_id(bench: &mut Bench<'_>, shape: Shape) -> Result<(), Error> {
    let gpu = bench.gpu;
    let (n, d) = (shape.n_rows(), shape.d_model);
    let (table, grad, ids) = (to_bf16(noise(VOCABULARY * d, 1, 1.0)), to_bf16(noise(n * d, 2, 1.0)), ids(n));
    let (device_table, device_grad, device_ids) = (gpu.upload(&table)?, gpu.upload(&grad)?, gpu.upload(&ids)?);
    let (mut out, mut grad_table) = (gpu.zeros::<bf16>(n * d)?, gpu.zeros::<bf16>(VOCABULARY * d)?);
    let mut out_of_range = gpu.zeros::<u32>(1)?;
    let mut workspace = gpu.zeros::<u32>(embedding::backward_workspace_len(n, d))?;
    let forward = |out: &mut CudaSlice<bf16>, out_of_range: &mut CudaSlice<u32>| {
        let (mut out, table) = (gpu.rows_mut(out, d)?, gpu.rows(&device_table, d)?);
        embedding::forward(gpu, &table, &gpu.read(&device_ids), &mut out, &mut gpu.write(out_of_range))
    };
    let mut backward = |grad_table: &mut CudaSlice<bf16>, out_of_range: &mut CudaSlice<u32>| {
        let (ids, mut out_of_range) = (gpu.read(&device_ids), gpu.write(out_of_range));
        let (grad, mut to) = (gpu.rows(&device_grad, d)?, gpu.rows_mut(grad_table, d)?);
        let workspace = gpu.write(&mut workspace);
        embedding::backward(gpu, &ids, &grad, &mut to, Into::Overwrite, &mut out_of_range, workspace)
    };
    forward(&mut out, &mut out_of_range)?;
    backward(&mut grad_table, &mut out_of_range)?;
    embedding::check(gpu, &out_of_range)?;

    let (mut want, mut want_table) = (Vec::with_capacity(n * d), vec![0.0f64; VOCABULARY * d]);
    for (row, &id) in grad.chunks_exact(d).zip(&ids) {
        let at = id as usize * d..(id as usize + 1) * d;
        want.extend_from_slice(&table[at.clone()]);
        want_table[at].iter_mut().zip(row).for_each(|(sum, x)| *sum += x.to_f64());
    }
    if gpu.download(&out)? != want {
        return Err(format!("embedding {}: rows differ from the table's", shape.name).into());
    }
    let got = gpu.download(&grad_table)?.into_iter().map(|x| x.to_f64());
    expect(&format!("embedding grad {}", shape.name), relative(got, &want_table), 2e-3)?;

    let (rows, table) = (2.0 * (n * d) as f64, 2.0 * (VOCABULARY * d) as f64);
    bench.time("embedding forward", shape.name, 2.0 * rows, 0.0, || forward(&mut out, &mut out_of_range))?;
    bench.time("embedding backward", shape.name, rows + table, 0.0, || backward(&mut grad_table, &mut out_of_range))?;
    Ok(())
}
