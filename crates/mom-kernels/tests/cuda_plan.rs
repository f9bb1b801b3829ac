//! The modality plan sorted on the device, column sums, what is refused, and a captured graph.
#![allow(clippy::unwrap_used)]

mod cuda_support;

use cuda_support::*;
use mom_kernels::ModalityPlan;
use mom_kernels::cuda::column_sums::{column_sums, workspace_len};
use mom_kernels::cuda::half::bf16;
use mom_kernels::cuda::{CudaError, DevicePlan, EqualGroups, Gpu, Module};

fn ids(n: usize, n_modalities: usize, seed: u64) -> Vec<u8> {
    let mut r = Random(seed);
    (0..n).map(|_| r.below(n_modalities) as u8).collect()
}

fn expect_plan(gpu: &Gpu, got: &DevicePlan, want: &ModalityPlan) {
    got.check(gpu).unwrap();
    assert_eq!(gpu.download(got.row_of_position()).unwrap(), want.row_of_position());
    assert_eq!(gpu.download(got.position_of_row()).unwrap(), want.position_of_row());
}

#[test]
fn sort_is_the_hosts() {
    let Some(gpu) = gpu("sort_is_the_hosts") else { return };
    for (batch, seqlen) in [(1, 1), (1, 31), (3, 100), (1, 1023), (1, 1024), (1, 1025), (8, 4096), (70, 4096)] {
        for n_modalities in [1, 2, 3, 7, 256] {
            let n = batch * seqlen;
            let host_ids = ids(n, n_modalities, n as u64);
            let want = ModalityPlan::new(batch, seqlen, n_modalities, &host_ids, None).unwrap();
            let device_ids = gpu.upload(&host_ids).unwrap();
            let mut got = DevicePlan::sort(&gpu, batch, seqlen, n_modalities, &gpu.read(&device_ids), None).unwrap();
            expect_plan(&gpu, &got, &want);
            // The same plan for another batch, and one in which only the last modality is there.
            for other in [ids(n, n_modalities, 1 + n as u64), vec![n_modalities as u8 - (n_modalities > 0) as u8; n]] {
                let want = ModalityPlan::new(batch, seqlen, n_modalities, &other, None).unwrap();
                let device_ids = gpu.upload(&other).unwrap();
                got.sort_again(&gpu, &gpu.read(&device_ids)).unwrap();
                expect_plan(&gpu, &got, &want);
            }
        }
    }
}

#[test]
fn an_id_out_of_range_is_told() {
    let Some(gpu) = gpu("an_id_out_of_range_is_told") else { return };
    let mut host_ids = ids(3000, 3, 1);
    host_ids[2500] = 3;
    host_ids[2999] = 255;
    let device_ids = gpu.upload(&host_ids).unwrap();
    let plan = DevicePlan::sort(&gpu, 1, 3000, 3, &gpu.read(&device_ids), None).unwrap();
    let error = plan.check(&gpu).unwrap_err();
    assert!(matches!(
        error,
        CudaError::Argument(mom_kernels::Error::ModalityId { position: 2500, n_modalities: 3, .. })
    ));
    // Rows are a permutation all the same.
    let mut rows = gpu.download(plan.row_of_position()).unwrap();
    rows.sort_unstable();
    assert!(rows.iter().enumerate().all(|(i, &row)| i == row as usize));
}

#[test]
fn sums_of_columns() {
    let Some(gpu) = gpu("sums_of_columns") else { return };
    for (n, width, n_modalities) in [(1, 1, 1), (130, 33, 3), (1000, 128, 5), (4096, 200, 2), (300, 64, 200)] {
        let mut r = Random(n as u64);
        // One modality is absent where there are enough.
        let host_ids: Vec<u8> = ids(n, n_modalities, 9).into_iter().map(|id| if id == 1 { 0 } else { id }).collect();
        let plan = ModalityPlan::new(1, n, n_modalities, &host_ids, None).unwrap();
        let x = rounded::<bf16>(&r.normals(n * width, 1.0));
        let mut want = vec![0.0; n_modalities * width];
        for (row, x) in x.chunks_exact(width).enumerate() {
            let modality = plan.modality_offsets().modality_of_row(row);
            for (sum, x) in want[modality * width..].iter_mut().zip(x) {
                *sum += x;
            }
        }
        let device_plan = DevicePlan::upload(&gpu, &plan).unwrap();
        let x = upload::<bf16>(&gpu, &x);
        let run = || {
            let mut sums = poisoned::<f32>(&gpu, n_modalities * width);
            let mut workspace = poisoned::<f32>(&gpu, workspace_len(n, n_modalities, width));
            let rows = gpu.rows(&x, width).unwrap();
            let offsets = device_plan.modality_offsets(&gpu);
            column_sums(&gpu, &offsets, &rows, gpu.write(&mut sums), gpu.write(&mut workspace)).unwrap();
            download(&gpu, &sums)
        };
        let mut report = Report::new(format!("{n}x{width}, {n_modalities} modalities"));
        report.within("sums", &run(), &want, 1e-6);
        report.finish();
        assert_eq!(run(), run());
    }
}

