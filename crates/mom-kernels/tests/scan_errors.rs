//! Everything that the scan refuses: the message names argument, expected and got, and no output is touched.
#![allow(clippy::unwrap_used)]

mod common;

use common::scan::ScanCase;
use common::{Fields, Tokens};
use mom_kernels::selective_scan::{ScanInputs, ScanOutputs, forward, step};
use mom_kernels::{ModalityOffsets, Result, Rows, RowsMut};

const UNTOUCHED: f64 = 7.0;

/// 12 rows, 3 channels, 4 states, 2 modalities.
fn case() -> ScanCase<f64> {
    ScanCase::random(Tokens::random(1, 2, 6, 2), 3, 4, 1)
}

fn untouched(n: usize) -> Vec<f64> {
    vec![UNTOUCHED; n]
}

#[track_caller]
fn assert_refused(result: Result<()>, outputs: &[&[f64]], message: &str) {
    assert_eq!(result.unwrap_err().to_string(), message);
    assert!(outputs.iter().all(|x| x.iter().all(|&x| x == UNTOUCHED)), "an output was written");
}

#[track_caller]
fn refuse_forward(case: &ScanCase<f64>, lens: [usize; 3], width: usize, message: &str) {
    let [mut out, mut last, mut saved] = lens.map(untouched);
    let outputs = ScanOutputs::new(RowsMut::new("out", &mut out, width).unwrap())
        .with_last_state(&mut last[..])
        .with_saved_states(&mut saved[..]);
    assert_refused(forward(&case.inputs(), outputs), &[&out, &last, &saved], message);
}

const LENS: [usize; 3] = [36, 24, 24];

#[test]
fn an_input_of_another_size_is_named() {
    let wrong = |name: &'static str, n_rows_less: usize| {
        let mut case = case();
        let x = case.fields.get_mut(name).unwrap();
        x.truncate(x.len() - n_rows_less);
        case
    };
    for (name, less, message) in [
        ("u", 3, "selective_scan: u has 11 rows, expected 12"),
        ("dt", 3, "selective_scan: dt has 11 rows, expected 12"),
        ("b", 4, "selective_scan: b has 11 rows, expected 12"),
        ("c", 8, "selective_scan: c has 10 rows, expected 12"),
        ("z", 6, "selective_scan: z has 10 rows, expected 12"),
        ("a", 1, "selective_scan: a has 11 elements, expected 12"),
        ("d_skip", 1, "selective_scan: d_skip has 2 elements, expected 3"),
        ("dt_bias", 3, "selective_scan: dt_bias.bias has 3 elements, expected 6"),
        ("initial_state", 1, "selective_scan: initial_state has 23 elements, expected 24"),
    ] {
        refuse_forward(&wrong(name, less), LENS, 3, message);
    }
    let mut case = case();
    case.bias_offsets = ModalityOffsets::from_counts([5, 6]);
    refuse_forward(&case, LENS, 3, "selective_scan: dt_bias.offsets has 11 rows, expected 12");
}

#[test]
fn an_input_of_another_width_is_named() {
    let case = case();
    let inputs = case.inputs();
    let wide = vec![0.0; 12 * 5];
    let five = Rows::new("wide", &wide, 5).unwrap();
    let refuse = |inputs: ScanInputs<'_, f64>, message| {
        let mut out = untouched(36);
        let outputs = ScanOutputs::new(RowsMut::new("out", &mut out, 3).unwrap());
        assert_refused(forward(&inputs, outputs), &[&out], message);
    };
    let mut wrong = inputs;
    wrong.dt = five;
    refuse(wrong, "selective_scan: dt has 5 columns, expected 3");
    refuse(inputs.with_z(five), "selective_scan: z has 5 columns, expected 3");
    let mut wrong = inputs;
    wrong.c = five;
    refuse(wrong, "selective_scan: c has 5 columns, expected 4");
    let none = five.columns(0, 0).unwrap();
    let mut empty = inputs;
    (empty.b, empty.c, empty.a) = (none, none, &[]);
    empty.initial_state = None;
    refuse(empty, "selective_scan: d_state = 0 is outside 1..=64");
    let mut no_channels = inputs;
    no_channels.u = none;
    refuse(no_channels, "selective_scan: d_inner = 0 is outside 1..=4294967295");
}

#[test]
fn too_many_states_are_refused() {
    let case = ScanCase::random(Tokens::random(1, 1, 2, 1), 3, 65, 1);
    refuse_forward(&case, [6, 195, 195], 3, "selective_scan: d_state = 65 is outside 1..=64");
}

