//! The optimiser on the GPU against plain loops in f64: odd lengths, more tensors than a launch takes, clipping, constants
//! in device memory, steps that are skipped.
#![allow(clippy::unwrap_used)]

mod cuda_support;

use cuda_support::*;
use mom_kernels::cuda::adamw::{
    AdamWStep, AdamWTensor, Clip, Step, StepRecord, adamw, adamw_if_finite, global_norm, global_norm_workspace_len,
};
use mom_kernels::cuda::cudarc::driver::CudaSlice;
use mom_kernels::cuda::half::{bf16, f16};
use mom_kernels::cuda::{Gpu, GradientOf, Module};

const STEP: AdamWStep = AdamWStep::new(1e-2, 1).with_betas(0.9, 0.95);
const DECAY: f64 = 0.1;

/// Where a step's constants come from.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Constants {
    Host,
    Device,
}

fn check<G: TestElement + GradientOf<W>, W: TestElement>(gpu: &Gpu, max_norm: Option<f64>, constants: Constants) {
    let mut r = Random(77);
    // 40 tensors: two launches. Lengths around vectors and chunks; one is empty.
    let lens: Vec<usize> = (0..40).map(|i| [0, 1, 3, 4, 4095, 4096, 16_384, 20_001][i % 8] + i / 8).collect();
    let mut weights: Vec<Vec<f64>> = lens.iter().map(|&len| rounded::<f32>(&r.normals(len, 1.0))).collect();
    let mut first: Vec<Vec<f64>> = lens.iter().map(|&len| vec![0.0; len]).collect();
    let mut second = first.clone();
    let mut master: Vec<_> = weights.iter().map(|w| upload::<f32>(gpu, w)).collect();
    let zeros = || lens.iter().map(|&len| upload::<f32>(gpu, &vec![0.0; len])).collect::<Vec<_>>();
    let (mut d_first, mut d_second) = (zeros(), zeros());
    let mut rounded_weights: Vec<_> = lens.iter().map(|&len| poisoned::<W>(gpu, len)).collect();
    for step in 1..=3 {
        let grads: Vec<Vec<f64>> = lens.iter().map(|&len| rounded::<G>(&r.normals(len, 0.3))).collect();
        let d_grads: Vec<_> = grads.iter().map(|grad| upload::<G>(gpu, grad)).collect();
        let config = STEP.with_step(step);
        let mut norm = poisoned::<f32>(gpu, 1);
        let mut workspace = poisoned::<f32>(gpu, global_norm_workspace_len(lens.iter().copied()));
        let grad_refs: Vec<_> =
            d_grads.iter().zip(&lens).map(|(grad, &len)| gpu.read(grad).first("grad", len).unwrap()).collect();
        global_norm(gpu, &grad_refs, &mut gpu.write(&mut norm), gpu.write(&mut workspace)).unwrap();
        let want_norm = grads.iter().flatten().map(|g| g * g).sum::<f64>().sqrt();
        let mut report = Report::new(format!("{} {} step {step} {constants:?}", G::DTYPE.name(), W::DTYPE.name()));
        report.within("norm", &download(gpu, &norm), &[want_norm], 1e-6);
        let clip = max_norm.map(|max_norm| Clip::new(gpu.read(&norm), max_norm as f32));
        let mut tensors: Vec<AdamWTensor<'_, G, W>> = Vec::new();
        let parts = master.iter_mut().zip(&mut d_first).zip(&mut d_second).zip(&mut rounded_weights);
        for (i, (((master, first), second), weight)) in parts.enumerate() {
            let len = lens[i];
            tensors.push(
                AdamWTensor::new(
                    grad_refs[i].clone(),
                    gpu.write(master).first("master", len).unwrap(),
                    gpu.write(first).first("first", len).unwrap(),
                    gpu.write(second).first("second", len).unwrap(),
                )
                .with_weight(gpu.write(weight).first("weight", len).unwrap())
                .with_weight_decay(if i % 2 == 0 { DECAY as f32 } else { 0.0 }),
            );
        }
        // What is in the record counts, and not what is beside it.
        let record = gpu.upload(&[StepRecord { lr: config.lr as f32, step, skip_above: 0.0 }]).unwrap();
        let config = match constants {
            Constants::Host => Step::Host(config),
            Constants::Device => {
                Step::Device { record: gpu.read(&record), constants: config.with_lr(f64::NAN).with_step(0) }
            }
        };
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
            let exact = rounded::<W>(&download(gpu, &master[i]));
            assert_eq!(download(gpu, &rounded_weights[i]), exact, "the rounded weight is the master's");
        }
        report.finish();
    }
}

#[test]
fn three_steps() {
    let Some(gpu) = gpu("three_steps") else { return };
    for max_norm in [None, Some(1.0), Some(1e6)] {
        check::<bf16, bf16>(&gpu, max_norm, Constants::Host);
        check::<f16, f16>(&gpu, max_norm, Constants::Host);
        check::<f32, f32>(&gpu, max_norm, Constants::Host);
        check::<f32, bf16>(&gpu, max_norm, Constants::Host);
        check::<f32, f16>(&gpu, max_norm, Constants::Device);
        check::<bf16, bf16>(&gpu, max_norm, Constants::Device);
    }
}

#[test]
fn a_step_of_zero_is_refused() {
    let Some(gpu) = gpu("a_step_of_zero_is_refused") else { return };
    let config = STEP.with_step(0);
    let error = adamw::<f32, f32>(&gpu, &mut [], config, None).unwrap_err();
    assert_eq!(error.to_string(), "adamw: step = 0 is outside 1..=4294967295");
}

/// A weight with its moments; its gradient.
struct State {
    master: CudaSlice<f32>,
    first: CudaSlice<f32>,
    second: CudaSlice<f32>,
    weight: CudaSlice<bf16>,
    grad: CudaSlice<f32>,
}

