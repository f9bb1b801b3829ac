//! The norm on the GPU against the CPU's in f64, with and without a residual; poisoned memory; twice the same bits.
#![allow(clippy::unwrap_used)]

mod cuda_support;

use cuda_support::*;
use mom_kernels::cuda::half::{bf16, f16};
use mom_kernels::cuda::rms_norm as device;
use mom_kernels::cuda::{DeviceRows, DeviceRowsMut, Gpu};
use mom_kernels::{Element, Rows, RowsMut, rms_norm as host};

const EPS: f64 = 1e-5;

struct Problem {
    width: usize,
    x: Vec<f64>,
    residual: Vec<f64>,
    weight: Vec<f64>,
    grad_y: Vec<f64>,
    grad_sum: Vec<f64>,
}

/// y, grad_x and grad_weight of the norm of `x`, with `grad_sum` added to grad_x.
fn on_host<E: Element>(p: &Problem, x: &[f64], grad_sum: Option<&[f64]>) -> [Vec<f64>; 3] {
    let to = |x: &[f64]| x.iter().map(|&x| E::from_f64(x)).collect::<Vec<E>>();
    let (x, weight, grad_y) = (to(x), to(&p.weight), to(&p.grad_y));
    let zeros = |len: usize| vec![E::from_f64(0.0); len];
    let (mut y, mut grad_x, mut grad_weight) = (zeros(x.len()), zeros(x.len()), zeros(p.width));
    let rows = Rows::new("x", &x, p.width).unwrap();
    host::forward(rows, &weight, EPS, RowsMut::new("y", &mut y, p.width).unwrap()).unwrap();
    let grad_rows = RowsMut::new("grad_x", &mut grad_x, p.width).unwrap();
    let grad_y = Rows::new("grad_y", &grad_y, p.width).unwrap();
    host::backward(rows, &weight, EPS, grad_y, grad_rows, &mut grad_weight).unwrap();
    let mut outputs = [y, grad_x, grad_weight].map(|x| x.into_iter().map(Element::to_f64).collect::<Vec<f64>>());
    for (grad, sum) in outputs[1].iter_mut().zip(grad_sum.into_iter().flatten()) {
        *grad += sum;
    }
    outputs
}

/// y, grad_x, grad_weight, and the sum where there is a residual.
fn on_device<T: TestElement>(gpu: &Gpu, p: &Problem, with_residual: bool) -> [Vec<f64>; 4] {
    let [x, residual, grad_y, grad_sum] = [&p.x, &p.residual, &p.grad_y, &p.grad_sum].map(|x| upload::<T>(gpu, x));
    let weight = upload::<f32>(gpu, &p.weight);
    let width = p.width;
    let (mut y, mut sum) = (poisoned::<T>(gpu, p.x.len()), poisoned::<T>(gpu, p.x.len()));
    let parts = with_residual
        .then(|| device::Residual::new(gpu.rows(&residual, width).unwrap(), gpu.rows_mut(&mut sum, width).unwrap()));
    let (rows, y_rows) = (gpu.rows(&x, width).unwrap(), gpu.rows_mut(&mut y, width).unwrap());
    device::forward(gpu, rows, parts, gpu.read(&weight), EPS as f32, y_rows).unwrap();
    let (mut grad_x, mut grad_weight) = (poisoned::<T>(gpu, p.x.len()), poisoned::<f32>(gpu, width));
    let mut workspace = poisoned::<f32>(gpu, device::backward_workspace_len(p.x.len() / width, width));
    let inputs = device::NormInputs::new(
        gpu.rows(if with_residual { &sum } else { &x }, width).unwrap(),
        gpu.read(&weight),
        EPS as f32,
        gpu.rows(&grad_y, width).unwrap(),
    )
    .with_grad_sum(with_residual.then(|| gpu.rows(&grad_sum, width).unwrap()));
    let grad_rows = gpu.rows_mut(&mut grad_x, width).unwrap();
    device::backward(gpu, &inputs, grad_rows, gpu.write(&mut grad_weight), gpu.write(&mut workspace)).unwrap();
    let sum = if with_residual { download(gpu, &sum) } else { Vec::new() };
    [download(gpu, &y), download(gpu, &grad_x), download(gpu, &grad_weight), sum]
}

