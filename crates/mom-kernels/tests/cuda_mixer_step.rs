//! A step of decoding on the GPU against the CPU's in f64, several in a row over states in place.
#![allow(clippy::unwrap_used)]

mod common;
mod cuda_support;

use common::mixer::{MixerCase, Sizes, Split};
use common::{Noise, Tokens, cast};
use cuda_support::*;
use mom_kernels::cuda::cudarc::driver::CudaSlice;
use mom_kernels::cuda::grouped_gemm::GroupedWeights;
use mom_kernels::cuda::half::{bf16, f16};
use mom_kernels::cuda::mixer::step::{StepHead, StepStates, Steps, step_workspace_bytes};
use mom_kernels::cuda::mixer::{Block, MixerWeights};
use mom_kernels::cuda::{CudaError, Dtype, Gpu};
use mom_kernels::mixer::{self, MixerState};
use mom_kernels::{ModalityPlan, Rows, RowsMut, rms_norm};

const EPS: f64 = 1e-5;
const N_STEPS: usize = 5;
const VOCAB: usize = 53;
const ALL: Split = [true; 4];
const SMALL: Sizes = Sizes { d_model: 64, d_inner: 128, d_state: 16, d_conv: 4, dt_rank: 8 };
/// Nothing fills a tile, a unit or a block.
const ODD: Sizes = Sizes { d_model: 72, d_inner: 136, d_state: 5, d_conv: 3, dt_rank: 3 };
/// More states than 16, several units of columns.
const WIDE: Sizes = Sizes { d_model: 328, d_inner: 656, d_state: 40, d_conv: 2, dt_rank: 32 };
const ONE_TAP: Sizes = Sizes { d_model: 48, d_inner: 96, d_state: 8, d_conv: 1, dt_rank: 16 };

/// A block and a head, and the tokens of each step.
struct Case {
    mixer: MixerCase<f64>,
    tokens: Vec<Vec<f64>>,
    norm: Vec<f64>,
    head: Vec<f64>,
}

impl Case {
    fn new<T: TestElement>(n_rows: usize, n_modalities: usize, sizes: Sizes, split: Split, without: &[&str]) -> Self {
        let tokens = Tokens { ids: vec![0; n_rows], ..Tokens::random(1, n_rows, 1, n_modalities) };
        let mut mixer = MixerCase::random(tokens, sizes, split, 7).without(without);
        // As large as a model has them: else sums grow with their length, and roundings with them.
        let Sizes { d_model, d_inner, dt_rank, .. } = sizes;
        for (name, n_in) in [("in_proj", d_model), ("x_proj", d_inner), ("dt_proj", dt_rank), ("out_proj", d_inner)] {
            let field = mixer.fields.iter_mut().find(|(field, _)| **field == format!("{name}.weight"));
            field.unwrap().1.iter_mut().for_each(|weight| *weight *= 2.0 / (n_in as f64).sqrt());
        }
        for (name, values) in &mut mixer.fields {
            let wide = matches!(*name, "A_log" | "D" | "conv.weight" | "conv.bias") || name.ends_with("bias");
            *values = if wide { rounded::<f32>(values) } else { rounded::<T>(values) };
        }
        let mut noise = Noise::new(5);
        let norm = rounded::<f32>(&cast(&noise.values(sizes.d_model, 1.0, 0.3)));
        let head = rounded::<T>(&cast(&noise.values(VOCAB * sizes.d_model, 0.0, 0.3)));
        let tokens =
            (0..N_STEPS).map(|_| rounded::<T>(&cast(&noise.values(n_rows * sizes.d_model, 0.0, 1.5)))).collect();
        Self { mixer, tokens, norm, head }
    }

    fn normed(&self, x: &[f64]) -> Vec<f64> {
        let d_model = self.mixer.sizes.d_model;
        let mut out = vec![0.0; x.len()];
        let rows = Rows::new("x", x, d_model).unwrap();
        rms_norm::forward(rows, &self.norm, EPS, RowsMut::new("y", &mut out, d_model).unwrap()).unwrap();
        out
    }

