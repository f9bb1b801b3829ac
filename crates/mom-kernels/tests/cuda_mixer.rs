//! The mixer and its block on the GPU against the CPU's in f64: every gradient, every choice of split projections, poisoned
//! memory, twice the same bits, one modality as a dense block.
#![allow(clippy::unwrap_used)]

#[path = "cuda_support/mixer.rs"]
mod blocks;
mod common;
mod cuda_support;

use blocks::*;
use common::Tokens;
use common::mixer::{MixerCase, Sizes};
use cuda_support::*;
use mom_kernels::cuda::cudarc::driver::CudaSlice;
use mom_kernels::cuda::grouped_gemm::{GroupedGrads, GroupedWeights};
use mom_kernels::cuda::half::bf16;
use mom_kernels::cuda::mixer::{self as device, MixerBackward, MixerGrads, MixerOutputs, MixerSaved, MixerStates};
use mom_kernels::cuda::mixer::{MixerWeights, Saves};
use mom_kernels::cuda::{DevicePlan, DeviceRowsMut, Dtype, Gpu};

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