fn check<T: TestElement>(gpu: &Gpu, n_rows: usize, width: usize) {
    let mut r = Random((n_rows * 7919 + width) as u64);
    let problem = Problem {
        width,
        x: rounded::<T>(&r.normals(n_rows * width, 2.0)),
        residual: rounded::<T>(&r.normals(n_rows * width, 1.0)),
        weight: rounded::<f32>(&r.normals(width, 1.0)),
        grad_y: rounded::<T>(&r.normals(n_rows * width, 1.0)),
        grad_sum: rounded::<T>(&r.normals(n_rows * width, 1.0)),
    };
    for with_residual in [false, true] {
        let got = on_device::<T>(gpu, &problem, with_residual);
        let mut report = Report::new(format!("{} {n_rows}x{width} residual {with_residual}", T::DTYPE.name()));
        let mut normed = problem.x.clone();
        if with_residual {
            // The sum is rounded once, and what follows is held against the rounded one.
            let sum: Vec<f64> = problem.x.iter().zip(&problem.residual).map(|(x, r)| x + r).collect();
            normed = rounded::<T>(&rounded::<f32>(&sum));
            report.within("sum", &got[3], &normed, 0.0);
        }
        let grad_sum = with_residual.then_some(&problem.grad_sum[..]);
        let want = on_host::<f64>(&problem, &normed, grad_sum);
        let naive = on_host::<f32>(&problem, &normed, grad_sum);
        report.output::<T>("y", &got[0], &want[0], &naive[0], 1e-5);
        report.output::<T>("grad_x", &got[1], &want[1], &naive[1], 1e-4);
        report.within("grad_weight", &got[2], &want[2], 1e-4);
        report.finish();
        let bits = |x: &[Vec<f64>; 4]| x.iter().flatten().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert!(bits(&got) == bits(&on_device::<T>(gpu, &problem, with_residual)), "two runs differ");
    }
}

fn every_type(test: &str, problems: &[(usize, usize)]) {
    let Some(gpu) = gpu(test) else { return };
    // A row of one or two elements has a gradient that is all but cancelled: nothing to hold a relative error against.
    for &(n_rows, width) in problems {
        check::<bf16>(&gpu, n_rows, width);
        check::<f16>(&gpu, n_rows, width);
        check::<f32>(&gpu, n_rows, width);
    }
}

/// Rows that no lane holds (not on vectors, or wider than 6144), rows of one warp, of teams of 2, 4 and 8.
#[test]
fn few_rows() {
    let problems = [(1, 5), (3, 7), (16, 8), (17, 96), (100, 255), (33, 768), (11, 1024), (7, 1536), (65, 2048)];
    every_type("few_rows", &problems);
}

#[test]
fn wide_rows() {
    every_type("wide_rows", &[(9, 4096), (5, 5000), (9, 6144), (4, 6152)]);
}

/// More rows than blocks: each stays for several, and the last of a block's rows are not there.
#[test]
fn many_rows() {
    every_type("many_rows", &[(9001, 64), (4003, 1536), (2203, 768), (1500, 3072)]);
}

#[test]
fn columns_of_a_wider_matrix() {
    let Some(gpu) = gpu("columns_of_a_wider_matrix") else { return };
    let (n_rows, width) = (40, 96);
    let mut r = Random(5);
    let x = rounded::<bf16>(&r.normals(n_rows * 2 * width, 1.0));
    let weight = upload::<f32>(&gpu, &r.normals(width, 1.0));
    let d_x = upload::<bf16>(&gpu, &x);
    // Columns on vectors, and columns that are not: the same rows as a matrix of their own.
    for first in [16, 3] {
        let of_row = |row: usize| &x[row * 2 * width + first..][..width];
        let own: Vec<f64> = (0..n_rows).flat_map(of_row).copied().collect();
        let own = upload::<bf16>(&gpu, &own);
        let (mut y, mut want) = (poisoned::<bf16>(&gpu, n_rows * width), poisoned::<bf16>(&gpu, n_rows * width));
        let rows = gpu.rows(&d_x, 2 * width).unwrap().columns(first, width).unwrap();
        let to = gpu.rows_mut(&mut y, width).unwrap();
        device::forward(&gpu, rows, None, gpu.read(&weight), EPS as f32, to).unwrap();
        let to = gpu.rows_mut(&mut want, width).unwrap();
        device::forward(&gpu, gpu.rows(&own, width).unwrap(), None, gpu.read(&weight), EPS as f32, to).unwrap();
        let mut report = Report::new(format!("columns from {first}"));
        report.within("y", &download(&gpu, &y), &download(&gpu, &want), 1e-3);
        report.finish();
    }
}

#[test]
fn no_row_has_no_gradient() {
    let Some(gpu) = gpu("no_row_has_no_gradient") else { return };
    let width = 96;
    let (mut memory, weight) = (gpu.zeros::<f32>(1).unwrap(), gpu.zeros::<f32>(width).unwrap());
    let (none, mut grad_weight) = (gpu.zeros::<f32>(1).unwrap(), poisoned::<f32>(&gpu, width));
    let mut workspace = poisoned::<f32>(&gpu, device::backward_workspace_len(0, width));
    let rows = DeviceRows::new("x", gpu.read(&none).first("x", 0).unwrap(), width).unwrap();
    let inputs = device::NormInputs::new(rows.clone(), gpu.read(&weight), EPS as f32, rows);
    let to = DeviceRowsMut::new("grad_x", gpu.write(&mut memory).first("grad_x", 0).unwrap(), width).unwrap();
    let len = device::backward_workspace_len(0, width);
    let workspace = gpu.write(&mut workspace).first("workspace", len).unwrap();
    device::backward(&gpu, &inputs, to, gpu.write(&mut grad_weight), workspace).unwrap();
    assert_eq!(download(&gpu, &grad_weight), vec![0.0; width]);
}
