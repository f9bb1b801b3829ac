//! The optimiser on the GPU against plain loops in f64: odd lengths, more tensors than a launch takes, clipping.
#![allow(clippy::unwrap_used)]

mod cuda_support;

use cuda_support::*;
use mom_kernels::cuda::Gpu;
use mom_kernels::cuda::adamw::{AdamWStep, AdamWTensor, Clip, adamw, global_norm, global_norm_workspace_len};
use mom_kernels::cuda::half::{bf16, f16};

const STEP: AdamWStep = AdamWStep { lr: 1e-2, beta1: 0.9, beta2: 0.95, eps: 1e-8, step: 1 };
const DECAY: f64 = 0.1;

fn check<T: TestElement>(gpu: &Gpu, max_norm: Option<f64>) {
    let mut r = Random(77);
    // 40 tensors: two launches. Lengths around vectors and chunks; one is empty.
    let lens: Vec<usize> = (0..40).map(|i| [0, 1, 3, 4, 4095, 4096, 4097, 10_001][i % 8] + i / 8).collect();
    let mut weights: Vec<Vec<f64>> = lens.iter().map(|&len| rounded::<f32>(&r.normals(len, 1.0))).collect();
    let mut first: Vec<Vec<f64>> = lens.iter().map(|&len| vec![0.0; len]).collect();
    let mut second = first.clone();
    let mut master: Vec<_> = weights.iter().map(|w| upload::<f32>(gpu, w)).collect();
    let zeros = || lens.iter().map(|&len| upload::<f32>(gpu, &vec![0.0; len])).collect::<Vec<_>>();
    let (mut d_first, mut d_second) = (zeros(), zeros());
    let mut rounded_weights: Vec<_> = lens.iter().map(|&len| poisoned::<T>(gpu, len)).collect();
    for step in 1..=3 {
        let grads: Vec<Vec<f64>> = lens.iter().map(|&len| rounded::<T>(&r.normals(len, 0.3))).collect();
        let d_grads: Vec<_> = grads.iter().map(|grad| upload::<T>(gpu, grad)).collect();
        let config = AdamWStep { step, ..STEP };
        let mut norm = poisoned::<f32>(gpu, 1);
        let mut workspace = poisoned::<f32>(gpu, global_norm_workspace_len(lens.iter().copied()));
        let grad_refs: Vec<_> =
            d_grads.iter().zip(&lens).map(|(grad, &len)| gpu.read(grad).first("grad", len).unwrap()).collect();
        global_norm(gpu, &grad_refs, &mut gpu.write(&mut norm), gpu.write(&mut workspace)).unwrap();
        let want_norm = grads.iter().flatten().map(|g| g * g).sum::<f64>().sqrt();
        let mut report = Report::new(format!("{} step {step}", T::DTYPE.name()));
        report.within("norm", &download(gpu, &norm), &[want_norm], 1e-6);
        let clip = max_norm.map(|max_norm| Clip { norm: gpu.read(&norm), max_norm: max_norm as f32 });
        let mut tensors: Vec<AdamWTensor<'_, T>> = Vec::new();
        let parts = master.iter_mut().zip(&mut d_first).zip(&mut d_second).zip(&mut rounded_weights);
        for (i, (((master, first), second), weight)) in parts.enumerate() {
            let len = lens[i];
            tensors.push(AdamWTensor {
                grad: grad_refs[i].clone(),
                master: gpu.write(master).first("master", len).unwrap(),
                first: gpu.write(first).first("first", len).unwrap(),
                second: gpu.write(second).first("second", len).unwrap(),
                weight: Some(gpu.write(weight).first("weight", len).unwrap()),
                weight_decay: if i % 2 == 0 { DECAY as f32 } else { 0.0 },
            });
        }
        adamw(gpu, &mut tensors, config, clip.as_ref()).unwrap();
        drop(tensors);
        let scale = max_norm.map_or(1.0, |max_norm| (max_norm / want_norm).min(1.0));
        let correction = |beta: f64| 1.0 - beta.powi(step as i32);
        for i in 0..lens.len() {
            let decay = if i % 2 == 0 { DECAY } else { 0.0 };
            for k in 0..lens[i] {
                let g = grads[i][k] * scale;
                first[i][k] = STEP.beta1 * first[i][k] + (1.0 - STEP.beta1) * g;
                second[i][k] = STEP.beta2 * second[i][k] + (1.0 - STEP.beta2) * g * g;
                let root = (second[i][k] / correction(STEP.beta2)).sqrt() + STEP.eps;
                weights[i][k] -= STEP.lr * (decay * weights[i][k] + first[i][k] / correction(STEP.beta1) / root);
            }
            if lens[i] == 0 {
                continue;
            }
            report.within("weights", &download(gpu, &master[i]), &weights[i], 1e-6);
            report.within("first", &download(gpu, &d_first[i]), &first[i], 1e-5);
            report.within("second", &download(gpu, &d_second[i]), &second[i], 1e-5);
            let exact = rounded::<T>(&download(gpu, &master[i]));
            assert_eq!(download(gpu, &rounded_weights[i]), exact, "the rounded weight is the master's");
        }
        report.finish();
    }
}

#[test]
fn three_steps() {
    let Some(gpu) = gpu("three_steps") else { return };
    for max_norm in [None, Some(1.0), Some(1e6)] {
        check::<bf16>(&gpu, max_norm);
        check::<f16>(&gpu, max_norm);
        check::<f32>(&gpu, max_norm);
    }
}

#[test]
fn a_step_of_zero_is_refused() {
    let Some(gpu) = gpu("a_step_of_zero_is_refused") else { return };
    let config = AdamWStep { step: 0, ..STEP };
    let error = adamw::<f32>(&gpu, &mut [], config, None).unwrap_err();
    assert_eq!(error.to_string(), "adamw: step = 0 is outside 1..=4294967295");
}
