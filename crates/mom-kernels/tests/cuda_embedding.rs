//! The embedding on the GPU against plain loops: ids that are frequent, rare, absent or none; both ways into the
//! gradient; every alignment; poisoned memory; twice the same bits.
#![allow(clippy::unwrap_used)]

mod cuda_support;

use cuda_support::*;
use mom_kernels::cuda::embedding::{Into, NO_ID, backward, backward_workspace_len, check, forward};
use mom_kernels::cuda::half::{bf16, f16};
use mom_kernels::cuda::{Gpu, GradientOf};

/// Columns before the matrix in each row of memory, and how many a row of memory has.
fn frame(width: usize, before: usize) -> (usize, usize) {
    (before, before + width + before)
}

fn fill(rows: &[f64], width: usize, before: usize) -> Vec<f64> {
    let (before, stride) = frame(width, before);
    let mut all = vec![f64::NAN; rows.len() / width * stride];
    for (to, from) in all.chunks_exact_mut(stride).zip(rows.chunks_exact(width)) {
        to[before..before + width].copy_from_slice(from);
    }
    all
}

fn take(all: &[f64], width: usize, before: usize) -> Vec<f64> {
    let (before, stride) = frame(width, before);
    let mut rows = Vec::new();
    for row in all.chunks_exact(stride) {
        rows.extend_from_slice(&row[before..before + width]);
        assert!(row[..before].iter().chain(&row[before + width..]).all(|x| x.is_nan()), "written beside the columns");
    }
    rows
}

/// How ids are drawn.
#[derive(Debug, Clone, Copy)]
enum Ids {
    /// All alike.
    Uniform,
    /// Half of all rows have one id, a twentieth has none.
    Skewed,
    /// Every row has the same.
    One,
}

fn draw(ids: Ids, n_rows: usize, vocabulary: usize, r: &mut Random) -> Vec<u32> {
    let hot = vocabulary as u32 / 2;
    (0..n_rows)
        .map(|_| match (ids, r.below(20)) {
            (Ids::One, _) | (Ids::Skewed, 0..10) => hot,
            (Ids::Skewed, 10) => NO_ID,
            _ => r.below(vocabulary) as u32,
        })
        .collect()
}

fn check_problem<T: TestElement, G: TestElement + GradientOf<T>>(
    gpu: &Gpu,
    (n_rows, vocabulary, width): (usize, usize, usize),
    kind: Ids,
    before: usize,
) {
    let mut r = Random((n_rows * 131 + vocabulary * 7 + width) as u64);
    let ids = draw(kind, n_rows, vocabulary, &mut r);
    let table = rounded::<T>(&r.normals(vocabulary * width, 1.0));
    let grad_out = rounded::<T>(&r.normals(n_rows * width, 1.0));
    let old = rounded::<G>(&r.normals(vocabulary * width, 1.0));
    let stride = frame(width, before).1;
    let d_ids = gpu.upload(&[&ids[..], &[0]].concat()).unwrap();
    let d_ids = gpu.read(&d_ids).first("ids", n_rows).unwrap();
    let d_table = upload::<T>(gpu, &fill(&table, width, before));
    let d_grad_out = upload::<T>(gpu, &fill(&grad_out, width, before));
    let mut out_of_range = gpu.zeros::<u32>(1).unwrap();
    let name = format!("{} {} {n_rows}x{width} of {vocabulary} {kind:?} +{before}", T::DTYPE.name(), G::DTYPE.name());

    let rows = |slice| gpu.rows(slice, stride).unwrap().columns(before, width).unwrap();
    if n_rows > 0 {
        let mut out = poisoned::<T>(gpu, n_rows * stride);
        let mut to = gpu.rows_mut(&mut out, stride).unwrap().columns(before, width).unwrap();
        forward(gpu, &rows(&d_table), &d_ids, &mut to, &mut gpu.write(&mut out_of_range)).unwrap();
        drop(to);
        let none = vec![0.0; width];
        let row = |&id: &u32| if id == NO_ID { &none[..] } else { &table[id as usize * width..][..width] };
        let want: Vec<f64> = ids.iter().flat_map(row).copied().collect();
        assert!(take(&download(gpu, &out), width, before) == want, "{name}: forward");
    }
    let mut sums = vec![0.0; vocabulary * width];
    for (id, grad) in ids.iter().zip(grad_out.chunks_exact(width)).filter(|(id, _)| **id != NO_ID) {
        sums[*id as usize * width..][..width].iter_mut().zip(grad).for_each(|(sum, g)| *sum += g);
    }
    let empty = upload::<T>(gpu, &[]);
    for into in [Into::Overwrite, Into::Add] {
        let mut run = || {
            let old = if into == Into::Add { old.clone() } else { vec![f64::NAN; old.len()] };
            let mut grad_table = upload::<G>(gpu, &fill(&old, width, before));
            let len = backward_workspace_len(n_rows, width);
            let mut workspace = gpu.upload(&vec![0x7fc0_7fc0u32; len]).unwrap();
            let mut to = gpu.rows_mut(&mut grad_table, stride).unwrap().columns(before, width).unwrap();
            let from = if n_rows > 0 {
                rows(&d_grad_out)
            } else {
                let none = gpu.read(&empty).first("grad_out", 0).unwrap();
                mom_kernels::cuda::DeviceRows::new("grad_out", none, width).unwrap()
            };
            let (mut count, workspace) = (gpu.write(&mut out_of_range), gpu.write(&mut workspace));
            backward(gpu, &d_ids, &from, &mut to, into, &mut count, workspace).unwrap();
            drop((to, count));
            take(&download(gpu, &grad_table), width, before)
        };
        let got = run();
        let want: Vec<f64> = match into {
            Into::Overwrite => sums.clone(),
            Into::Add => sums.iter().zip(&old).map(|(sum, old)| sum + old).collect(),
        };
        let mut report = Report::new(format!("{name} {into:?}"));
        report.output::<G>("grad_table", &got, &want, &want, 1e-5);
        report.finish();
        let bits = |x: Vec<f64>| x.into_iter().map(f64::to_bits).collect::<Vec<_>>();
        assert!(bits(got) == bits(run()), "{name}: two runs differ");
    }
    check(gpu, &out_of_range).unwrap();
}