#[test]
fn sums_of_columns_of_equal_groups() {
    let Some(gpu) = gpu("sums_of_columns_of_equal_groups") else { return };
    for (n_groups, each, width) in [(1, 5, 3), (24, 1024, 192), (300, 7, 64)] {
        let x = rounded::<bf16>(&Random(3).normals(n_groups * each * width, 1.0));
        let mut want = vec![0.0; n_groups * width];
        for (i, x) in x.iter().enumerate() {
            want[i / (each * width) * width + i % width] += x;
        }
        let (groups, x) = (EqualGroups::upload(&gpu, n_groups, each).unwrap(), upload::<bf16>(&gpu, &x));
        let mut sums = poisoned::<f32>(&gpu, n_groups * width);
        let mut workspace = poisoned::<f32>(&gpu, workspace_len(n_groups * each, n_groups, width));
        let rows = gpu.rows(&x, width).unwrap();
        column_sums(&gpu, &groups.offsets(&gpu), &rows, gpu.write(&mut sums), gpu.write(&mut workspace)).unwrap();
        let mut report = Report::new(format!("{n_groups} groups of {each}x{width}"));
        report.within("sums", &download(&gpu, &sums), &want, 1e-6);
        report.finish();
    }
}

#[test]
fn a_captured_graph_sorts_other_ids() {
    let Some(device) = gpu("a_captured_graph_sorts_other_ids") else { return };
    let gpu = on_a_stream_of_its_own(&device);
    gpu.preload(Module::of("modality_plan")).unwrap();
    let (n, n_modalities) = (5000, 3);
    let mut device_ids = gpu.upload(&ids(n, n_modalities, 1)).unwrap();
    let mut plan = DevicePlan::sort(&gpu, 1, n, n_modalities, &gpu.read(&device_ids), None).unwrap();
    let graph = captured(&gpu, || plan.sort_again(&gpu, &gpu.read(&device_ids)));
    let other = ids(n, n_modalities, 2);
    gpu.stream().memcpy_htod(&other, &mut device_ids).unwrap();
    graph.launch().unwrap();
    expect_plan(&gpu, &plan, &ModalityPlan::new(1, n, n_modalities, &other, None).unwrap());
}

#[test]
fn every_module_loads() {
    let Some(gpu) = gpu("every_module_loads") else { return };
    gpu.preload(Module::ALL).unwrap();
}

#[test]
fn sizes_that_disagree_are_refused() {
    let Some(gpu) = gpu("sizes_that_disagree_are_refused") else { return };
    let device_ids = gpu.upload(&[0u8; 10]).unwrap();
    let error = DevicePlan::sort(&gpu, 1, 11, 1, &gpu.read(&device_ids), None).unwrap_err();
    assert_eq!(error.to_string(), "modality_plan: modality_ids has 10 elements, expected 11");
    let x = gpu.zeros::<f32>(12).unwrap();
    assert_eq!(gpu.rows(&x, 5).unwrap_err().to_string(), "rows: rows has 12 elements, expected 10");
}

/// Holds without a GPU too: there the construction is an error that says what is missing.
#[test]
fn without_a_driver_construction_fails() {
    match Gpu::new(0) {
        Ok(_) => {}
        Err(error) => assert!(error.to_string().contains("driver") || error.to_string().contains("GPU 0"), "{error}"),
    }
}
