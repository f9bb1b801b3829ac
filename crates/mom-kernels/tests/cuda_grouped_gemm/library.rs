//! The library's products beside the kernel's: which of the two is taken, and every form of a single product.

use mom_kernels::cuda::half::{bf16, f16};
use mom_kernels::cuda::library::{Factor, RECOMMENDED_WORKSPACE_BYTES, linear, matmul};
use mom_kernels::cuda::{DevicePlan, Gpu, grouped_gemm as device};
use mom_kernels::grouped_gemm::Into;

use crate::cuda_support::*;
use crate::problem::{Case, OnDevice, Problem, bits, case, check, check_all};

/// A second [`Gpu`] of the same stream with cuBLASLt loaded.
pub fn with_library(gpu: &Gpu) -> Gpu {
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

/// A linear layer with and without bias and residual, rows of all of them in wider ones.
#[test]
fn linear_layers() {
    let Some(gpu) = gpu("linear_layers") else { return };
    let gpu = with_library(&gpu);
    let mut random = Random(21);
    for (n_rows, n_in, n_out) in [(1, 8, 8), (300, 27, 3), (1000, 576, 130), (129, 1152, 128)] {
        let mut draw = |n: usize| rounded::<f32>(&random.normals(n, 1.0));
        let (x, weight, bias) = (draw(n_rows * (n_in + 5)), draw(n_out * n_in), draw(n_out));
        let (wide, start) = (n_out + 12, 4);
        let (residual, y) = (draw(n_rows * wide), draw(n_rows * wide));
        let of = |values: &[f64]| upload::<f32>(&gpu, values);
        let (of_x, of_weight, of_bias, of_residual) = (of(&x), of(&weight), of(&bias), of(&residual));
        for (has_bias, has_residual) in [(false, false), (true, false), (false, true), (true, true)] {
            let mut of_y = of(&y);
            let rows = gpu.rows(&of_x, n_in + 5).unwrap().columns(0, n_in).unwrap();
            let added = gpu.rows(&of_residual, wide).unwrap().columns(start, n_out).unwrap();
            let to = gpu.rows_mut(&mut of_y, wide).unwrap().columns(start, n_out).unwrap();
            let read = gpu.read(&of_bias);
            let (bias_of, added) = (has_bias.then_some(&read), has_residual.then_some(&added));
            linear(&gpu, &rows, &gpu.rows(&of_weight, n_in).unwrap(), bias_of, added, to).unwrap();
            let mut want = y.clone();
            for (row, column) in (0..n_rows).flat_map(|row| (0..n_out).map(move |column| (row, column))) {
                let pairs = x[row * (n_in + 5)..][..n_in].iter().zip(&weight[column * n_in..][..n_in]);
                let at = row * wide + start + column;
                want[at] = pairs.map(|(a, b)| a * b).sum::<f64>()
                    + if has_bias { bias[column] } else { 0.0 }
                    + if has_residual { residual[at] } else { 0.0 };
            }
            let got = download::<f32>(&gpu, &of_y);
            let error = relative(&got, &want);
            assert!(error < 1e-5, "({n_rows}, {n_in}, {n_out}), bias {has_bias}, residual {has_residual}: {error:.1e}");
            let beside = |i: &usize| !(start..start + n_out).contains(&(i % wide));
            assert!((0..y.len()).filter(beside).all(|i| got[i] == y[i]), "what is beside y was written");
        }
    }
    let (x, weight, bias) = (gpu.zeros::<f32>(6).unwrap(), gpu.zeros::<f32>(6).unwrap(), gpu.zeros::<f32>(3).unwrap());
    let mut y = gpu.zeros::<f32>(4).unwrap();
    let (rows, of_weight, to) =
        (gpu.rows(&x, 3).unwrap(), gpu.rows(&weight, 3).unwrap(), gpu.rows_mut(&mut y, 2).unwrap());
    let told = linear(&gpu, &rows, &of_weight, Some(&gpu.read(&bias)), None, to).unwrap_err().to_string();
    assert!(told.contains("bias"), "{told}");
}
