//! The grouped products on the GPU against the CPU's in f64: every direction, element type, tile and odd size; poisoned
//! memory; twice the same bits; one captured graph for other counts; the library's products beside the kernel's.
#![allow(clippy::unwrap_used)]

mod cuda_support;

use cuda_support::*;
use mom_kernels::cuda::cudarc::driver::CudaSlice;
use mom_kernels::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use mom_kernels::cuda::half::{bf16, f16};
use mom_kernels::cuda::library::{Factor, RECOMMENDED_WORKSPACE_BYTES, matmul};
use mom_kernels::cuda::{CudaError, DevicePlan, Gpu, Module, grouped_gemm as device};
use mom_kernels::grouped_gemm::{self as host, Into};
use mom_kernels::{Element, Error, ModalityPlan, Rows, RowsMut};

#[derive(Debug, Clone)]
struct Case {
    counts: Vec<usize>,
    n_in: usize,
    n_out: usize,
    biases: bool,
    /// All modalities use the first weight.
    shared: bool,
    /// Columns in front of and behind those of x and y in their rows.
    around: (usize, usize),
    into: Into,
}

fn case(counts: &[usize], n_in: usize, n_out: usize) -> Case {
    let (counts, into) = (counts.to_vec(), Into::Overwrite);
    Case { counts, n_in, n_out, biases: true, shared: false, around: (0, 0), into }
}

/// Inputs in f64, holding values of the element type. Rows carry the columns around.
struct Problem {
    case: Case,
    plan: ModalityPlan,
    x: Vec<f64>,
    grad_y: Vec<f64>,
    old: Vec<f64>,
    weights: Vec<Vec<f64>>,
    biases: Vec<f64>,
}