#[test]
fn an_output_of_another_size_is_named() {
    refuse_forward(&case(), [33, 24, 24], 3, "selective_scan: out has 11 rows, expected 12");
    refuse_forward(&case(), [48, 24, 24], 4, "selective_scan: out has 4 columns, expected 3");
    refuse_forward(&case(), [36, 25, 24], 3, "selective_scan: last_state has 25 elements, expected 24");
    refuse_forward(&case(), [36, 24, 12], 3, "selective_scan: saved_states has 12 elements, expected 24");
}

#[test]
fn a_gradient_of_another_size_is_named() {
    let case = case();
    let (saved, grad_out) = (case.forward()["saved_states"].clone(), untouched(36));
    let refuse =
        |saved: &[f64], grad_out: &[f64], grad_last: Option<&[f64]>, change: (&'static str, usize), message| {
            let mut grads: Fields<f64> = case.fields.iter().map(|(&name, x)| (name, untouched(x.len()))).collect();
            grads.insert("out", untouched(36));
            grads.insert(change.0, untouched(change.1));
            let result = case.try_backward(saved, grad_out, grad_last, &mut grads);
            let arrays: Vec<&[f64]> = grads.values().map(Vec::as_slice).collect();
            assert_refused(result, &arrays, message);
        };
    for (name, len, message) in [
        ("u", 33, "selective_scan: grad_u has 11 rows, expected 12"),
        ("dt", 39, "selective_scan: grad_dt has 13 rows, expected 12"),
        ("b", 44, "selective_scan: grad_b has 11 rows, expected 12"),
        ("c", 44, "selective_scan: grad_c has 11 rows, expected 12"),
        ("z", 33, "selective_scan: grad_z has 11 rows, expected 12"),
        ("out", 33, "selective_scan: out has 11 rows, expected 12"),
        ("a", 13, "selective_scan: grad_a has 13 elements, expected 12"),
        ("d_skip", 4, "selective_scan: grad_d_skip has 4 elements, expected 3"),
        ("dt_bias", 3, "selective_scan: grad_dt_bias has 3 elements, expected 6"),
        ("initial_state", 12, "selective_scan: grad_initial_state has 12 elements, expected 24"),
    ] {
        refuse(&saved, &grad_out, None, (name, len), message);
    }
    let fine = ("u", 36);
    refuse(&saved[1..], &grad_out, None, fine, "selective_scan: saved_states has 23 elements, expected 24");
    refuse(&saved, &grad_out[3..], None, fine, "selective_scan: grad_out has 11 rows, expected 12");
    let short = untouched(3);
    refuse(&saved, &grad_out, Some(&short), fine, "selective_scan: grad_last_state has 3 elements, expected 24");
}

#[test]
fn a_gradient_without_its_input_or_the_other_way_round_is_named() {
    let case = case();
    let saved = case.forward()["saved_states"].clone();
    let grads: Fields<f64> = case.fields.iter().map(|(&name, x)| (name, untouched(x.len()))).collect();
    let refuse = |case: &ScanCase<f64>, mut grads: Fields<f64>, message: &str| {
        let result = case.try_backward(&saved, &[0.0; 36], None, &mut grads);
        let arrays: Vec<&[f64]> = grads.values().map(Vec::as_slice).collect();
        assert_refused(result, &arrays, message);
    };
    for name in ["dt_bias", "d_skip", "z"] {
        let missing = case.clone().without(&[name]);
        refuse(&missing, grads.clone(), &format!("selective_scan: grad_{name} is present, expected absent"));
        let mut fewer = grads.clone();
        fewer.remove(name);
        refuse(&case, fewer, &format!("selective_scan: grad_{name} is absent, expected present"));
    }
    let missing = case.clone().without(&["initial_state"]);
    refuse(&missing, grads, "selective_scan: initial_state is absent, expected present");
}

#[test]
fn a_step_refuses_more_than_one_position_and_an_initial_state() {
    let refuse = |case: &ScanCase<f64>, state_len, out_len, width, message| {
        let (mut state, mut out) = (untouched(state_len), untouched(out_len));
        let result = step(&case.inputs(), &mut state, RowsMut::new("out", &mut out, width).unwrap());
        assert_refused(result, &[&state, &out], message);
    };
    let long = case().without(&["initial_state"]);
    refuse(&long, 24, 36, 3, "selective_scan step: seqlen = 6 is outside 1..=1");
    let one = ScanCase::random(Tokens::random(1, 2, 1, 2), 3, 4, 1);
    refuse(&one, 24, 6, 3, "selective_scan step: initial_state is present, expected absent");
    let one = one.without(&["initial_state"]);
    refuse(&one, 23, 6, 3, "selective_scan step: state has 23 elements, expected 24");
    refuse(&one, 24, 9, 3, "selective_scan step: out has 3 rows, expected 2");
    refuse(&one, 24, 8, 4, "selective_scan step: out has 4 columns, expected 3");
}