impl State {
    fn new(gpu: &Gpu, len: usize) -> Self {
        let mut r = Random(len as u64);
        let [master, first, grad] = [1.0, 0.1, 0.3].map(|scale| upload::<f32>(gpu, &r.normals(len, scale)));
        let second = upload::<f32>(gpu, &vec![0.5; len]);
        Self { master, first, second, weight: gpu.zeros(len).unwrap(), grad }
    }

    fn tensor<'a>(&'a mut self, gpu: &'a Gpu) -> AdamWTensor<'a, f32, bf16> {
        AdamWTensor::new(
            gpu.read(&self.grad),
            gpu.write(&mut self.master),
            gpu.write(&mut self.first),
            gpu.write(&mut self.second),
        )
        .with_weight(gpu.write(&mut self.weight))
        .with_weight_decay(DECAY as f32)
    }

    fn values(&self, gpu: &Gpu) -> [Vec<f64>; 4] {
        let [master, first, second] = [&self.master, &self.first, &self.second].map(|x| download(gpu, x));
        [master, first, second, download(gpu, &self.weight)]
    }
}

#[test]
fn a_step_whose_norm_is_not_finite_is_skipped_and_told() {
    let Some(gpu) = gpu("a_step_whose_norm_is_not_finite_is_skipped_and_told") else { return };
    // More tensors than a launch takes, of which the first ones are empty.
    let mut states: Vec<State> = (0..70).map(|i| State::new(&gpu, if i < 33 { 0 } else { 5000 + i })).collect();
    let lens: Vec<usize> = (0..70).map(|i| if i < 33 { 0 } else { 5000 + i }).collect();
    let mut skipped = gpu.zeros::<u32>(1).unwrap();
    let step = |norm: f32, skipped: &mut CudaSlice<u32>, states: &mut [State]| {
        let norm = gpu.upload(&[norm]).unwrap();
        let mut tensors: Vec<_> = states
            .iter_mut()
            .zip(&lens)
            .map(|(state, &len)| {
                let mut tensor = state.tensor(&gpu);
                tensor.grad = tensor.grad.first("grad", len).unwrap();
                tensor.master = tensor.master.first("master", len).unwrap();
                tensor.first = tensor.first.first("first", len).unwrap();
                tensor.second = tensor.second.first("second", len).unwrap();
                tensor.weight = tensor.weight.map(|weight| weight.first("weight", len).unwrap());
                tensor
            })
            .collect();
        let clip = Clip::new(gpu.read(&norm), 1.0);
        adamw_if_finite(&gpu, &mut tensors, STEP, &clip, &mut gpu.write(skipped)).unwrap();
    };
    let before: Vec<_> = states.iter().map(|state| state.values(&gpu)).collect();
    for norm in [f32::NAN, f32::INFINITY] {
        step(norm, &mut skipped, &mut states);
    }
    assert_eq!(gpu.download(&skipped).unwrap(), [2]);
    let after = states.iter().map(|state| state.values(&gpu)).skip(33);
    assert!(after.eq(before[33..].iter().cloned()), "a skipped step wrote");
    step(f32::MAX, &mut skipped, &mut states);
    assert_eq!(gpu.download(&skipped).unwrap(), [2]);
    assert!(states[40].values(&gpu) != before[40]);
}

#[test]
fn a_norm_above_the_records_bound_writes_nothing() {
    let Some(device) = gpu("a_norm_above_the_records_bound_writes_nothing") else { return };
    let gpu = with_stream(device.stream().context().default_stream());
    let norm = gpu.upload(&[3.0f32]).unwrap();
    let clip = || Clip::new(gpu.read(&norm), 1.0);
    let mut skipped = gpu.zeros::<u32>(1).unwrap();
    for (skip_above, writes) in [(0.0, true), (2.9, false), (3.0, true), (f32::INFINITY, true)] {
        let mut state = State::new(&gpu, 5000);
        let before = state.values(&gpu);
        let record = gpu.upload(&[StepRecord { lr: 1e-2, step: 1, skip_above }]).unwrap();
        let step = Step::Device { record: gpu.read(&record), constants: STEP };
        adamw_if_finite(&gpu, &mut [state.tensor(&gpu)], step, &clip(), &mut gpu.write(&mut skipped)).unwrap();
        assert_eq!(state.values(&gpu) != before, writes, "{skip_above}");
    }
    assert_eq!(gpu.download(&skipped).unwrap(), [1]);
}

#[test]
fn a_captured_graph_reads_the_record_again() {
    let Some(device) = gpu("a_captured_graph_reads_the_record_again") else { return };
    let gpu = on_a_stream_of_its_own(&device);
    gpu.preload(Module::of("adamw")).unwrap();
    let (mut by_graph, mut by_steps) = (State::new(&gpu, 10_000), State::new(&gpu, 10_000));
    let mut record = gpu.zeros::<StepRecord>(1).unwrap();
    let graph = captured(&gpu, || {
        let step = Step::Device { record: gpu.read(&record), constants: STEP };
        adamw(&gpu, &mut [by_graph.tensor(&gpu)], step, None)
    });
    for step in 1..=4 {
        let config = STEP.with_lr(1e-2 / f64::from(step)).with_step(step);
        gpu.stream().memcpy_htod(&[StepRecord { lr: config.lr as f32, step, skip_above: 0.0 }], &mut record).unwrap();
        graph.launch().unwrap();
        adamw(&gpu, &mut [by_steps.tensor(&gpu)], config, None).unwrap();
        // The device's corrections are the host's to the bit.
        assert!(by_graph.values(&gpu) == by_steps.values(&gpu), "step {step}");
    }
}
