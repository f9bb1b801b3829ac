//! The grouped products: bf16, three modalities, the projections of a block in each direction.

use mom_kernels::cuda::cudarc::driver::CudaSlice;
use mom_kernels::cuda::half::bf16;
use mom_kernels::cuda::library::{Factor, RECOMMENDED_WORKSPACE_BYTES, matmul};
use mom_kernels::cuda::{DeviceElement, DevicePlan, DeviceRows, Gpu, grouped_gemm as device};
use mom_kernels::grouped_gemm::{self as host, Into};
use mom_kernels::{ModalityPlan, Rows, RowsMut};

use crate::scan::modality_ids;
use crate::timing::{Bench, expect, noise, relative};
use crate::{Error, Shape};

/// B and C in x_proj's output.
const BC: usize = 32;

/// A projection: features in and out, and of x's and y's rows, where it takes columns of them.
#[derive(Debug, Clone, Copy)]
struct Projection {
    name: &'static str,
    n_in: usize,
    n_out: usize,
    x_width: usize,
}

fn projections(shape: Shape) -> [Projection; 4] {
    let (d_model, d_inner, rank) = (shape.d_model, shape.d_inner(), shape.dt_rank());
    let dense = |name, n_in, n_out| Projection { name, n_in, n_out, x_width: n_in };
    [
        dense("x_proj", d_inner, rank + BC),
        Projection { name: "dt_proj", n_in: rank, n_out: d_inner, x_width: rank + BC },
        dense("in_proj", d_model, 2 * d_inner),
        dense("out_proj", d_inner, d_model),
    ]
}

struct Problem {
    p: Projection,
    host_plan: ModalityPlan,
    plan: DevicePlan,
    host: [Vec<bf16>; 3],
    x: CudaSlice<bf16>,
    grad_y: CudaSlice<bf16>,
    weights: CudaSlice<bf16>,
    y: CudaSlice<bf16>,
    grad_x: CudaSlice<bf16>,
    grad_weights: Vec<CudaSlice<bf16>>,
    workspace: CudaSlice<f32>,
}

impl Problem {
    fn new(gpu: &Gpu, shape: Shape, p: Projection) -> Result<Self, Error> {
        let n = shape.n_rows();
        let host_plan = ModalityPlan::new(shape.batch, shape.seqlen, 3, &modality_ids(n, 3), None)?;
        let to = |x: Vec<f32>| x.into_iter().map(bf16::from_f32).collect::<Vec<_>>();
        let host = [
            to(noise(n * p.x_width, 1, 1.0)),
            to(noise(n * p.n_out, 2, 1.0)),
            to(noise(3 * p.n_in * p.n_out, 3, 0.02)),
        ];
        let mut new = Self {
            plan: DevicePlan::upload(gpu, &host_plan)?,
            x: gpu.upload(&host[0])?,
            grad_y: gpu.upload(&host[1])?,
            weights: gpu.upload(&host[2])?,
            y: gpu.zeros(n * p.n_out)?,
            grad_x: gpu.zeros(n * p.x_width)?,
            grad_weights: (0..3).map(|_| gpu.zeros(p.n_in * p.n_out)).collect::<Result<_, _>>()?,
            workspace: gpu.zeros(1)?,
            p,
            host_plan,
            host,
        };
        new.workspace = gpu.zeros(device::backward_weights_workspace_len(n, &weights(gpu, p, &new.weights)?))?;
        Ok(new)
    }

    fn forward(&mut self, gpu: &Gpu) -> Result<(), Error> {
        let p = self.p;
        let x = gpu.rows(&self.x, p.x_width)?.columns(0, p.n_in)?;
        let y = gpu.rows_mut(&mut self.y, p.n_out)?;
        Ok(device::forward(gpu, &self.plan.modality_offsets(gpu), &x, &weights(gpu, p, &self.weights)?, y)?)
    }

    /// Onto rows as wide as the output, which the gradient's stand for.
    fn forward_add(&mut self, gpu: &Gpu) -> Result<(), Error> {
        let p = self.p;
        let x = gpu.rows(&self.x, p.x_width)?.columns(0, p.n_in)?;
        let (residual, y) = (gpu.rows(&self.grad_y, p.n_out)?, gpu.rows_mut(&mut self.y, p.n_out)?);
        let (offsets, weights) = (self.plan.modality_offsets(gpu), weights(gpu, p, &self.weights)?);
        Ok(device::forward_add(gpu, &offsets, &x, &weights, Some(&residual), y)?)
    }

    fn backward_input(&mut self, gpu: &Gpu, into: Into) -> Result<(), Error> {
        let p = self.p;
        let grad_y = gpu.rows(&self.grad_y, p.n_out)?;
        let grad_x = gpu.rows_mut(&mut self.grad_x, p.x_width)?.columns(0, p.n_in)?;
        let weights = weights(gpu, p, &self.weights)?;
        Ok(device::backward_input(gpu, &self.plan.modality_offsets(gpu), &grad_y, &weights, grad_x, into)?)
    }