    /// x, both states and the logits behind a step of each modality.
    fn on_host(&self, modalities: &[u8]) -> [Vec<f64>; 4] {
        let weights = self.mixer.weights();
        let (n_rows, d_model) = (self.mixer.tokens.batch, self.mixer.sizes.d_model);
        let mut x = Vec::new();
        let mut state = MixerState::zeros(&weights, n_rows);
        for (&modality, token) in modalities.iter().zip(&self.tokens) {
            x.clone_from(token);
            let n_modalities = self.mixer.tokens.n_modalities;
            let plan = ModalityPlan::new(n_rows, 1, n_modalities, &vec![modality; n_rows], None).unwrap();
            let normed = self.normed(&x);
            let out = mixer::step(&plan, Rows::new("x", &normed, d_model).unwrap(), &weights, &mut state).unwrap();
            x.iter_mut().zip(out).for_each(|(x, out)| *x += out);
        }
        let normed = self.normed(&x);
        let dot = |row: &[f64], weight: &[f64]| row.iter().zip(weight).map(|(x, w)| x * w).sum();
        let logits =
            normed.chunks_exact(d_model).flat_map(|row| self.head.chunks_exact(d_model).map(move |w| dot(row, w)));
        let logits = logits.collect();
        [x, state.conv, state.scan, logits]
    }

    /// `None` where the card has no kernel for so many rows, which the operation says by name.
    fn on_device<T: TestElement>(&self, gpu: &Gpu, modalities: &[u8]) -> Option<[Vec<f64>; 4]> {
        let Memory { weights, norm, .. } = &Memory::<T>::new(gpu, self);
        let block = weights.block(gpu, norm);
        let (Sizes { d_model, d_inner, d_state, d_conv, .. }, n_rows) = (self.mixer.sizes, self.mixer.tokens.batch);
        let mut x = upload::<T>(gpu, &self.tokens[0]);
        let mut conv = gpu.zeros::<f32>(n_rows * (d_conv - 1) * d_inner).unwrap();
        let mut scan = gpu.zeros::<f32>(n_rows * d_inner * d_state).unwrap();
        let mut logits = poisoned::<f32>(gpu, n_rows * VOCAB);
        let bytes = match step_workspace_bytes(gpu, &block, n_rows) {
            Err(CudaError::Card { kernel, .. }) if n_rows > 1 && gpu.compute_capability() != (9, 0) => {
                println!("not for this card: {kernel}");
                return None;
            }
            bytes => bytes.unwrap(),
        };
        let mut workspace = gpu.upload(&vec![0xffu8; bytes]).unwrap();
        let weight = upload::<T>(gpu, &self.head);
        for (&modality, token) in modalities.iter().zip(&self.tokens) {
            x = upload(gpu, token);
            let mut steps = Steps::new(gpu, usize::from(modality), gpu.write(&mut workspace));
            let states = StepStates::new(gpu.write(&mut conv), gpu.write(&mut scan));
            steps.block(&block, &mut gpu.rows_mut(&mut x, d_model).unwrap(), states).unwrap();
            let head = StepHead::new(gpu.read(norm), EPS as f32, gpu.read(&weight));
            let rows = gpu.rows(&x, d_model).unwrap();
            steps.head(&head, &rows, &mut gpu.rows_mut(&mut logits, VOCAB).unwrap()).unwrap();
        }
        let [conv, scan, logits] = [&conv, &scan, &logits].map(|memory| download(gpu, memory));
        Some([download(gpu, &x), conv, scan, logits])
    }

    fn check<T: TestElement>(&self, gpu: &Gpu, name: &str) {
        let n_modalities = self.mixer.tokens.n_modalities;
        let modalities: Vec<u8> = (0..N_STEPS).map(|step| (step % n_modalities) as u8).collect();
        let Some(got) = self.on_device::<T>(gpu, &modalities) else { return };
        let want = self.on_host(&modalities);
        let mut report = Report::new(format!("{} {name}", T::DTYPE.name()));
        for (what, (got, want)) in ["x", "conv", "scan", "logits"].into_iter().zip(got.iter().zip(&want)) {
            // 16-bit: as blocks over sequences (cuda_mixer).
            let limit = if T::DTYPE == Dtype::F32 { 1e-5 } else { 1.7e-2 };
            report.within(what, got, want, limit);
        }
        report.finish();
        let bits = |all: &[Vec<f64>; 4]| all.concat().iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        let again = self.on_device::<T>(gpu, &modalities).unwrap();
        assert_eq!(bits(&got), bits(&again), "{name}: two runs differ");
    }
}

/// The weights on the device.
struct Memory<T> {
    weights: Weights<T>,
    norm: CudaSlice<f32>,
}

