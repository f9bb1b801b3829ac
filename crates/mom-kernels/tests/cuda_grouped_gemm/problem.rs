//! Products of any shape, solved by the CPU and by the GPU, and compared.

use mom_kernels::cuda::cudarc::driver::CudaSlice;
use mom_kernels::cuda::half::{bf16, f16};
use mom_kernels::cuda::{CudaError, DevicePlan, Gpu, grouped_gemm as device};
use mom_kernels::grouped_gemm::{self as host, Into};
use mom_kernels::{Element, ModalityPlan, Rows, RowsMut};

use crate::cuda_support::*;

#[derive(Debug, Clone)]
pub struct Case {
    pub counts: Vec<usize>,
    pub n_in: usize,
    pub n_out: usize,
    pub biases: bool,
    /// All modalities use the first weight.
    pub shared: bool,
    /// Columns in front of and behind those of x and y in their rows.
    pub around: (usize, usize),
    pub into: Into,
}

pub fn case(counts: &[usize], n_in: usize, n_out: usize) -> Case {
    let (counts, into) = (counts.to_vec(), Into::Overwrite);
    Case { counts, n_in, n_out, biases: true, shared: false, around: (0, 0), into }
}

/// Inputs in f64, holding values of the element type. Rows carry the columns around.
pub struct Problem {
    pub case: Case,
    pub plan: ModalityPlan,
    pub x: Vec<f64>,
    pub grad_y: Vec<f64>,
    pub old: Vec<f64>,
    pub weights: Vec<Vec<f64>>,
    pub biases: Vec<f64>,
}

impl Problem {
    pub fn new<T: TestElement>(case: &Case, seed: u64) -> Self {
        let mut r = Random(seed);
        let n: usize = case.counts.iter().sum();
        let ids: Vec<u8> =
            case.counts.iter().enumerate().flat_map(|(id, &n)| std::iter::repeat_n(id as u8, n)).collect();
        let n_weights = if case.shared { 1 } else { case.counts.len() };
        let mut wide = |len: usize, scale: f64| rounded::<T>(&r.normals(len, scale));
        Self {
            plan: ModalityPlan::new(1, n, case.counts.len(), &ids, None).unwrap(),
            x: wide(n * case.wide(case.n_in), 1.0),
            grad_y: wide(n * case.wide(case.n_out), 1.0),
            old: wide(n * case.wide(case.n_in), 1.0),
            weights: (0..n_weights).map(|_| wide(case.n_in * case.n_out, (case.n_in as f64).powf(-0.5))).collect(),
            biases: rounded::<f32>(&wide(n_weights * case.n_out, 1.0)),
            case: case.clone(),
        }
    }
}

impl Case {
    pub fn wide(&self, width: usize) -> usize {
        self.around.0 + width + self.around.1
    }
}

/// y, grad_x, grad_weights, grad_biases.
pub type Outputs = [Vec<f64>; 4];

pub fn on_host<E: Element>(p: &Problem) -> Outputs {
    let Case { n_in, n_out, .. } = p.case;
    let n = p.plan.n_rows();
    let to = |x: &[f64]| x.iter().map(|&x| E::from_f64(x)).collect::<Vec<E>>();
    let from = |x: Vec<E>| x.into_iter().map(Element::to_f64).collect::<Vec<f64>>();
    let inner = |x: &[f64], width: usize| -> Vec<E> {
        let rows = x.chunks_exact(p.case.wide(width));
        rows.flat_map(|row| to(&row[p.case.around.0..p.case.around.0 + width])).collect()
    };
    let (x, grad_y, old) = (inner(&p.x, n_in), inner(&p.grad_y, n_out), inner(&p.old, n_in));
    let weights: Vec<Vec<E>> = p.weights.iter().map(|w| to(w)).collect();
    let biases: Vec<Vec<E>> = p.biases.chunks_exact(n_out).map(to).collect();
    let weights = host::GroupedWeights::new(
        n_in,
        n_out,
        weights.iter().map(|w| &w[..]).collect(),
        p.case.biases.then(|| biases.iter().map(|b| &b[..]).collect()),
    )
    .unwrap();
    let offsets = p.plan.modality_offsets();
    let zeros = |len: usize| vec![E::ZERO; len];
    let (mut y, mut grad_x) = (zeros(n * n_out), old);
    let x = Rows::new("x", &x, n_in).unwrap();
    let grad_y = Rows::new("grad_y", &grad_y, n_out).unwrap();
    host::forward(offsets, x, &weights, RowsMut::new("y", &mut y, n_out).unwrap()).unwrap();
    let to_grad_x = RowsMut::new("grad_x", &mut grad_x, n_in).unwrap();
    host::backward_input(offsets, grad_y, &weights, to_grad_x, p.case.into).unwrap();
    let n_groups = weights.n_groups();
    let mut grad_weights = zeros(n_groups * n_in * n_out);
    let mut grad_biases = zeros(n_groups * n_out);
    let grads = host::GroupedGrads::new(grad_weights.chunks_exact_mut(n_in * n_out).collect())
        .with_grad_biases(p.case.biases.then(|| grad_biases.chunks_exact_mut(n_out).collect()));
    host::backward_weights(offsets, x, grad_y, &weights, grads).unwrap();
    [from(y), from(grad_x), from(grad_weights), from(grad_biases)]
}