    /// Of the activations' type, as a block and the trainer have them.
    fn backward_weights(&mut self, gpu: &Gpu) -> Result<(), Error> {
        let mut grad_weights = std::mem::take(&mut self.grad_weights);
        let done = self.backward_weights_into(gpu, &mut grad_weights);
        self.grad_weights = grad_weights;
        done
    }

    fn backward_weights_into<G: DeviceElement>(
        &mut self,
        gpu: &Gpu,
        grad_weights: &mut [CudaSlice<G>],
    ) -> Result<(), Error> {
        let p = self.p;
        let (x, grad_y) = (gpu.rows(&self.x, p.x_width)?.columns(0, p.n_in)?, gpu.rows(&self.grad_y, p.n_out)?);
        let grad_weights = grad_weights.iter_mut().map(|w| gpu.write(w)).collect();
        let grads = device::GroupedGrads::new(grad_weights);
        let (offsets, weights) = (self.plan.modality_offsets(gpu), weights(gpu, p, &self.weights)?);
        Ok(device::backward_weights(gpu, &offsets, &x, &grad_y, &weights, grads, gpu.write(&mut self.workspace))?)
    }
}

fn weights<'a>(
    gpu: &'a Gpu,
    p: Projection,
    all: &'a CudaSlice<bf16>,
) -> Result<device::GroupedWeights<'a, bf16>, Error> {
    let size = p.n_in * p.n_out;
    let each = (0..3).map(|m| gpu.read_view(all.slice(m * size..(m + 1) * size))).collect();
    Ok(device::GroupedWeights::new(p.n_in, p.n_out, each, None)?)
}

/// Checks against f64 at the shape's own sizes (one sequence of it), then times: as the crate runs it with the library
/// loaded, by its kernel alone, and one dense product of the library over the same rows, which is what to compare with.
pub fn run(bench: &mut Bench<'_>, shape: Shape) -> Result<(), Error> {
    let with_library = Gpu::with_stream(bench.gpu.stream().clone())?;
    with_library.load_library()?;
    for p in projections(shape) {
        if bench.wants(&format!("grouped {}", p.name)) {
            each(bench, &with_library, "", shape, p)?;
            each(bench, bench.gpu, " (kernel)", shape, p)?;
            dense(bench, &with_library, shape, p)?;
        }
    }
    Ok(())
}

/// One dense product of the library in each direction, with all the workspace that it asks for.
fn dense(bench: &mut Bench<'_>, gpu: &Gpu, shape: Shape, p: Projection) -> Result<(), Error> {
    let mut problem = Problem::new(gpu, shape, p)?;
    let n = shape.n_rows() as f64;
    let (rows, weights) = (n * 2.0 * (p.n_in + p.n_out) as f64, 2.0 * (p.n_in * p.n_out) as f64);
    let flop = 2.0 * n * (p.n_in * p.n_out) as f64;
    let name = |direction: &str| format!("dense {} {direction}", p.name);
    let (x, grad_y) = (gpu.rows(&problem.x, p.x_width)?.columns(0, p.n_in)?, gpu.rows(&problem.grad_y, p.n_out)?);
    let weight = DeviceRows::new("weight", gpu.read(&problem.weights).first("weight", p.n_in * p.n_out)?, p.n_in)?;
    let (factor, transposed) = (Factor::plain, Factor::transposed);
    let mut workspace = gpu.zeros::<u8>(RECOMMENDED_WORKSPACE_BYTES)?;
    bench.time(&name("forward"), shape.name, rows + weights, flop, || {
        let y = gpu.rows_mut(&mut problem.y, p.n_out)?;
        matmul(gpu, 1.0, factor(&x), transposed(&weight), 0.0, y, Some(gpu.write(&mut workspace)))
    })?;
    bench.time(&name("backward input"), shape.name, rows + weights, flop, || {
        let grad_x = gpu.rows_mut(&mut problem.grad_x, p.x_width)?.columns(0, p.n_in)?;
        matmul(gpu, 1.0, factor(&grad_y), factor(&weight), 0.0, grad_x, Some(gpu.write(&mut workspace)))
    })?;
    bench.time(&name("backward weights"), shape.name, rows + weights, flop, || {
        let grad = gpu.rows_mut(&mut problem.grad_weights[0], p.n_in)?;
        matmul(gpu, 1.0, transposed(&grad_y), factor(&x), 0.0, grad, Some(gpu.write(&mut workspace)))
    })?;
    let mut grad_weight = gpu.zeros::<f32>(p.n_in * p.n_out)?;
    bench.time(&name("backward weights, f32"), shape.name, rows + 2.0 * weights, flop, || {
        let grad = gpu.rows_mut(&mut grad_weight, p.n_in)?;
        matmul(gpu, 1.0, transposed(&grad_y), factor(&x), 0.0, grad, Some(gpu.write(&mut workspace)))
    })?;
    Ok(())
}