/// Features, weights and biases of a projection.
type Projection<T> = ([usize; 2], Vec<CudaSlice<T>>, Option<CudaSlice<f32>>);

struct Weights<T> {
    /// in_proj, x_proj, dt_proj, out_proj.
    projections: Vec<Projection<T>>,
    conv_weight: CudaSlice<f32>,
    conv_bias: Option<CudaSlice<f32>>,
    a_log: CudaSlice<f32>,
    d_skip: CudaSlice<f32>,
}

impl<T: TestElement> Memory<T> {
    fn new(gpu: &Gpu, case: &Case) -> Self {
        let Sizes { d_model, d_inner, d_state, dt_rank, .. } = case.mixer.sizes;
        let fields = &case.mixer.fields;
        let projections = [
            ("in_proj.weight", "in_proj.bias", [d_model, 2 * d_inner]),
            ("x_proj.weight", "", [d_inner, dt_rank + 2 * d_state]),
            ("dt_proj.weight", "dt_proj.bias", [dt_rank, d_inner]),
            ("out_proj.weight", "out_proj.bias", [d_inner, d_model]),
        ];
        let projections = projections.into_iter().map(|(weight, bias, sizes)| {
            let weights = fields[weight].chunks_exact(sizes[0] * sizes[1]).map(|w| upload(gpu, w)).collect();
            (sizes, weights, fields.get(bias).map(|bias| upload(gpu, bias)))
        });
        let small = |name: &str| fields.get(name).map(|values| upload::<f32>(gpu, values));
        let weights = Weights {
            projections: projections.collect(),
            conv_weight: small("conv.weight").unwrap(),
            conv_bias: small("conv.bias"),
            a_log: small("A_log").unwrap(),
            d_skip: small("D").unwrap(),
        };
        Self { weights, norm: upload(gpu, &case.norm) }
    }
}

impl<T: TestElement> Weights<T> {
    fn block<'a>(&'a self, gpu: &'a Gpu, norm: &'a CudaSlice<f32>) -> Block<'a, T> {
        let projection = |at: usize| {
            let ([n_in, n_out], weights, biases) = &self.projections[at];
            let weights = weights.iter().map(|weight| gpu.read(weight)).collect();
            GroupedWeights::new(*n_in, *n_out, weights, biases.as_ref().map(|biases| gpu.read(biases))).unwrap()
        };
        let mixer = MixerWeights::new(
            projection(0),
            gpu.read(&self.conv_weight),
            projection(1),
            projection(2),
            gpu.read(&self.a_log),
            gpu.read(&self.d_skip),
            projection(3),
        )
        .with_conv_bias(self.conv_bias.as_ref().map(|bias| gpu.read(bias)));
        Block::new(gpu.read(norm), EPS as f32, mixer)
    }
}

const BIASES: [&str; 4] = ["conv.bias", "in_proj.bias", "dt_proj.bias", "out_proj.bias"];

fn every_size<T: TestElement>(gpu: &Gpu) {
    for (name, sizes) in [("small", SMALL), ("odd", ODD), ("wide", WIDE), ("one tap", ONE_TAP)] {
        for n_rows in [1, 2, 5, 8] {
            Case::new::<T>(n_rows, 3, sizes, ALL, &[]).check::<T>(gpu, &format!("{name}, {n_rows} rows"));
            Case::new::<T>(n_rows, 1, sizes, ALL, &BIASES)
                .check::<T>(gpu, &format!("{name}, {n_rows} rows, no biases"));
        }
    }
    for choice in 0..16 {
        let split = [0, 1, 2, 3].map(|bit| choice >> bit & 1 == 1);
        Case::new::<T>(1, 2, SMALL, split, &[]).check::<T>(gpu, &format!("split {split:?}"));
    }
}

#[test]
fn steps_agree_with_the_cpu() {
    let Some(gpu) = gpu("steps_agree_with_the_cpu") else { return };
    every_size::<bf16>(&gpu);
    every_size::<f16>(&gpu);
    every_size::<f32>(&gpu);
}

#[test]
fn steps_of_the_kernels_for_every_card_agree_too() {
    let Some(gpu) = gpu("steps_of_the_kernels_for_every_card_agree_too") else { return };
    let gpu = gpu.portable();
    every_size::<bf16>(&gpu);
    every_size::<f16>(&gpu);
}