pub struct OnDevice<T> {
    pub plan: DevicePlan,
    pub x: CudaSlice<T>,
    pub grad_y: CudaSlice<T>,
    pub weights: Vec<CudaSlice<T>>,
    pub biases: CudaSlice<f32>,
    pub y: CudaSlice<T>,
    pub grad_x: CudaSlice<T>,
    pub grad_weights: Vec<CudaSlice<T>>,
    pub grad_biases: CudaSlice<f32>,
    pub workspace: CudaSlice<f32>,
}

impl<T: TestElement> OnDevice<T> {
    pub fn new(gpu: &Gpu, p: &Problem) -> Self {
        let Case { n_in, n_out, .. } = p.case;
        let n = p.plan.n_rows();
        // What lies around the rows is not theirs: it must neither enter a sum nor be written.
        let around = |x: &[f64], width: usize| -> Vec<f64> {
            let inside = p.case.around.0..p.case.around.0 + width;
            let wide = p.case.wide(width);
            x.iter().enumerate().map(|(i, &x)| if inside.contains(&(i % wide)) { x } else { f64::NAN }).collect()
        };
        let n_groups = p.weights.len();
        let mut new = Self {
            plan: DevicePlan::upload(gpu, &p.plan).unwrap(),
            x: upload(gpu, &around(&p.x, n_in)),
            grad_y: upload(gpu, &around(&p.grad_y, n_out)),
            weights: p.weights.iter().map(|w| upload(gpu, w)).collect(),
            biases: upload(gpu, &p.biases),
            y: poisoned(gpu, n * p.case.wide(n_out)),
            grad_x: match p.case.into {
                Into::Overwrite => poisoned(gpu, n * p.case.wide(n_in)),
                Into::Add => upload(gpu, &around(&p.old, n_in)),
            },
            grad_weights: (0..n_groups).map(|_| poisoned(gpu, n_in * n_out)).collect(),
            grad_biases: poisoned(gpu, n_groups * n_out),
            workspace: poisoned(gpu, 1),
        };
        let len = device::backward_weights_workspace_len(n, &new.weights(gpu, p));
        new.workspace = poisoned(gpu, len);
        new
    }

    pub fn weights<'a>(&'a self, gpu: &'a Gpu, p: &Problem) -> device::GroupedWeights<'a, T> {
        let weights = self.weights.iter().map(|w| gpu.read(w)).collect();
        let biases = p.case.biases.then(|| gpu.read(&self.biases));
        device::GroupedWeights::new(p.case.n_in, p.case.n_out, weights, biases).unwrap()
    }

