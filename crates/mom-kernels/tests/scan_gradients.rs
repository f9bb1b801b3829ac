//! The scan against its plain reference, and its gradients against finite differences.
#![allow(clippy::unwrap_used)]

mod common;

use common::scan::ScanCase;
use common::{Noise, Tokens, assert_close, check_gradients, dot};
use mom_kernels::selective_scan::{DeltaActivation, reference};

/// sum(out * grad_out) + sum(last_state * grad_last_state)
fn check(case: &ScanCase<f64>) {
    let mut noise = Noise::new(77);
    let grad_out = noise.values(case.tokens.n_rows() * case.d_inner, 0.0, 1.0);
    let grad_last = noise.values(case.state_len(), 0.0, 1.0);
    let outputs = case.forward();
    let mut grads = case.backward(&outputs["saved_states"], &grad_out, Some(&grad_last));
    assert_close("out again", &grads.remove("out").unwrap(), &outputs["out"], 1e-14);
    check_gradients(&case.fields, &grads, |fields| {
        let moved = ScanCase { fields: fields.clone(), ..case.clone() };
        let (out, last_state) = reference::forward(&moved.inputs());
        dot(&out, &grad_out) + dot(&last_state, &grad_last)
    });
}

#[test]
fn every_gradient_agrees_with_finite_differences() {
    check(&ScanCase::random(Tokens::random(1, 2, 19, 3), 3, 4, 1));
}

#[test]
fn gradients_agree_across_document_borders() {
    check(&ScanCase::random(Tokens::random(2, 2, 35, 2).with_documents(9), 3, 2, 2));
}

#[test]
fn gradients_agree_without_the_optional_inputs() {
    let case = ScanCase::random(Tokens::random(3, 2, 17, 1), 5, 3, 3);
    check(&case.clone().without(&["dt_bias"]));
    check(&case.clone().without(&["d_skip"]));
    check(&case.clone().without(&["z"]));
    check(&case.clone().without(&["initial_state"]));
    check(&case.without(&["dt_bias", "d_skip", "z", "initial_state"]));
}

#[test]
fn gradients_agree_where_delta_is_dt_itself() {
    let mut case = ScanCase::random(Tokens::random(4, 1, 18, 2), 3, 3, 4);
    case.activation = DeltaActivation::Identity;
    // As softplus would have it: a negative step size makes the state explode, and the differences cancel.
    for name in ["dt", "dt_bias"] {
        case.fields.get_mut(name).unwrap().iter_mut().for_each(|x| *x = x.abs());
    }
    check(&case);
}

#[test]
fn gradients_agree_with_one_bias_for_all_modalities() {
    let mut case = ScanCase::random(Tokens::random(5, 2, 9, 3), 3, 2, 5);
    case.bias_offsets = mom_kernels::ModalityOffsets::single(case.tokens.n_rows());
    case.fields.get_mut("dt_bias").unwrap().truncate(3);
    check(&case);
}

#[test]
fn the_fast_scan_agrees_with_the_reference_at_every_size() {
    // Channels around one and two vectors and one block, lengths around STATE_STRIDE, states around a vector.
    for d_inner in [1, 2, 3, 7, 8, 9, 31, 32, 33, 63, 64, 65, 100] {
        for (seqlen, d_state) in [(1, 16), (2, 1), (15, 5), (16, 8), (17, 9), (31, 16), (32, 17), (33, 64)] {
            let tokens = Tokens::random(seqlen as u64, 2, seqlen, 3).with_documents(d_inner as u64);
            let case = ScanCase::random(tokens, d_inner, d_state, 6);
            let (out, last_state) = reference::forward(&case.inputs());
            let fast = case.forward();
            assert_close(&format!("out, {d_inner} x {seqlen} x {d_state}"), &fast["out"], &out, 1e-13);
            assert_close("last_state", &fast["last_state"], &last_state, 1e-13);
            let single = case.cast::<f32>().forward();
            assert_close(&format!("f32 out, {d_inner} x {seqlen} x {d_state}"), &single["out"], &out, 3e-6);
            assert_close("f32 last_state", &single["last_state"], &last_state, 3e-6);
        }
    }
}

#[test]
fn f32_gradients_agree_with_f64_at_every_width() {
    for d_inner in [1, 15, 16, 17, 63, 64, 65, 130] {
        let tokens = Tokens::random(8, 2, 37, 3).with_documents(4);
        let case = ScanCase::random(tokens, d_inner, 16, 8);
        let mut noise = Noise::new(5);
        let grad_out = noise.values(case.tokens.n_rows() * d_inner, 0.0, 1.0);
        let want = case.backward(&case.forward()["saved_states"], &grad_out, None);
        let single = case.cast::<f32>();
        let got = single.backward(&single.forward()["saved_states"], &common::cast(&grad_out), None);
        common::assert_all_close(&got, &want, 1e-5);
    }
}