/// Each kernel once, at sizes that the compute-sanitizer gets through.
#[test]
fn every_kernel() {
    fn few_rows<T: TestElement>(gpu: &Gpu) {
        for (n_rows, n_modalities) in [(1, 2), (2, 1), (8, 2)] {
            Case::new::<T>(n_rows, n_modalities, SMALL, ALL, &[]).check::<T>(gpu, &format!("{n_rows} rows"));
        }
    }
    let Some(gpu) = gpu("every_kernel") else { return };
    let portable = with_stream(gpu.stream().clone()).portable();
    for gpu in [&gpu, &portable] {
        few_rows::<bf16>(gpu);
        few_rows::<f16>(gpu);
    }
    few_rows::<f32>(&gpu);
}

/// The sizes of the largest scale, where a block has several tiles and units.
#[test]
fn the_largest_scale_agrees() {
    let Some(gpu) = gpu("the_largest_scale_agrees") else { return };
    let sizes = Sizes { d_model: 2048, d_inner: 4096, d_state: 16, d_conv: 4, dt_rank: 128 };
    for n_rows in [1, 8] {
        let case = Case::new::<bf16>(n_rows, 2, sizes, ALL, &[]);
        case.check::<bf16>(&gpu, &format!("2048, {n_rows} rows"));
    }
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let Some(gpu) = gpu("what_does_not_fit_is_refused_by_name") else { return };
    let refused = |n_rows: usize, sizes: Sizes| {
        let case = Case::new::<f32>(1, 2, sizes, ALL, &[]);
        let memory = Memory::<f32>::new(&gpu, &case);
        let error = step_workspace_bytes(&gpu, &memory.weights.block(&gpu, &memory.norm), n_rows).unwrap_err();
        assert!(matches!(error, CudaError::Argument(_)), "{error}");
        error.to_string()
    };
    for (n_rows, sizes, what) in [
        (9, SMALL, "n_rows = 9"),
        (0, SMALL, "n_rows = 0"),
        (1, Sizes { d_model: 65, ..SMALL }, "d_model has 1 features past a multiple of 8"),
        (1, Sizes { d_inner: 130, ..SMALL }, "d_inner has 2 features past a multiple of 8"),
        (1, Sizes { d_model: 2056, d_inner: 8, ..SMALL }, "d_model = 2056"),
        (1, Sizes { d_model: 8, d_inner: 4104, ..SMALL }, "d_inner = 4104"),
        (1, Sizes { dt_rank: 750, ..SMALL }, "dt_rank + 2 d_state = 784"),
    ] {
        let error = refused(n_rows, sizes);
        assert!(error.contains(what), "{error}");
    }

    let case = Case::new::<f32>(2, 2, SMALL, ALL, &[]);
    let memory = Memory::<f32>::new(&gpu, &case);
    let block = memory.weights.block(&gpu, &memory.norm);
    let bytes = step_workspace_bytes(&gpu, &block, 2);
    if matches!(bytes, Err(CudaError::Card { .. })) && gpu.compute_capability() != (9, 0) {
        return;
    }
    let mut workspace = gpu.zeros::<u8>(bytes.unwrap()).unwrap();
    let mut x = upload::<f32>(&gpu, &case.mixer.fields["x"]);
    let mut step = |modality: usize, conv_len: usize, bytes: usize| {
        let (mut conv, mut scan) = (gpu.zeros::<f32>(conv_len).unwrap(), gpu.zeros::<f32>(2 * 128 * 16).unwrap());
        let workspace = gpu.write(&mut workspace).first("workspace", bytes).unwrap();
        let states = StepStates::new(gpu.write(&mut conv), gpu.write(&mut scan));
        let mut x = gpu.rows_mut(&mut x, SMALL.d_model).unwrap();
        Steps::new(&gpu, modality, workspace).block(&block, &mut x, states).map_err(|error| error.to_string())
    };
    let bytes = step_workspace_bytes(&gpu, &block, 2).unwrap();
    step(1, 2 * 3 * 128, bytes).unwrap();
    assert!(step(2, 2 * 3 * 128, bytes).unwrap_err().contains("in_proj = 3"));
    assert!(step(1, 2 * 3 * 128 - 1, bytes).unwrap_err().contains("states.conv"));
    assert!(step(1, 2 * 3 * 128, bytes - 1).unwrap_err().contains("workspace"));
}