    pub fn run(&mut self, gpu: &Gpu, p: &Problem) -> Result<(), CudaError> {
        let Case { n_in, n_out, around, .. } = p.case;
        let weights: Vec<_> = self.weights.iter().map(|w| gpu.read(w)).collect();
        let biases = p.case.biases.then(|| gpu.read(&self.biases));
        let weights = device::GroupedWeights::new(n_in, n_out, weights, biases)?;
        let offsets = self.plan.modality_offsets(gpu);
        let x = gpu.rows(&self.x, p.case.wide(n_in))?.columns(around.0, n_in)?;
        let grad_y = gpu.rows(&self.grad_y, p.case.wide(n_out))?.columns(around.0, n_out)?;
        let y = gpu.rows_mut(&mut self.y, p.case.wide(n_out))?.columns(around.0, n_out)?;
        device::forward(gpu, &offsets, &x, &weights, y)?;
        let grad_x = gpu.rows_mut(&mut self.grad_x, p.case.wide(n_in))?.columns(around.0, n_in)?;
        device::backward_input(gpu, &offsets, &grad_y, &weights, grad_x, p.case.into)?;
        let grads = device::GroupedGrads::new(self.grad_weights.iter_mut().map(|w| gpu.write(w)).collect())
            .with_grad_biases(p.case.biases.then(|| gpu.write(&mut self.grad_biases)));
        let len = device::backward_weights_workspace_len(x.n_rows(), &weights);
        let workspace = gpu.write(&mut self.workspace).first("workspace", len)?;
        device::backward_weights(gpu, &offsets, &x, &grad_y, &weights, grads, workspace)
    }

    pub fn outputs(&self, gpu: &Gpu, p: &Problem) -> Outputs {
        let inner = |x: &CudaSlice<T>, width: usize| -> Vec<f64> {
            let (n, wide, before) = (p.plan.n_rows(), p.case.wide(width), p.case.around.0);
            let all = download(gpu, x);
            let rows = all[..n * wide].chunks_exact(wide);
            rows.flat_map(|row| {
                assert!(row[..before].iter().chain(&row[before + width..]).all(|x| x.is_nan()), "written around");
                row[before..before + width].to_vec()
            })
            .collect()
        };
        let grad_biases = if p.case.biases {
            download(gpu, &self.grad_biases)
        } else {
            assert!(download(gpu, &self.grad_biases).iter().all(|x| x.is_nan()));
            vec![0.0; p.weights.len() * p.case.n_out]
        };
        let grad_weights = self.grad_weights.iter().flat_map(|w| download(gpu, w)).collect();
        [inner(&self.y, p.case.n_out), inner(&self.grad_x, p.case.n_in), grad_weights, grad_biases]
    }
}

pub fn bits<'a>(values: impl IntoIterator<Item = &'a f64>) -> Vec<u64> {
    values.into_iter().map(|x| x.to_bits()).collect()
}

pub fn compare<T: TestElement>(name: &str, p: &Problem, got: &Outputs) {
    let (want, naive) = (on_host::<f64>(p), on_host::<f32>(p));
    let mut report = Report::new(format!("{} {name}", T::DTYPE.name()));
    report.output::<T>("y", &got[0], &want[0], &naive[0], 1e-5);
    report.output::<T>("grad_x", &got[1], &want[1], &naive[1], 1e-4);
    report.output::<T>("grad_weights", &got[2], &want[2], &naive[2], 1e-4);
    report.within("grad_biases", &got[3], &want[3], 1e-4);
    report.finish();
}

pub fn check<T: TestElement>(gpu: &Gpu, case: &Case, seed: u64) {
    let p = Problem::new::<T>(case, seed);
    let run = || {
        let mut on_device = OnDevice::<T>::new(gpu, &p);
        on_device.run(gpu, &p).unwrap();
        on_device.outputs(gpu, &p)
    };
    let got = run();
    compare::<T>(&format!("{:?} {} -> {}", case.counts, case.n_in, case.n_out), &p, &got);
    assert!(bits(got.iter().flatten()) == bits(run().iter().flatten()), "two runs differ");
}

/// Every element type, with the card's own kernels and with those for every card.
pub fn check_all(gpu: &Gpu, case: &Case) {
    check::<bf16>(gpu, case, 1);
    check::<f16>(gpu, case, 2);
    let portable = with_stream(gpu.stream().clone()).portable();
    check::<bf16>(&portable, case, 1);
    check::<f16>(&portable, case, 2);
    check::<f32>(gpu, case, 3);
}
