//! The mixer and its block on the GPU against the CPU's in f64: every gradient, every choice of split projections, poisoned
//! memory, twice the same bits, one modality as a dense block.
#![allow(clippy::unwrap_used)]

mod common;
mod cuda_support;

use common::mixer::{MixerCase, Sizes, Split};
use common::{Fields, Noise, Tokens, cast};
use cuda_support::*;
use mom_kernels::cuda::cudarc::driver::CudaSlice;
use mom_kernels::cuda::grouped_gemm::{GroupedGrads, GroupedWeights};
use mom_kernels::cuda::half::bf16;
use mom_kernels::cuda::mixer::{self as device, Block, BlockGrads, MixerBackward, MixerGrads, MixerSaved};
use mom_kernels::cuda::mixer::{MixerOutputs, MixerStates, MixerWeights, Saves};
use mom_kernels::cuda::{DevicePlan, DeviceRowsMut, Dtype, Gpu};
use mom_kernels::{Rows, RowsMut, rms_norm};

const EPS: f64 = 1e-5;
const ALL: Split = [true; 4];
const ALIGNED: Sizes = Sizes { d_model: 64, d_inner: 128, d_state: 16, d_conv: 4, dt_rank: 8 };
const ODD: Sizes = Sizes { d_model: 9, d_inner: 37, d_state: 5, d_conv: 3, dt_rank: 3 };

/// Inputs of a block besides the mixer's fields.
struct Around {
    norm: Vec<f64>,
    grad_out: Vec<f64>,
}

/// `out` and the gradients of everything, by field; the norm's weight is `norm`.
type Results = Fields<f64>;

fn on_host(case: &MixerCase<f64>, around: &Around) -> Results {
    let d_model = case.sizes.d_model;
    let x = &case.fields["x"];
    let mut normed = vec![0.0; x.len()];
    let rows = Rows::new("x", x, d_model).unwrap();
    rms_norm::forward(rows, &around.norm, EPS, RowsMut::new("y", &mut normed, d_model).unwrap()).unwrap();
    let mut inner = case.clone();
    inner.fields.insert("x", normed);
    let out = inner.forward(None).iter().zip(x).map(|(mixed, x)| mixed + x).collect();
    let mut results = inner.backward(&around.grad_out);
    let (mut grad_x, mut grad_norm) = (vec![0.0; x.len()], vec![0.0; d_model]);
    let grad_normed = Rows::new("grad", &results["x"], d_model).unwrap();
    let grad_rows = RowsMut::new("grad_x", &mut grad_x, d_model).unwrap();
    rms_norm::backward(rows, &around.norm, EPS, grad_normed, grad_rows, &mut grad_norm).unwrap();
    grad_x.iter_mut().zip(&around.grad_out).for_each(|(grad, past)| *grad += past);
    results.extend([("x", grad_x), ("norm", grad_norm), ("out", out)]);
    results
}

/// A projection's weights or gradients on the device.
struct Projection<T> {
    sizes: [usize; 2],
    weights: Vec<CudaSlice<T>>,
    biases: Option<CudaSlice<f32>>,
}

