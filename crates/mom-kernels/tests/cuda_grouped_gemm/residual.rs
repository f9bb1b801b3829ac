//! Products onto a residual whose rows lie among other columns.

use mom_kernels::cuda::half::bf16;
use mom_kernels::cuda::{Gpu, grouped_gemm as device};

use crate::cuda_support::*;
use crate::library::with_library;
use crate::problem::{Case, OnDevice, Problem, bits, case, on_host};

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
    assert!(bits(&got) == bits(&run()), "two runs differ");
}