/// Every direction as `gpu` runs it.
fn each(bench: &mut Bench<'_>, gpu: &Gpu, by: &str, shape: Shape, p: Projection) -> Result<(), Error> {
    check(gpu, Shape { batch: 1, ..shape }, p)?;
    let mut problem = Problem::new(gpu, shape, p)?;
    let n = shape.n_rows() as f64;
    let (rows, weights) = (n * 2.0 * (p.n_in + p.n_out) as f64, 3.0 * (p.n_in * p.n_out) as f64);
    let flop = 2.0 * n * (p.n_in * p.n_out) as f64;
    let name = |direction: &str| format!("grouped {} {direction}{by}", p.name);
    bench.time(&name("forward"), shape.name, rows + 2.0 * weights, flop, || problem.forward(gpu))?;
    if p.name == "out_proj" {
        let residual = n * 2.0 * p.n_out as f64;
        let bytes = rows + residual + 2.0 * weights;
        bench.time(&name("forward onto a residual"), shape.name, bytes, flop, || problem.forward_add(gpu))?;
    }
    bench.time(&name("backward input"), shape.name, rows + 2.0 * weights, flop, || {
        problem.backward_input(gpu, Into::Overwrite)
    })?;
    bench.time(&name("backward input, add"), shape.name, rows + n * 2.0 * p.n_in as f64, flop, || {
        problem.backward_input(gpu, Into::Add)
    })?;
    bench.time(&name("backward weights"), shape.name, rows + 2.0 * weights, flop, || problem.backward_weights(gpu))?;
    let mut grad_weights = wide_gradients(gpu, p)?;
    bench.time(&name("backward weights, f32"), shape.name, rows + 4.0 * weights, flop, || {
        problem.backward_weights_into(gpu, &mut grad_weights)
    })?;
    Ok(())
}

/// Gradients of the weights in f32.
fn wide_gradients(gpu: &Gpu, p: Projection) -> Result<Vec<CudaSlice<f32>>, Error> {
    Ok((0..3).map(|_| gpu.zeros(p.n_in * p.n_out)).collect::<Result<_, _>>()?)
}

fn check(gpu: &Gpu, shape: Shape, p: Projection) -> Result<(), Error> {
    let mut problem = Problem::new(gpu, shape, p)?;
    problem.forward(gpu)?;
    problem.backward_input(gpu, Into::Overwrite)?;
    problem.backward_weights(gpu)?;
    let mut grad_weights32 = wide_gradients(gpu, p)?;
    problem.backward_weights_into(gpu, &mut grad_weights32)?;
    let n = shape.n_rows();
    let wide = |x: &[bf16]| x.iter().map(|x| x.to_f64()).collect::<Vec<f64>>();
    let [x, grad_y, weights] = problem.host.each_ref().map(|x| wide(x));
    let size = p.n_in * p.n_out;
    let weights = host::GroupedWeights::new(p.n_in, p.n_out, weights.chunks_exact(size).collect(), None)?;
    let offsets = problem.host_plan.modality_offsets();
    let x = Rows::new("x", &x, p.x_width)?.columns(0, p.n_in)?;
    let grad_y = Rows::new("grad_y", &grad_y, p.n_out)?;
    let (mut y, mut grad_x, mut grad_weights) = (vec![0.0; n * p.n_out], vec![0.0; n * p.n_in], vec![0.0; 3 * size]);
    host::forward(offsets, x, &weights, RowsMut::new("y", &mut y, p.n_out)?)?;
    host::backward_input(offsets, grad_y, &weights, RowsMut::new("grad_x", &mut grad_x, p.n_in)?, Into::Overwrite)?;
    let grads = host::GroupedGrads::new(grad_weights.chunks_exact_mut(size).collect());
    host::backward_weights(offsets, x, grad_y, &weights, grads)?;
    let got_x = wide(&gpu.download(&problem.grad_x)?);
    let got_x: Vec<f64> = got_x.chunks_exact(p.x_width).flat_map(|row| row[..p.n_in].to_vec()).collect();
    let (mut got_weights, mut got_weights32) = (Vec::new(), Vec::new());
    for (got, got32) in problem.grad_weights.iter().zip(&grad_weights32) {
        got_weights.extend(wide(&gpu.download(got)?));
        got_weights32.extend(gpu.download(got32)?.into_iter().map(f64::from));
    }
    let name = |what: &str| format!("{} {what} {}", p.name, shape.name);
    // bf16's own rounding is 1.6e-3 to 1.7e-3.
    expect(&name("y"), relative(wide(&gpu.download(&problem.y)?), &y), 2e-3)?;
    expect(&name("grad_x"), relative(got_x, &grad_x), 2e-3)?;
    expect(&name("grad_weights"), relative(got_weights, &grad_weights), 2e-3)?;
    expect(&name("grad_weights, f32"), relative(got_weights32, &grad_weights), 1e-4)
}