impl<T: TestElement> Projection<T> {
    fn new(gpu: &Gpu, case: &MixerCase<f64>, [weight, bias]: [&'static str; 2], sizes: [usize; 2]) -> Self {
        let weights = case.fields[weight].chunks_exact(sizes[0] * sizes[1]).map(|w| upload(gpu, w)).collect();
        let biases = case.fields.get(bias).map(|biases| upload(gpu, biases));
        Self { sizes, weights, biases }
    }

    fn poisoned(&self, gpu: &Gpu) -> Self {
        let weights = self.weights.iter().map(|w| poisoned(gpu, w.len())).collect();
        Self { sizes: self.sizes, weights, biases: self.biases.as_ref().map(|b| poisoned(gpu, b.len())) }
    }

    fn read<'a>(&'a self, gpu: &'a Gpu) -> GroupedWeights<'a, T> {
        let weights = self.weights.iter().map(|w| gpu.read(w)).collect();
        let [n_in, n_out] = self.sizes;
        GroupedWeights::new(n_in, n_out, weights, self.biases.as_ref().map(|b| gpu.read(b))).unwrap()
    }

    fn write<'a>(&'a mut self, gpu: &'a Gpu) -> GroupedGrads<'a, T> {
        GroupedGrads::new(self.weights.iter_mut().map(|w| gpu.write(w)).collect())
            .with_grad_biases(self.biases.as_mut().map(|b| gpu.write(b)))
    }

    fn insert(&self, gpu: &Gpu, [weight, bias]: [&'static str; 2], results: &mut Results) {
        results.insert(weight, self.weights.iter().flat_map(|w| download(gpu, w)).collect());
        if let Some(biases) = &self.biases {
            results.insert(bias, download(gpu, biases));
        }
    }
}

const NAMES: [[&str; 2]; 4] = [
    ["in_proj.weight", "in_proj.bias"],
    ["x_proj.weight", ""],
    ["dt_proj.weight", "dt_proj.bias"],
    ["out_proj.weight", "out_proj.bias"],
];

fn on_device<T: TestElement>(gpu: &Gpu, case: &MixerCase<f64>, around: &Around) -> Results {
    let Sizes { d_model, d_inner, d_state, dt_rank, .. } = case.sizes;
    let plan = DevicePlan::upload(gpu, &case.plan).unwrap();
    let features = [[d_model, 2 * d_inner], [d_inner, dt_rank + 2 * d_state], [dt_rank, d_inner], [d_inner, d_model]];
    let projections = [0, 1, 2, 3].map(|at| Projection::<T>::new(gpu, case, NAMES[at], features[at]));
    let small = |name: &str| upload::<f32>(gpu, &case.fields[name]);
    let (conv_weight, a_log, d_skip) = (small("conv.weight"), small("A_log"), small("D"));
    let conv_bias = case.fields.contains_key("conv.bias").then(|| small("conv.bias"));
    let norm = upload::<f32>(gpu, &around.norm);
    let [x, grad_out] = [&case.fields["x"], &around.grad_out].map(|x| upload::<T>(gpu, x));
    let [in_proj, x_proj, dt_proj, out_proj] = projections.each_ref().map(|p| p.read(gpu));
    let block = Block::new(
        gpu.read(&norm),
        EPS as f32,
        MixerWeights::new(
            in_proj,
            gpu.read(&conv_weight),
            x_proj,
            dt_proj,
            gpu.read(&a_log),
            gpu.read(&d_skip),
            out_proj,
        )
        .with_conv_bias(conv_bias.as_ref().map(|bias| gpu.read(bias))),
    );
    let sizes = block.mixer.sizes(&plan).unwrap();
    let bytes = |len: usize| gpu.upload(&vec![0xffu8; len]).unwrap();
    let x_rows = gpu.rows(&x, d_model).unwrap();

    let mut plain = poisoned::<T>(gpu, x.len());
    let mut workspace = bytes(device::block_forward_workspace_bytes(&plan, &block, Saves::Nothing).unwrap());
    let out_rows = gpu.rows_mut(&mut plain, d_model).unwrap();
    device::block_forward(gpu, &plan, &x_rows, &block, out_rows, None, gpu.write(&mut workspace)).unwrap();

    let mut out = poisoned::<T>(gpu, x.len());
    let (mut xz, mut x_dbl) = (poisoned::<T>(gpu, sizes.xz_len()), poisoned::<T>(gpu, sizes.x_dbl_len()));
    let mut states = poisoned::<f32>(gpu, sizes.states_len);
    let mut workspace = bytes(device::block_forward_workspace_bytes(&plan, &block, Saves::ForBackward).unwrap());
    let saved = MixerSaved::new(gpu.write(&mut xz), gpu.write(&mut x_dbl), gpu.write(&mut states));
    let out_rows = gpu.rows_mut(&mut out, d_model).unwrap();
    device::block_forward(gpu, &plan, &x_rows, &block, out_rows, Some(saved), gpu.write(&mut workspace)).unwrap();
    assert_eq!(gpu.download(&plain).unwrap(), gpu.download(&out).unwrap(), "saving changes nothing");

    let mut grads = projections.each_ref().map(|p| p.poisoned(gpu));
    let [mut grad_conv, mut grad_a_log, mut grad_d] =
        [&conv_weight, &a_log, &d_skip].map(|w| poisoned::<f32>(gpu, w.len()));
    let mut grad_conv_bias = conv_bias.as_ref().map(|bias| poisoned::<f32>(gpu, bias.len()));
    let (mut grad_norm, mut grad_x) = (poisoned::<f32>(gpu, d_model), poisoned::<T>(gpu, x.len()));
    let mut workspace = bytes(device::block_backward_workspace_bytes(gpu, &plan, &block).unwrap());
    let pass = MixerBackward::new(
        x_rows,
        MixerSaved::new(gpu.write(&mut xz), gpu.write(&mut x_dbl), gpu.write(&mut states)),
        gpu.rows(&grad_out, d_model).unwrap(),
    );
    let [in_proj, x_proj, dt_proj, out_proj] = grads.each_mut().map(|p| p.write(gpu));
    let block_grads = BlockGrads::new(
        gpu.write(&mut grad_norm),
        MixerGrads::new(
            gpu.rows_mut(&mut grad_x, d_model).unwrap(),
            in_proj,
            gpu.write(&mut grad_conv),
            x_proj,
            dt_proj,
            gpu.write(&mut grad_a_log),
            gpu.write(&mut grad_d),
            out_proj,
        )
        .with_conv_bias(grad_conv_bias.as_mut().map(|bias| gpu.write(bias))),
    );
    device::block_backward(gpu, &plan, &block, pass, block_grads, gpu.write(&mut workspace)).unwrap();

    let mut results = Results::from([
        ("out", download(gpu, &out)),
        ("x", download(gpu, &grad_x)),
        ("norm", download(gpu, &grad_norm)),
        ("conv.weight", download(gpu, &grad_conv)),
        ("A_log", download(gpu, &grad_a_log)),
        ("D", download(gpu, &grad_d)),
    ]);
    if let Some(bias) = &grad_conv_bias {
        results.insert("conv.bias", download(gpu, bias));
    }
    for (grads, names) in grads.iter().zip(NAMES) {
        grads.insert(gpu, names, &mut results);
    }
    results
}

/// The case with its values as the device sees them, and what stands around it.
fn seen_by_device<T: TestElement>(mut case: MixerCase<f64>) -> (MixerCase<f64>, Around) {
    let mut noise = Noise::new(77);
    for (name, values) in &mut case.fields {
        let wide = matches!(*name, "A_log" | "D" | "conv.weight" | "conv.bias") || name.ends_with("bias");
        *values = if wide { rounded::<f32>(values) } else { rounded::<T>(values) };
    }
    let d_model = case.sizes.d_model;
    let norm = rounded::<f32>(&cast(&noise.values(d_model, 1.0, 0.3)));
    let grad_out = rounded::<T>(&cast(&noise.values(case.tokens.n_rows() * d_model, 0.0, 1.0)));
    (case, Around { norm, grad_out })
}

fn check<T: TestElement>(gpu: &Gpu, name: &str, case: MixerCase<f64>) {
    let (case, around) = seen_by_device::<T>(case);
    let (got, want) = (on_device::<T>(gpu, &case, &around), on_host(&case, &around));
    assert_eq!(got.keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>());
    let mut report = Report::new(format!("{} {name}", T::DTYPE.name()));
    for (what, want) in &want {
        // 16-bit: x normed, xz, u, x_dbl, dt, y and their gradients are rounded on the way, each by 1.7e-3 of its norm, and
        // these weights carry errors on undiminished.
        let limit = match (T::DTYPE, *what) {
            (Dtype::F32, "out") => 1e-5,
            (Dtype::F32, _) => 1e-4,
            _ => 1.7e-2,
        };
        report.within(what, &got[what], want, limit);
    }
    report.finish();
    let again = on_device::<T>(gpu, &case, &around);
    for (what, values) in &got {
        let bits = |values: &[f64]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(values), bits(&again[what]), "{what}: two runs differ");
    }
}

#[test]
fn blocks_agree_with_the_cpu() {
    let Some(gpu) = gpu("blocks_agree_with_the_cpu") else { return };
    let spans = || Tokens::random(1, 2, 150, 3).with_documents(3);
    check::<f32>(&gpu, "aligned", MixerCase::random(spans(), ALIGNED, ALL, 1));
    check::<bf16>(&gpu, "aligned", MixerCase::random(spans(), ALIGNED, ALL, 1));
    check::<f32>(&gpu, "odd", MixerCase::random(Tokens::random(2, 3, 37, 2), ODD, ALL, 2));
    check::<bf16>(&gpu, "odd", MixerCase::random(Tokens::random(2, 3, 37, 2), ODD, ALL, 2));
    let without = ["conv.bias", "in_proj.bias", "dt_proj.bias", "out_proj.bias"];
    check::<f32>(&gpu, "no biases", MixerCase::random(spans(), ALIGNED, ALL, 3).without(&without));
}

/// Where a block of the scan's backward pass owns 64 channels, so that there are half as many partial sums; some lie in the
/// memory of the input's gradient, others do not.
#[test]
fn many_short_sequences() {
    let Some(gpu) = gpu("many_short_sequences") else { return };
    let n_blocks = |batch: usize| batch * ALIGNED.d_inner / 32;
    let batch = 3 * gpu.n_multiprocessors() as usize / 4 + 1;
    assert!(n_blocks(batch) > 3 * gpu.n_multiprocessors() as usize);
    for seqlen in [2, 7] {
        let case = || MixerCase::random(Tokens::random(6, batch, seqlen, 3), ALIGNED, ALL, 6);
        check::<bf16>(&gpu, &format!("{batch} of {seqlen}"), case());
        check::<f32>(&gpu, &format!("{batch} of {seqlen}"), case());
        check::<bf16>(&gpu, &format!("{batch} of {seqlen}, no biases"), case().without(&["dt_proj.bias"]));
    }
    // dt_rank off the vectors of channels: B and C are read element by element.
    let off = Sizes { dt_rank: 5, ..ALIGNED };
    check::<bf16>(&gpu, "dt_rank 5", MixerCase::random(Tokens::random(6, batch, 3, 3), off, ALL, 6));
}

#[test]
fn every_choice_of_split_projections_agrees() {
    let Some(gpu) = gpu("every_choice_of_split_projections_agrees") else { return };
    for choice in 0..16u64 {
        let split = [0, 1, 2, 3].map(|bit| choice >> bit & 1 == 1);
        let tokens = Tokens::random(choice, 2, 40, 3);
        check::<f32>(&gpu, &format!("split {split:?}"), MixerCase::random(tokens, ALIGNED, split, choice));
    }
}

#[test]
fn one_modality_is_a_dense_block() {
    let Some(gpu) = gpu("one_modality_is_a_dense_block") else { return };
    let run = |split| {
        let case = MixerCase::random(Tokens::random(4, 2, 70, 1), ALIGNED, split, 4);
        let (case, around) = seen_by_device::<bf16>(case);
        on_device::<bf16>(&gpu, &case, &around)
    };
    assert_eq!(run(ALL), run([false; 4]));
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let Some(gpu) = gpu("what_does_not_fit_is_refused_by_name") else { return };
    let case = MixerCase::random(Tokens::random(5, 1, 8, 2), ODD, ALL, 5);
    let plan = DevicePlan::upload(&gpu, &case.plan).unwrap();
    let Sizes { d_model, d_inner, d_state, dt_rank, .. } = ODD;
    let projection = |at: usize, sizes| Projection::<f32>::new(&gpu, &case, NAMES[at], sizes);
    let in_proj = projection(0, [d_model, 2 * d_inner]);
    let x_proj = projection(1, [d_inner, dt_rank + 2 * d_state]);
    let dt_proj = projection(2, [dt_rank, d_inner]);
    let out_proj = projection(3, [d_inner, d_model]);
    let [conv, a_log, d_skip] = ["conv.weight", "A_log", "D"].map(|name| upload::<f32>(&gpu, &case.fields[name]));
    let mut weights = MixerWeights::new(
        in_proj.read(&gpu),
        gpu.read(&conv),
        x_proj.read(&gpu),
        dt_proj.read(&gpu),
        gpu.read(&a_log),
        gpu.read(&d_skip),
        out_proj.read(&gpu),
    );
    let x = upload::<f32>(&gpu, &case.fields["x"]);
    let mut out = poisoned::<f32>(&gpu, x.len());
    let mut small = gpu.zeros::<u8>(64).unwrap();
    let outputs = MixerOutputs::new(gpu.rows_mut(&mut out, d_model).unwrap());
    let rows = gpu.rows(&x, d_model).unwrap();
    let error = device::forward(&gpu, &plan, &rows, &weights, outputs, gpu.write(&mut small)).unwrap_err().to_string();
    assert!(error.contains("workspace") && error.contains("64"), "{error}");

    let sizes = weights.sizes(&plan).unwrap();
    let bytes = device::backward_workspace_bytes(&gpu, &plan, &weights).unwrap();
    let backward = |off: usize, bytes: usize, d_model: usize| {
        let mut grads = [&in_proj, &x_proj, &dt_proj, &out_proj].map(|p| p.poisoned(&gpu));
        let [in_proj, x_proj, dt_proj, out_proj] = grads.each_mut().map(|p| p.write(&gpu));
        let [mut to_conv, mut to_a, mut to_d] = [&conv, &a_log, &d_skip].map(|w| poisoned::<f32>(&gpu, w.len()));
        let (mut xz, mut x_dbl) = (poisoned::<f32>(&gpu, sizes.xz_len() + off), poisoned(&gpu, sizes.x_dbl_len()));
        let (mut states, mut workspace) = (poisoned(&gpu, sizes.states_len), gpu.zeros::<u8>(bytes).unwrap());
        let mut grad_x = poisoned::<f32>(&gpu, x.len() / ODD.d_model * d_model);
        let saved = MixerSaved::new(gpu.write_view(xz.slice_mut(off..)), gpu.write(&mut x_dbl), gpu.write(&mut states));
        let pass = MixerBackward::new(rows.clone(), saved, rows.clone());
        let x = gpu.rows_mut(&mut grad_x, d_model).unwrap().columns(0, ODD.d_model).unwrap();
        let grads = MixerGrads::new(
            x,
            in_proj,
            gpu.write(&mut to_conv),
            x_proj,
            dt_proj,
            gpu.write(&mut to_a),
            gpu.write(&mut to_d),
            out_proj,
        );
        device::backward(&gpu, &plan, &weights, pass, grads, gpu.write(&mut workspace)).map_err(|e| e.to_string())
    };
    backward(0, bytes, d_model).unwrap();
    backward(4, bytes, d_model).unwrap();
    for (refused, what) in [
        (backward(1, bytes, d_model), "saved.xz has 4 bytes off 16"),
        (backward(0, bytes - 1, d_model), "workspace has"),
        (backward(0, bytes, d_model + 1), "grads.x has 10 elements from row to row, expected 9"),
    ] {
        let error = refused.unwrap_err();
        assert!(error.contains(what), "{error}");
    }
    weights.out_proj = in_proj.read(&gpu);
    let error = weights.sizes(&plan).unwrap_err().to_string();
    assert!(error.contains("out_proj input"), "{error}");
}

/// Be it an argument of the last operation that is wrong: nothing that a pass writes is touched before it is refused.
#[test]
fn a_refused_pass_has_written_nothing() {
    let Some(gpu) = gpu("a_refused_pass_has_written_nothing") else { return };
    let case = MixerCase::random(Tokens::random(6, 2, 8, 2), ALIGNED, ALL, 6);
    let plan = DevicePlan::upload(&gpu, &case.plan).unwrap();
    let Sizes { d_model, d_inner, d_state, d_conv, dt_rank } = ALIGNED;
    let features = [[d_model, 2 * d_inner], [d_inner, dt_rank + 2 * d_state], [dt_rank, d_inner], [d_inner, d_model]];
    let projections = [0, 1, 2, 3].map(|at| Projection::<f32>::new(&gpu, &case, NAMES[at], features[at]));
    let [conv, conv_bias, a_log, d_skip] =
        ["conv.weight", "conv.bias", "A_log", "D"].map(|name| upload::<f32>(&gpu, &case.fields[name]));
    let weights = || {
        let [in_proj, x_proj, dt_proj, out_proj] = projections.each_ref().map(|p| p.read(&gpu));
        let small = (gpu.read(&conv), gpu.read(&a_log), gpu.read(&d_skip));
        MixerWeights::new(in_proj, small.0, x_proj, dt_proj, small.1, small.2, out_proj)
            .with_conv_bias(gpu.read(&conv_bias))
    };
    // As in_proj and out_proj, but for three modalities.
    let of_three = |at: usize| {
        let three = vec![gpu.read(&projections[at].weights[0]); 3];
        GroupedWeights::new(features[at][0], features[at][1], three, None).unwrap()
    };
    let sizes = weights().sizes(&plan).unwrap();
    let x = upload::<f32>(&gpu, &case.fields["x"]);
    let rows = gpu.rows(&x, d_model).unwrap();
    let short_rows = || gpu.rows(&a_log, d_state).unwrap();
    let filled = |len: usize| gpu.upload(&vec![7.0f32; len]).unwrap();
    let is_filled = |memory: &CudaSlice<f32>| download(&gpu, memory).iter().all(|&x| x == 7.0);

    let forward = |wrong: &str| {
        let [window, state] = [case.plan.batch() * (d_conv - 1) * d_inner, case.plan.batch() * d_inner * d_state];
        let (before_conv, before_scan) = (gpu.zeros(window).unwrap(), gpu.zeros(state).unwrap());
        let mut written = [sizes.xz_len(), sizes.x_dbl_len(), sizes.states_len, x.len(), window, state].map(filled);
        let mut bytes = device::forward_workspace_bytes::<f32>(&sizes, Saves::ForBackward);
        let mut weights = weights();
        let [xz, x_dbl, states, out, next_conv, next_scan] = written.each_mut().map(|memory| gpu.write(memory));
        let mut saved = MixerSaved::new(xz, x_dbl, states);
        let mut carried = MixerStates::new((gpu.read(&before_conv), next_conv), (gpu.read(&before_scan), next_scan));
        let mut residual = rows.clone();
        match wrong {
            "out_proj" => weights.out_proj = of_three(3),
            "residual" => residual = short_rows(),
            "saved.states" => saved.states = saved.states.first("states", sizes.states_len - 1).unwrap(),
            "states.next_scan" => carried.next_scan = carried.next_scan.first("next", state - 1).unwrap(),
            "workspace" => bytes -= 1,
            _ => {}
        }
        let outputs = MixerOutputs::new(DeviceRowsMut::new("out", out, d_model).unwrap())
            .with_residual(residual)
            .with_saved(saved)
            .with_states(carried);
        let mut workspace = gpu.zeros::<u8>(bytes).unwrap();
        let result = device::forward(&gpu, &plan, &rows, &weights, outputs, gpu.write(&mut workspace));
        (result.map_err(|error| error.to_string()), written.iter().all(is_filled))
    };
    let backward = |wrong: &str| {
        let mut written = [sizes.xz_len(), x.len(), conv.len(), conv_bias.len(), a_log.len(), d_skip.len()].map(filled);
        let mut of_weights: Vec<Vec<_>> =
            projections.iter().map(|p| p.weights.iter().map(|w| filled(w.len())).collect()).collect();
        let mut of_biases: Vec<_> = projections.iter().map(|p| p.biases.as_ref().map(|b| filled(b.len()))).collect();
        let (mut x_dbl, mut states) = (filled(sizes.x_dbl_len()), filled(sizes.states_len));
        let mut weights = weights();
        let mut bytes = device::backward_workspace_bytes(&gpu, &plan, &weights).unwrap();
        let [xz, grad_x, to_conv, to_conv_bias, to_a, to_d] = written.each_mut().map(|memory| gpu.write(memory));
        let mut grad_out = rows.clone();
        let saved = MixerSaved::new(xz, gpu.write(&mut x_dbl), gpu.write(&mut states));
        let mut of_projections = of_weights.iter_mut().zip(&mut of_biases).map(|(weights, biases)| {
            GroupedGrads::new(weights.iter_mut().map(|weight| gpu.write(weight)).collect())
                .with_grad_biases(biases.as_mut().map(|biases| gpu.write(biases)))
        });
        let [mut in_proj, x_proj, dt_proj, out_proj] = [(); 4].map(|()| of_projections.next().unwrap());
        match wrong {
            "in_proj" => weights.in_proj = of_three(0),
            "grads.in_proj" => drop(in_proj.grad_weights.pop()),
            "grad_out" => grad_out = short_rows(),
            "workspace" => bytes -= 1,
            _ => {}
        }
        let grad_x = DeviceRowsMut::new("grad_x", grad_x, d_model).unwrap();
        let grads = MixerGrads::new(grad_x, in_proj, to_conv, x_proj, dt_proj, to_a, to_d, out_proj)
            .with_conv_bias(to_conv_bias);
        let pass = MixerBackward::new(rows.clone(), saved, grad_out);
        let mut workspace = gpu.zeros::<u8>(bytes).unwrap();
        let result = device::backward(&gpu, &plan, &weights, pass, grads, gpu.write(&mut workspace));
        drop(of_projections);
        let all = written.iter().chain(of_weights.iter().flatten()).chain(of_biases.iter().flatten());
        (result.map_err(|error| error.to_string()), all.chain([&x_dbl, &states]).all(is_filled))
    };
    assert_eq!(forward(""), (Ok(()), false));
    assert_eq!(backward(""), (Ok(()), false));
    for wrong in ["out_proj", "residual", "saved.states", "states.next_scan", "workspace"] {
        let (result, untouched) = forward(wrong);
        assert!(result.unwrap_err().contains(wrong) && untouched, "forward, {wrong}");
    }
    for wrong in ["in_proj", "grads.in_proj", "grad_out", "workspace"] {
        let (result, untouched) = backward(wrong);
        assert!(result.unwrap_err().contains(wrong) && untouched, "backward, {wrong}");
    }
}