/// Around pieces of 32 rows, blocks of 1024, one to three passes of the sort.
const PROBLEMS: [(usize, usize, usize); 11] = [
    (0, 3, 8),
    (1, 1, 5),
    (31, 2, 8),
    (33, 255, 24),
    (64, 256, 7),
    (1000, 300, 96),
    (1025, 255, 264),
    (5000, 40, 100),
    (700, 70_000, 8),
    (200, 300, 2048),
    (3000, 33_000, 8),
];

fn every_problem<T: TestElement, G: TestElement + GradientOf<T>>(test: &str) {
    let Some(gpu) = gpu(test) else { return };
    for problem in PROBLEMS {
        for kind in [Ids::Uniform, Ids::Skewed, Ids::One] {
            for before in [0, 8, 3] {
                check_problem::<T, G>(&gpu, problem, kind, before);
            }
        }
    }
}

#[test]
fn sizes_bf16() {
    every_problem::<bf16, bf16>("sizes_bf16");
}

#[test]
fn sizes_bf16_into_f32() {
    every_problem::<bf16, f32>("sizes_bf16_into_f32");
}

#[test]
fn sizes_f16() {
    every_problem::<f16, f16>("sizes_f16");
}

#[test]
fn sizes_f16_into_f32() {
    every_problem::<f16, f32>("sizes_f16_into_f32");
}

#[test]
fn sizes_f32() {
    every_problem::<f32, f32>("sizes_f32");
}

/// What the sanitizer is run on: every kernel of a pair of types in little time.
#[test]
fn a_few_odd_rows() {
    let Some(gpu) = gpu("a_few_odd_rows") else { return };
    for kind in [Ids::Uniform, Ids::Skewed, Ids::One] {
        for before in [0, 8, 3] {
            check_problem::<bf16, f32>(&gpu, (1100, 300, 24), kind, before);
        }
    }
}

#[test]
fn one_id_in_every_row_of_many() {
    let Some(gpu) = gpu("one_id_in_every_row_of_many") else { return };
    check_problem::<f32, f32>(&gpu, (200_000, 1000, 8), Ids::One, 0);
    check_problem::<bf16, f32>(&gpu, (200_000, 1 << 20, 4), Ids::Skewed, 0);
}

#[test]
fn ids_out_of_range_are_told_and_count_as_none() {
    let Some(gpu) = gpu("ids_out_of_range_are_told_and_count_as_none") else { return };
    let (vocabulary, width) = (5, 8);
    let ids = gpu.upload(&[4u32, 5, NO_ID, 0, NO_ID - 1, 4]).unwrap();
    let table = upload::<f32>(&gpu, &vec![1.0; vocabulary * width]);
    let mut out = poisoned::<f32>(&gpu, 6 * width);
    let mut count = gpu.zeros::<u32>(1).unwrap();
    let mut to = gpu.rows_mut(&mut out, width).unwrap();
    forward(&gpu, &gpu.rows(&table, width).unwrap(), &gpu.read(&ids), &mut to, &mut gpu.write(&mut count)).unwrap();
    drop(to);
    let present: Vec<f64> = download(&gpu, &out).chunks_exact(width).map(|row| row.iter().sum::<f64>() / 8.0).collect();
    assert_eq!(present, [1.0, 0.0, 0.0, 1.0, 0.0, 1.0]);
    assert_eq!(check(&gpu, &count).unwrap_err().to_string(), "embedding: 2 of ids are out of range");
    let grad_out = upload::<f32>(&gpu, &vec![1.0; 6 * width]);
    let mut grad_table = poisoned::<f32>(&gpu, vocabulary * width);
    let mut workspace = gpu.zeros::<u32>(backward_workspace_len(6, width)).unwrap();
    let (from, mut to) = (gpu.rows(&grad_out, width).unwrap(), gpu.rows_mut(&mut grad_table, width).unwrap());
    let (mut bad, workspace) = (gpu.write(&mut count), gpu.write(&mut workspace));
    backward(&gpu, &gpu.read(&ids), &from, &mut to, Into::Overwrite, &mut bad, workspace).unwrap();
    drop((to, bad));
    let sums: Vec<f64> = download(&gpu, &grad_table).chunks_exact(width).map(|row| row[3]).collect();
    assert_eq!(sums, [1.0, 0.0, 0.0, 0.0, 2.0]);
    assert_eq!(check(&gpu, &count).unwrap_err().to_string(), "embedding: 4 of ids are out of range");
}

#[test]
fn sizes_that_disagree_are_refused() {
    let Some(gpu) = gpu("sizes_that_disagree_are_refused") else { return };
    let (table, ids) = (gpu.zeros::<f32>(12).unwrap(), gpu.zeros::<u32>(2).unwrap());
    let (mut out, mut count) = (gpu.zeros::<f32>(9).unwrap(), gpu.zeros::<u32>(1).unwrap());
    let mut to = gpu.rows_mut(&mut out, 3).unwrap();
    let table = gpu.rows(&table, 3).unwrap();
    let error = forward(&gpu, &table, &gpu.read(&ids), &mut to, &mut gpu.write(&mut count)).unwrap_err();
    assert_eq!(error.to_string(), "embedding: out has 3 rows, expected 2");
}
