//! Single steps, one after the other, are the sequence.

use mom_kernels::cuda::half::{bf16, f16};
use mom_kernels::cuda::{DeviceLayout, Gpu, selective_scan as device};

use crate::cuda_support::*;
use crate::scan::*;

#[test]
fn steps_are_the_sequence() {
    let Some(gpu) = gpu("steps_are_the_sequence") else { return };
    steps::<f32>(&gpu, 1e-5);
    steps::<bf16>(&gpu, 4e-3);
    steps::<f16>(&gpu, 6e-4);
}

fn steps<T: TestElement>(gpu: &Gpu, limit: f64) {
    let case = Case { seqlen: 5, d_inner: 33, d_state: 10, n_modalities: 1, dt_rank: 0, ..FULL };
    let p = Problem::new::<T>(case, 20);
    let want = on_host::<f64>(&p);
    let mut state = upload::<f32>(gpu, &p.initial);
    let [bias, a, d_skip] = [&p.dt_bias, &p.a, &p.d_skip].map(|x| upload::<f32>(gpu, x));
    let mut got = vec![0.0; want[0].len()];
    for t in 0..case.seqlen {
        // One row a sequence: position t of each.
        let gather = |x: &[f64], width: usize| -> Vec<f64> {
            (0..case.batch).flat_map(|b| x[(b * case.seqlen + t) * width..][..width].to_vec()).collect()
        };
        let u = upload::<T>(gpu, &gather(&p.u, 33));
        let dt = upload::<T>(gpu, &gather(&p.dt, 33));
        let bc = upload::<T>(gpu, &gather(&p.x_dbl, 20));
        let xz = upload::<T>(gpu, &gather(&p.xz, 66));
        let starts: Vec<u8> =
            (0..case.batch).map(|b| u8::from(p.plan.document_starts().unwrap()[b * case.seqlen + t])).collect();
        let starts = gpu.upload(&starts).unwrap();
        let inputs = device::ScanInputs::new(
            DeviceLayout::contiguous(case.batch, 1, Some(gpu.read(&starts))).unwrap(),
            gpu.rows(&u, 33).unwrap(),
            gpu.rows(&dt, 33).unwrap(),
            gpu.read(&a),
            gpu.rows(&bc, 20).unwrap().columns(0, 10).unwrap(),
            gpu.rows(&bc, 20).unwrap().columns(10, 10).unwrap(),
        )
        .with_dt_bias(device::DtBias::new(gpu.read(&bias), mom_kernels::cuda::DeviceOffsets::single(case.batch)))
        .with_d_skip(gpu.read(&d_skip))
        .with_z(gpu.rows(&xz, 66).unwrap().columns(33, 33).unwrap());
        let mut out = poisoned::<T>(gpu, case.batch * 33);
        device::step(gpu, &inputs, gpu.write(&mut state), gpu.rows_mut(&mut out, 33).unwrap()).unwrap();
        for (b, row) in download(gpu, &out).chunks_exact(33).enumerate() {
            got[(b * case.seqlen + t) * 33..][..33].copy_from_slice(row);
        }
    }
    let mut report = Report::new(format!("{} step", T::DTYPE.name()));
    report.within("out", &got, &want[0], limit);
    report.within("state", &download(gpu, &state), &want[1], 1e-5);
    report.finish();
}