impl Problem {
    fn new<T: TestElement>(case: &Case, seed: u64) -> Self {
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
    fn wide(&self, width: usize) -> usize {
        self.around.0 + width + self.around.1
    }
}

/// y, grad_x, grad_weights, grad_biases.
type Outputs = [Vec<f64>; 4];

fn on_host<E: Element>(p: &Problem) -> Outputs {
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

struct OnDevice<T> {
    plan: DevicePlan,
    x: CudaSlice<T>,
    grad_y: CudaSlice<T>,
    weights: Vec<CudaSlice<T>>,
    biases: CudaSlice<f32>,
    y: CudaSlice<T>,
    grad_x: CudaSlice<T>,
    grad_weights: Vec<CudaSlice<T>>,
    grad_biases: CudaSlice<f32>,
    workspace: CudaSlice<f32>,
}

impl<T: TestElement> OnDevice<T> {
    fn new(gpu: &Gpu, p: &Problem) -> Self {
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

    fn weights<'a>(&'a self, gpu: &'a Gpu, p: &Problem) -> device::GroupedWeights<'a, T> {
        let weights = self.weights.iter().map(|w| gpu.read(w)).collect();
        let biases = p.case.biases.then(|| gpu.read(&self.biases));
        device::GroupedWeights::new(p.case.n_in, p.case.n_out, weights, biases).unwrap()
    }

    fn run(&mut self, gpu: &Gpu, p: &Problem) -> Result<(), CudaError> {
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

    fn outputs(&self, gpu: &Gpu, p: &Problem) -> Outputs {
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

fn bits(outputs: &Outputs) -> Vec<u64> {
    outputs.iter().flatten().map(|x| x.to_bits()).collect()
}

fn compare<T: TestElement>(name: &str, p: &Problem, got: &Outputs) {
    let (want, naive) = (on_host::<f64>(p), on_host::<f32>(p));
    let mut report = Report::new(format!("{} {name}", T::DTYPE.name()));
    report.output::<T>("y", &got[0], &want[0], &naive[0], 1e-5);
    report.output::<T>("grad_x", &got[1], &want[1], &naive[1], 1e-4);
    report.output::<T>("grad_weights", &got[2], &want[2], &naive[2], 1e-4);
    report.within("grad_biases", &got[3], &want[3], 1e-4);
    report.finish();
}

fn check<T: TestElement>(gpu: &Gpu, case: &Case, seed: u64) {
    let p = Problem::new::<T>(case, seed);
    let run = || {
        let mut on_device = OnDevice::<T>::new(gpu, &p);
        on_device.run(gpu, &p).unwrap();
        on_device.outputs(gpu, &p)
    };
    let got = run();
    compare::<T>(&format!("{:?} {} -> {}", case.counts, case.n_in, case.n_out), &p, &got);
    assert!(bits(&got) == bits(&run()), "two runs differ");
}

/// Every element type, with the card's own kernels and with those for every card.
fn check_all(gpu: &Gpu, case: &Case) {
    check::<bf16>(gpu, case, 1);
    check::<f16>(gpu, case, 2);
    let portable = with_stream(gpu.stream().clone()).portable();
    check::<bf16>(&portable, case, 1);
    check::<f16>(&portable, case, 2);
    check::<f32>(gpu, case, 3);
}

#[test]
fn options() {
    let Some(gpu) = gpu("options") else { return };
    let base = case(&[130, 257, 61], 96, 80);
    check_all(&gpu, &base);
    check_all(&gpu, &Case { biases: false, ..base.clone() });
    check_all(&gpu, &Case { into: Into::Add, ..base.clone() });
    check_all(&gpu, &Case { shared: true, ..base.clone() });
    for around in [(8, 16), (0, 8), (1, 2), (3, 0)] {
        check_all(&gpu, &Case { around, ..base.clone() });
        check_all(&gpu, &Case { around, into: Into::Add, ..base.clone() });
    }
}

#[test]
fn modalities() {
    let Some(gpu) = gpu("modalities") else { return };
    for counts in [&[200][..], &[0, 200, 0], &[128, 128, 128], &[1, 1, 1], &[0, 0, 5], &[64, 0, 65, 127, 3]] {
        check_all(&gpu, &case(counts, 64, 48));
    }
    check_all(&gpu, &case(&[3; 256], 40, 24));
}

#[test]
fn widths() {
    let Some(gpu) = gpu("widths") else { return };
    // Every tile, whole and cut, in both roles; vectors that are cut; single features.
    for (n_in, n_out) in [
        (1, 1),
        (7, 9),
        (16, 8),
        (48, 136),
        (65, 66),
        (72, 81),
        (80, 160),
        (128, 129),
        (161, 12),
        (160, 320),
        (300, 300),
    ] {
        check_all(&gpu, &case(&[70, 0, 150], n_in, n_out));
    }
    for (n_in, n_out) in [(1536, 80), (48, 1536), (512, 160), (160, 1024), (1024, 136), (136, 600)] {
        check::<bf16>(&gpu, &case(&[700, 1300, 50], n_in, n_out), 4);
        check::<f32>(&gpu, &case(&[70, 130, 50], n_in, n_out), 5);
    }
    // Aligned rows of gradients that are not.
    for (n_in, n_out) in [(98, 82), (82, 98), (298, 274)] {
        check::<bf16>(&gpu, &Case { around: (0, 6), ..case(&[700, 1300, 50], n_in, n_out) }, 6);
    }
}

/// Each kernel once, at sizes that the compute-sanitizer gets through: every tile of either card, in both directions, with
/// rows and columns that end inside of it, and each length of a sum whose rows stay in shared memory.
#[test]
fn every_kernel() {
    let Some(gpu) = gpu("every_kernel") else { return };
    let portable = with_stream(gpu.stream().clone()).portable();
    let widths = [(72, 48), (88, 72), (200, 120), (200, 152), (200, 264), (48, 264), (104, 264), (160, 264)];
    for (n_in, n_out) in widths.into_iter().flat_map(|(a, b)| [(a, b), (b, a)]) {
        let into = if n_in > n_out { Into::Add } else { Into::Overwrite };
        let case = Case { into, ..case(&[70, 0, 150], n_in, n_out) };
        check::<bf16>(&gpu, &case, 13);
        check::<bf16>(&portable, &case, 13);
    }
    check::<f32>(&gpu, &case(&[70, 0, 50], 72, 80), 14);
}

/// Many splits of the sum over the rows, and borders of modalities inside of them.
#[test]
fn many_rows() {
    let Some(gpu) = gpu("many_rows") else { return };
    for counts in [&[5000, 1, 15_000][..], &[20_001], &[3000; 7]] {
        check_all(&gpu, &case(counts, 32, 40));
    }
}

/// The gradients of no rows are zero, whoever computes them.
#[test]
fn no_rows_at_all() {
    let Some(gpu) = gpu("no_rows_at_all") else { return };
    let with_library = with_stream(gpu.stream().clone());
    with_library.load_library().unwrap();
    let portable = with_stream(gpu.stream().clone()).portable();
    for gpu in [&gpu, &with_library, &portable] {
        for (n_in, n_out) in [(640, 768), (48, 1536), (1536, 80), (24, 8)] {
            zero_rows::<bf16>(gpu, n_in, n_out);
            zero_rows::<f32>(gpu, n_in, n_out);
        }
    }
}

fn zero_rows<T: TestElement>(gpu: &Gpu, n_in: usize, n_out: usize) {
    let (x, y) = (gpu.zeros::<T>(0).unwrap(), gpu.zeros::<T>(0).unwrap());
    let weights: Vec<_> = (0..2).map(|_| gpu.zeros::<T>(n_in * n_out).unwrap()).collect();
    let weights = weights.iter().map(|weight| gpu.read(weight)).collect();
    let weights = device::GroupedWeights::new(n_in, n_out, weights, None).unwrap();
    let ids = gpu.zeros::<u8>(0).unwrap();
    let plan = DevicePlan::sort(gpu, 0, 16, 2, &gpu.read(&ids), None).unwrap();
    let mut grads: Vec<_> = (0..2).map(|_| poisoned::<T>(gpu, n_in * n_out)).collect();
    let to = device::GroupedGrads::new(grads.iter_mut().map(|grad| gpu.write(grad)).collect());
    let mut workspace = gpu.zeros(device::backward_weights_workspace_len(0, &weights)).unwrap();
    let (x, grad_y) = (gpu.rows(&x, n_in).unwrap(), gpu.rows(&y, n_out).unwrap());
    let offsets = plan.modality_offsets(gpu);
    device::backward_weights(gpu, &offsets, &x, &grad_y, &weights, to, gpu.write(&mut workspace)).unwrap();
    assert!(grads.iter().all(|grad| download(gpu, grad).iter().all(|&x| x == 0.0)), "{n_in} -> {n_out}");
}

/// Two modalities that are each one whole split: the second launch has nothing to add, and what follows it must wait for the
/// first all the same.
#[test]
fn what_follows_waits_for_gradients_that_were_not_cut() {
    let Some(gpu) = gpu("what_follows_waits_for_gradients_that_were_not_cut") else { return };
    let context = gpu.stream().context().clone();
    let gpu = with_stream(context.new_stream().unwrap());
    // SAFETY: this test uses one stream. Events recorded outside of a capture may not be waited for inside.
    unsafe { context.disable_event_tracking() };
    gpu.preload(Module::ALL).unwrap();
    let (n_in, n_out, counts) = (640, 2560, [8192, 8192]);
    let case = Case { biases: false, ..case(&counts, n_in, n_out) };
    let p = Problem::new::<bf16>(&case, 30);
    let on_device = OnDevice::<bf16>::new(&gpu, &p);
    let weights = on_device.weights(&gpu, &p);
    let mut workspace = gpu.zeros(device::backward_weights_workspace_len(p.plan.n_rows(), &weights)).unwrap();
    let mut grads: Vec<_> = counts.iter().map(|_| poisoned::<bf16>(&gpu, n_in * n_out)).collect();
    let mut copies: Vec<_> = counts.iter().map(|_| poisoned::<bf16>(&gpu, n_in * n_out)).collect();
    let nan = poisoned::<bf16>(&gpu, n_in * n_out);
    let mut run = |gpu: &Gpu| {
        grads.iter_mut().for_each(|grad| gpu.stream().memcpy_dtod(&nan, grad).unwrap());
        let to = device::GroupedGrads::new(grads.iter_mut().map(|grad| gpu.write(grad)).collect());
        let (x, grad_y) = (gpu.rows(&on_device.x, n_in).unwrap(), gpu.rows(&on_device.grad_y, n_out).unwrap());
        let offsets = on_device.plan.modality_offsets(gpu);
        let result = device::backward_weights(gpu, &offsets, &x, &grad_y, &weights, to, gpu.write(&mut workspace));
        for (from, to) in grads.iter().zip(&mut copies) {
            gpu.stream().memcpy_dtod(from, to).unwrap();
        }
        result
    };
    run(&gpu).unwrap();
    gpu.stream().synchronize().unwrap();
    gpu.stream().begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    let result = run(&gpu);
    let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = gpu.stream().end_capture(flags).unwrap().unwrap();
    result.unwrap();
    let want: Vec<_> = grads.iter().map(|grad| download(&gpu, grad)).collect();
    assert!(want.iter().flatten().all(|x| x.is_finite()));
    for replay in 0..1000 {
        graph.launch().unwrap();
        if replay % 100 == 99 {
            let got: Vec<_> = copies.iter().map(|copy| download(&gpu, copy)).collect();
            assert!(got == want, "replay {replay}: a gradient was copied before it was there");
        }
    }
}

/// A graph captured with one set of counts is right for another.
#[test]
fn graph() {
    let Some(gpu) = gpu("graph") else { return };
    let context = gpu.stream().context().clone();
    let gpu = with_stream(context.new_stream().unwrap());
    // SAFETY: this test uses one stream. Events recorded outside of a capture may not be waited for inside.
    unsafe { context.disable_event_tracking() };
    gpu.preload(Module::ALL).unwrap();
    let first = Problem::new::<bf16>(&case(&[100, 200, 84], 96, 80), 6);
    let second = Problem::new::<bf16>(&case(&[0, 129, 255], 96, 80), 7);
    let mut on_device = OnDevice::<bf16>::new(&gpu, &first);
    on_device.run(&gpu, &first).unwrap();
    gpu.stream().synchronize().unwrap();
    gpu.stream().begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    let run = on_device.run(&gpu, &first);
    let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = gpu.stream().end_capture(flags).unwrap().unwrap();
    run.unwrap();
    let ids: Vec<u8> = [0, 129, 255].iter().enumerate().flat_map(|(id, &n)| std::iter::repeat_n(id as u8, n)).collect();
    on_device.plan.sort_again(&gpu, &gpu.read(&gpu.upload(&ids).unwrap())).unwrap();
    let other = OnDevice::<bf16>::new(&gpu, &second);
    let copy = |from: &CudaSlice<bf16>, to: &mut CudaSlice<bf16>| gpu.stream().memcpy_dtod(from, to).unwrap();
    copy(&other.x, &mut on_device.x);
    copy(&other.grad_y, &mut on_device.grad_y);
    for (from, to) in other.weights.iter().zip(&mut on_device.weights) {
        copy(from, to);
    }
    gpu.stream().memcpy_dtod(&other.biases, &mut on_device.biases).unwrap();
    graph.launch().unwrap();
    gpu.stream().synchronize().unwrap();
    compare::<bf16>("graph", &second, &on_device.outputs(&gpu, &second));
}

/// A second [`Gpu`] of the same stream with cuBLASLt loaded.
fn with_library(gpu: &Gpu) -> Gpu {
    let with = with_stream(gpu.stream().clone());
    with.load_library().unwrap();
    with
}

/// The library's products and the kernel's, for the same wide weights.
#[test]
fn engines() {
    let Some(gpu) = gpu("engines") else { return };
    let with = with_library(&gpu);
    let wide = |counts: &[usize]| Case { biases: false, ..case(counts, 512, 520) };
    use device::{Engine, Product};
    let engine = |gpu: &Gpu, case: &Case, known: bool, product: Product| {
        let p = Problem::new::<bf16>(case, 9);
        let d = OnDevice::<bf16>::new(gpu, &p);
        let (plan, any) = (DevicePlan::upload(gpu, &p.plan).unwrap(), DevicePlan::upload(gpu, &p.plan).unwrap());
        let plan = if known { plan } else { any.for_any_counts() };
        device::engine(gpu, &plan.modality_offsets(gpu), &d.weights(gpu, &p), product).unwrap()
    };
    let base = wide(&[130, 257, 61]);
    let sm90 = gpu.compute_capability() == (9, 0);
    for product in [Product::Forward, Product::BackwardInput, Product::BackwardWeights] {
        let engine = |gpu: &Gpu, case: &Case, known: bool| engine(gpu, case, known, product);
        let small = if product == Product::BackwardWeights && sm90 { Engine::Kernel } else { Engine::Library };
        assert_eq!(engine(&with, &base, true), small);
        assert_eq!(engine(&with, &base, false), Engine::Kernel);
        assert_eq!(engine(&gpu, &base, true), Engine::Kernel);
        assert_eq!(engine(&with, &Case { biases: true, ..base.clone() }, true), Engine::Kernel);
        assert_eq!(engine(&with, &Case { shared: true, ..base.clone() }, false), Engine::Library);
        assert_eq!(engine(&with, &Case { n_out: 256, ..base.clone() }, true), Engine::Kernel);
    }
    if sm90 {
        // 55 tiles of rows, by 4 and by 2 of columns.
        let many = Case { biases: false, ..case(&[3000, 4000], 512, 1024) };
        assert_eq!(engine(&with, &many, true, Product::Forward), Engine::Kernel);
        assert_eq!(engine(&with, &many, true, Product::BackwardInput), Engine::Library);
        let one = Case { counts: vec![7000], ..many };
        for product in [Product::Forward, Product::BackwardWeights] {
            assert_eq!(engine(&with, &one, true, product), Engine::Library);
        }
    }
    for counts in [&[300][..], &[200, 101], &[0, 200, 0], &[64, 0, 65, 1]] {
        check_all(&with, &wide(counts));
        check::<bf16>(&gpu, &wide(counts), 1);
    }
    for case in [
        Case { shared: true, ..base.clone() },
        Case { into: Into::Add, ..base.clone() },
        Case { around: (8, 16), into: Into::Add, ..base.clone() },
        Case { around: (1, 2), ..base.clone() },
    ] {
        check_all(&with, &case);
        check::<bf16>(&gpu, &case, 1);
    }
    // Gradients of weights: square tiles in several splits by the kernel, the library for one modality.
    check::<bf16>(&with, &Case { biases: false, ..case(&[3000, 0, 1100], 768, 1536) }, 2);
    check::<bf16>(&with, &Case { biases: false, ..case(&[1100], 768, 1536) }, 2);
    check::<bf16>(&with, &Case { biases: false, ..case(&[70, 0, 60], 2304, 2304) }, 2);
}

/// More wide tiles than multiprocessors, so that each leaves while the block's next is multiplied; rows that end inside of 16
/// bytes, a last tile of few columns; sums of a few steps, in which several rows leave, and of many.
#[test]
fn many_wide_tiles() {
    let Some(gpu) = gpu("many_wide_tiles") else { return };
    for (narrow, wide) in [(268, 4100), (1292, 2060)] {
        for into in [Into::Overwrite, Into::Add] {
            let case = Case { into, around: (0, 4), ..case(&[1500, 0, 1041, 3], narrow, wide) };
            check::<bf16>(&gpu, &case, 18);
            check::<bf16>(&gpu, &Case { n_in: wide, n_out: narrow, ..case }, 19);
        }
    }
}

/// Gradients of weights with as many tiles as a card has multiprocessors, and a pair of tiles that lacks one: no partial sums.
#[test]
fn sums_without_splits() {
    let Some(gpu) = gpu("sums_without_splits") else { return };
    check::<bf16>(&gpu, &Case { biases: false, ..case(&[70, 0, 60], 2048, 2304) }, 15);
    check::<bf16>(&gpu, &Case { biases: false, ..case(&[70, 0, 60], 2048, 2432) }, 15);
}

/// `residual + x W^T + b`, by each kernel and the library; the residual's rows have columns around them.
#[test]
fn onto_a_residual() {
    let Some(gpu) = gpu("onto_a_residual") else { return };
    let portable = with_stream(gpu.stream().clone()).portable();
    let with = with_library(&gpu);
    for (n_in, n_out, biases) in
        [(48, 264, true), (200, 72, true), (136, 160, false), (200, 520, true), (520, 512, false), (1040, 5000, false)]
    {
        for gpu in [&gpu, &portable, &with] {
            for before in [0, 8, 3] {
                check_residual(gpu, &Case { biases, ..case(&[70, 0, 350, 131], n_in, n_out) }, before);
            }
        }
    }
}

fn check_residual(gpu: &Gpu, case: &Case, before: usize) {
    let p = Problem::new::<bf16>(case, 16);
    let (n, n_out, wide) = (p.plan.n_rows(), case.n_out, (before + case.n_out + 5).next_multiple_of(8));
    let old = rounded::<bf16>(&Random(17).normals(n * wide, 1.0));
    let onto = |y: Vec<f64>| -> Vec<f64> {
        y.iter().enumerate().map(|(i, y)| y + old[i / n_out * wide + before + i % n_out]).collect()
    };
    let [want, naive] = [onto(on_host::<f64>(&p)[0].clone()), onto(on_host::<f32>(&p)[0].clone())];
    let d = OnDevice::<bf16>::new(gpu, &p);
    let residual = upload::<bf16>(gpu, &old);
    let residual = gpu.rows(&residual, wide).unwrap().columns(before, n_out).unwrap();
    let run = || {
        let mut y = poisoned::<bf16>(gpu, n * n_out);
        let (offsets, weights) = (d.plan.modality_offsets(gpu), d.weights(gpu, &p));
        let (x, to) = (gpu.rows(&d.x, case.n_in).unwrap(), gpu.rows_mut(&mut y, n_out).unwrap());
        device::forward_add(gpu, &offsets, &x, &weights, Some(&residual), to).unwrap();
        download(gpu, &y)
    };
    let got = run();
    let mut report = Report::new(format!("residual {} -> {n_out}, from column {before}", case.n_in));
    report.output::<bf16>("y", &got, &want, &naive, 1e-5);
    report.finish();
    let bits = |x: &[f64]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert!(bits(&got) == bits(&run()), "two runs differ");
}

/// One shape in a captured graph, with rows that change their values.
#[test]
fn library_in_a_graph() {
    let Some(gpu) = gpu("library_in_a_graph") else { return };
    let context = gpu.stream().context().clone();
    let gpu = with_stream(context.new_stream().unwrap());
    // SAFETY: this test uses one stream. Events recorded outside of a capture may not be waited for inside.
    unsafe { context.disable_event_tracking() };
    gpu.load_library().unwrap();
    gpu.preload(Module::ALL).unwrap();
    let case = Case { biases: false, ..case(&[100, 0, 200], 768, 640) };
    let (first, second) = (Problem::new::<bf16>(&case, 10), Problem::new::<bf16>(&case, 11));
    let mut on_device = OnDevice::<bf16>::new(&gpu, &first);
    on_device.run(&gpu, &first).unwrap();
    gpu.stream().synchronize().unwrap();
    gpu.stream().begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    let run = on_device.run(&gpu, &first);
    let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = gpu.stream().end_capture(flags).unwrap().unwrap();
    run.unwrap();
    let other = OnDevice::<bf16>::new(&gpu, &second);
    gpu.stream().memcpy_dtod(&other.x, &mut on_device.x).unwrap();
    gpu.stream().memcpy_dtod(&other.grad_y, &mut on_device.grad_y).unwrap();
    for (from, to) in other.weights.iter().zip(&mut on_device.weights) {
        gpu.stream().memcpy_dtod(from, to).unwrap();
    }
    graph.launch().unwrap();
    gpu.stream().synchronize().unwrap();
    compare::<bf16>("library in a graph", &second, &on_device.outputs(&gpu, &second));
}

/// `alpha op(a) op(b) + beta y` in every form, with columns around y.
fn check_matmul<T: TestElement, O: TestElement>(gpu: &Gpu, transposed: [bool; 2], beta: f32) {
    check_matmul_in::<T, O>(gpu, transposed, beta, 96, None);
}

/// The same of sums of `k`, in a workspace of the caller's.
fn check_matmul_in<T: TestElement, O: TestElement>(
    gpu: &Gpu,
    transposed: [bool; 2],
    beta: f32,
    k: usize,
    bytes: Option<usize>,
) {
    let (m, n, wide, alpha) = (130, 72, 88, 0.5f32);
    let mut r = Random(12);
    let [a, b] = [rounded::<T>(&r.normals(m * k, 1.0)), rounded::<T>(&r.normals(k * n, 1.0))];
    let old: Vec<f64> = rounded::<O>(&r.normals(m * wide, 1.0));
    let inside = |column: usize| (8..8 + n).contains(&column);
    let old: Vec<f64> = old.iter().enumerate().map(|(i, &x)| if inside(i % wide) { x } else { f64::NAN }).collect();
    let mut want = Vec::new();
    for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
        let a = |l: usize| if transposed[0] { a[l * m + i] } else { a[i * k + l] };
        let b = |l: usize| if transposed[1] { b[j * k + l] } else { b[l * n + j] };
        let product: f64 = (0..k).map(|l| a(l) * b(l)).sum();
        let kept = if beta == 0.0 { 0.0 } else { f64::from(beta) * old[i * wide + 8 + j] };
        want.push(f64::from(alpha) * product + kept);
    }
    let (a, b) = (upload::<T>(gpu, &a), upload::<T>(gpu, &b));
    let run = || {
        let mut y = if beta == 0.0 { poisoned::<O>(gpu, m * wide) } else { upload::<O>(gpu, &old) };
        let a = gpu.rows(&a, if transposed[0] { m } else { k }).unwrap();
        let b = gpu.rows(&b, if transposed[1] { k } else { n }).unwrap();
        let factor = |rows, transposed| if transposed { Factor::transposed(rows) } else { Factor::plain(rows) };
        let to = gpu.rows_mut(&mut y, wide).unwrap().columns(8, n).unwrap();
        let mut workspace = bytes.map(|bytes| gpu.upload(&vec![0xffu8; bytes]).unwrap());
        let workspace = workspace.as_mut().map(|bytes| gpu.write(bytes));
        matmul(gpu, alpha, factor(&a, transposed[0]), factor(&b, transposed[1]), beta, to, workspace).unwrap();
        download(gpu, &y)
    };
    let got = run();
    assert!(got.iter().enumerate().all(|(i, x)| inside(i % wide) || x.is_nan()), "written around");
    let inner: Vec<f64> = got.iter().enumerate().filter(|(i, _)| inside(i % wide)).map(|(_, &x)| x).collect();
    let rounded_once: Vec<f64> = want.iter().map(|&x| f64::from(x as f32)).collect();
    let mut report =
        Report::new(format!("matmul {:?} -> {:?} {transposed:?} {beta} {k} {bytes:?}", T::DTYPE, O::DTYPE));
    report.output::<O>("y", &inner, &want, &rounded_once, 1e-5);
    report.finish();
    let bits = |x: &[f64]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert!(bits(&got) == bits(&run()), "two runs differ");
}

#[test]
fn library_products() {
    let Some(gpu) = gpu("library_products") else { return };
    gpu.load_library().unwrap();
    for transposed in [[false, false], [false, true], [true, false], [true, true]] {
        for beta in [0.0, 1.0, -2.0] {
            check_matmul::<bf16, bf16>(&gpu, transposed, beta);
            check_matmul::<bf16, f32>(&gpu, transposed, beta);
            check_matmul::<f16, f16>(&gpu, transposed, beta);
            check_matmul::<f16, f32>(&gpu, transposed, beta);
            check_matmul::<f32, f32>(&gpu, transposed, beta);
        }
    }
    // Sums that are cut, by however many bytes there are for their parts.
    for bytes in [0, 100, 80_000, RECOMMENDED_WORKSPACE_BYTES] {
        check_matmul_in::<bf16, f32>(&gpu, [true, false], 1.0, 6000, Some(bytes));
        check_matmul_in::<f32, f32>(&gpu, [false, true], 0.0, 6000, Some(bytes));
    }
}

#[test]
fn library_refusals() {
    let Some(gpu) = gpu("library_refusals") else { return };
    let (a, b) = (upload::<bf16>(&gpu, &[1.0; 32]), upload::<bf16>(&gpu, &[1.0; 32]));
    let (a, b) = (gpu.rows(&a, 8).unwrap(), gpu.rows(&b, 4).unwrap());
    let mut y = poisoned::<f16>(&gpu, 16);
    let product = |y: &mut CudaSlice<f16>, width| {
        matmul(&gpu, 1.0, Factor::plain(&a), Factor::plain(&b), 0.0, gpu.rows_mut(y, width).unwrap(), None)
    };
    assert_eq!(product(&mut y, 4), Err(CudaError::LibraryNotLoaded));
    gpu.load_library().unwrap();
    assert!(matches!(product(&mut y, 4), Err(CudaError::Dtype { arg: "y", expected: "bf16", got: "f16", .. })));
    assert!(matches!(product(&mut y, 8), Err(CudaError::Argument(Error::Shape { arg: "y", .. }))));
    let product =
        matmul(&gpu, 1.0, Factor::plain(&a), Factor::transposed(&b), 0.0, gpu.rows_mut(&mut y, 4).unwrap(), None);
    assert!(matches!(product, Err(CudaError::Argument(Error::Shape { arg: "b", .. }))));
}

#[test]
fn refusals() {
    let Some(gpu) = gpu("refusals") else { return };
    let p = Problem::new::<bf16>(&case(&[5, 6], 16, 24), 8);
    let d = OnDevice::<bf16>::new(&gpu, &p);
    let mut y = poisoned::<bf16>(&gpu, 11 * 24);
    let shape = |result: Result<(), CudaError>, arg: &str| match result {
        Err(CudaError::Argument(Error::Shape { op: "grouped_gemm", arg: got, .. })) => assert_eq!(got, arg),
        other => panic!("{other:?}"),
    };
    let weights = d.weights(&gpu, &p);
    let offsets = d.plan.modality_offsets(&gpu);
    let x = gpu.rows(&d.x, 16).unwrap();
    let narrow = x.clone().columns(0, 8).unwrap();
    shape(device::forward(&gpu, &offsets, &narrow, &weights, gpu.rows_mut(&mut y, 24).unwrap()), "x");
    shape(device::forward(&gpu, &offsets, &x, &weights, gpu.rows_mut(&mut y, 12).unwrap()), "y");
    let three = vec![gpu.read(&d.weights[0]); 3];
    let three = device::GroupedWeights::new(16, 24, three, None).unwrap();
    shape(device::forward(&gpu, &offsets, &x, &three, gpu.rows_mut(&mut y, 24).unwrap()), "weights");
    let weight = vec![gpu.read(&d.weights[0])];
    shape(device::GroupedWeights::new(16, 25, weight, None).map(drop), "weight");
}
