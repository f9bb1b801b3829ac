//! What a scan must not depend on: packing, chunks, row order, threads; and what goes in broken must come out broken.
#![allow(clippy::unwrap_used)]

mod common;

use common::scan::ScanCase;
use common::{Fields, Noise, Tokens, all_bits, assert_close, bits, join_time, poisoned, to_f64, with_threads};
use mom_kernels::selective_scan::{STATE_STRIDE, step};
use mom_kernels::{Element, RowsMut};

fn grad_out<T: Element>(case: &ScanCase<T>) -> Vec<T> {
    common::cast(&Noise::new(11).values(case.tokens.n_rows() * case.d_inner, 0.0, 1.0))
}

fn by_position<T: Element>(case: &ScanCase<T>, out: &[T]) -> Vec<T> {
    case.tokens.to_positions(out, case.d_inner)
}

#[test]
fn packed_documents_are_as_documents_apart() {
    let lengths = [5, 1, 17, 16, 30, 2];
    let tokens = Tokens::random(1, 1, lengths.iter().sum(), 3).with_lengths(&lengths);
    let packed = ScanCase::random(tokens, 33, 16, 1);
    let outputs = packed.forward();
    let g = grad_out(&packed);
    let grads = packed.backward(&outputs["saved_states"], &g, None);
    let mut weight_sums: Fields<f64> =
        ["a", "d_skip", "dt_bias"].map(|name| (name, vec![0.0; packed.fields[name].len()])).into();
    let mut first = 0;
    for length in lengths {
        let range = first..first + length;
        let mut apart = packed.time(range.clone());
        apart = ScanCase { tokens: Tokens { starts: None, ..apart.tokens.clone() }, ..apart };
        apart.plan = apart.tokens.plan();
        let alone = apart.forward();
        let part = packed.tokens.rows_of_time(&outputs["out"], packed.d_inner, range.clone());
        assert_eq!(bits(&part), bits(&alone["out"]), "document at {first}");
        let g = packed.tokens.rows_of_time(&g, packed.d_inner, range.clone());
        let alone_grads = apart.backward(&alone["saved_states"], &g, None);
        for (name, width) in packed.token_widths() {
            let part = packed.tokens.rows_of_time(&grads[name], width, range.clone());
            assert_close(name, &part, &alone_grads[name], 1e-13);
        }
        for (name, sum) in &mut weight_sums {
            sum.iter_mut().zip(&alone_grads[name]).for_each(|(sum, x)| *sum += x);
        }
        if first + length == packed.tokens.seqlen {
            assert_eq!(bits(&outputs["last_state"]), bits(&alone["last_state"]));
        }
        first += length;
    }
    common::assert_all_close(&grads, &weight_sums, 1e-13);
    // A document starts at 0, so the initial state is not read.
    assert!(grads["initial_state"].iter().all(|&x| x == 0.0));
}

#[test]
fn chunks_that_hand_their_state_on_are_as_the_whole() {
    let whole = ScanCase::random(Tokens::random(2, 2, 50, 3).with_documents(3), 20, 16, 2);
    let outputs = whole.forward();
    let g = grad_out(&whole);
    let grads = whole.backward(&outputs["saved_states"], &g, None);
    let borders = [0, 1, 17, 33, 49, 50];
    let mut state = whole.fields["initial_state"].clone();
    let (mut outs, mut chunks) = (Vec::new(), Vec::new());
    for border in borders.windows(2) {
        let range = border[0]..border[1];
        let mut chunk = whole.time(range.clone());
        chunk.fields.insert("initial_state", state);
        let outputs = chunk.forward();
        outs.push(by_position(&chunk, &outputs["out"]));
        state = outputs["last_state"].clone();
        chunks.push((range, chunk, outputs));
    }
    assert_eq!(bits(&join_time(&outs, 2)), bits(&by_position(&whole, &outputs["out"])));
    assert_eq!(bits(&state), bits(&outputs["last_state"]));
    // Backwards the gradient of the initial state is that of the last state of the chunk before.
    let mut grad_last = None;
    let mut grad_u = Vec::new();
    for (range, chunk, outputs) in chunks.iter().rev() {
        let g = whole.tokens.rows_of_time(&g, whole.d_inner, range.clone());
        let mut chunk_grads = chunk.backward(&outputs["saved_states"], &g, grad_last.as_deref());
        grad_u.insert(0, by_position(chunk, &chunk_grads["u"]));
        grad_last = chunk_grads.remove("initial_state");
    }
    assert_close("grad_u", &join_time(&grad_u, 2), &by_position(&whole, &grads["u"]), 1e-13);
    assert_close("grad_initial_state", &grad_last.unwrap(), &grads["initial_state"], 1e-13);
}

#[test]
fn single_steps_are_as_the_whole() {
    for d_state in [1, 3, 8, 16, 19] {
        let whole = ScanCase::random(Tokens::random(3, 3, 20, 2).with_documents(5), 37, d_state, 3);
        let outputs = whole.forward();
        let mut state = whole.fields["initial_state"].clone();
        let outs: Vec<_> = (0..20)
            .map(|t| {
                let one = whole.time(t..t + 1);
                let mut out = poisoned(one.tokens.n_rows() * one.d_inner);
                step(&one.inputs(), &mut state, RowsMut::new("out", &mut out, one.d_inner).unwrap()).unwrap();
                by_position(&one, &out)
            })
            .collect();
        assert_close("out", &join_time(&outs, 3), &by_position(&whole, &outputs["out"]), 1e-13);
        assert_close("state", &state, &outputs["last_state"], 1e-13);
    }
}

#[test]
fn steps_without_the_optional_inputs_are_as_the_whole() {
    let case = ScanCase::random(Tokens::random(3, 2, 1, 1), 21, 5, 3).without(&["z", "d_skip", "dt_bias"]);
    let outputs = case.forward();
    let mut state = case.fields["initial_state"].clone();
    let mut out = poisoned(2 * 21);
    let case = case.without(&["initial_state"]);
    step(&case.inputs(), &mut state, RowsMut::new("out", &mut out, 21).unwrap()).unwrap();
    assert_close("out", &out, &outputs["out"], 1e-14);
    assert_close("state", &state, &outputs["last_state"], 1e-14);
}

#[test]
fn relabelled_modalities_with_permuted_biases_change_nothing() {
    let case = ScanCase::random(Tokens::random(4, 2, 30, 3), 18, 4, 4);
    let mut relabelled = case.clone();
    let new_id = [2u8, 0, 1];
    relabelled.tokens.ids.iter_mut().for_each(|id| *id = new_id[usize::from(*id)]);
    relabelled.plan = relabelled.tokens.plan();
    relabelled.bias_offsets = relabelled.plan.modality_offsets().clone();
    for (name, width) in case.token_widths() {
        let moved = relabelled.tokens.to_rows(&case.tokens.to_positions(&case.fields[name], width), width);
        relabelled.fields.insert(name, moved);
    }
    let permute = |x: &[f64]| -> Vec<f64> {
        let old_id = |new| new_id.iter().position(|&id| usize::from(id) == new).unwrap();
        (0..3).flat_map(|new| x[old_id(new) * 18..][..18].to_vec()).collect()
    };
    relabelled.fields.insert("dt_bias", permute(&case.fields["dt_bias"]));
    let (before, after) = (case.forward(), relabelled.forward());
    assert_eq!(bits(&by_position(&case, &before["out"])), bits(&by_position(&relabelled, &after["out"])));
    let g = grad_out(&case);
    let moved = relabelled.tokens.to_rows(&case.tokens.to_positions(&g, 18), 18);
    let grads = case.backward(&before["saved_states"], &g, None);
    let grads_after = relabelled.backward(&after["saved_states"], &moved, None);
    assert_eq!(bits(&permute(&grads["dt_bias"])), bits(&grads_after["dt_bias"]));
    assert_eq!(bits(&grads["a"]), bits(&grads_after["a"]));
    assert_eq!(bits(&by_position(&case, &grads["dt"])), bits(&by_position(&relabelled, &grads_after["dt"])));
}

#[test]
fn the_bias_of_an_absent_modality_has_gradient_zero() {
    let mut tokens = Tokens::random(5, 2, 20, 3);
    tokens.ids.iter_mut().for_each(|id| *id = if *id == 1 { 2 } else { *id });
    let mut case = ScanCase::random(tokens, 10, 4, 5);
    // Even a broken bias: nothing reads it.
    case.fields.get_mut("dt_bias").unwrap()[10..20].fill(f64::NAN);
    let outputs = case.forward();
    let grads = case.backward(&outputs["saved_states"], &grad_out(&case), None);
    assert!(outputs["out"].iter().chain(&grads["a"]).all(|x| x.is_finite()));
    assert_eq!(grads["dt_bias"][10..20], [0.0; 10]);
    assert!(grads["dt_bias"][..10].iter().chain(&grads["dt_bias"][20..]).all(|&x| x != 0.0 && x.is_finite()));
}

#[test]
fn an_output_depends_on_no_later_position() {
    let case = ScanCase::random(Tokens::random(6, 1, 40, 2), 9, 4, 6);
    let out = by_position(&case, &case.forward()["out"]);
    for t in [1, 15, 16, 39] {
        let mut moved = case.clone();
        for (name, width) in case.token_widths() {
            let mut x = case.tokens.to_positions(&case.fields[name], width);
            x[t * width..].fill(3.25);
            moved.fields.insert(name, case.tokens.to_rows(&x, width));
        }
        let after = by_position(&moved, &moved.forward()["out"]);
        assert_eq!(bits(&out[..t * 9]), bits(&after[..t * 9]), "before {t}");
        assert!(out[t * 9..].iter().zip(&after[t * 9..]).all(|(a, b)| a != b));
    }
}

#[test]
fn results_have_the_same_bits_on_any_number_of_threads() {
    fn check<T: Element>(case: &ScanCase<T>) {
        let run = |n_threads| {
            with_threads(n_threads, || {
                let outputs = case.forward();
                let grads = case.backward(&outputs["saved_states"], &grad_out(case), Some(&outputs["last_state"]));
                (all_bits(&outputs), all_bits(&grads))
            })
        };
        let one = run(1);
        assert!(one == run(2) && one == run(3) && one == run(8) && one == run(2));
    }
    let case = ScanCase::random(Tokens::random(7, 4, 70, 3).with_documents(7), 200, 16, 7);
    check(&case);
    check(&case.cast::<f32>());
}

#[test]
fn no_position_passes_the_state_through() {
    for (batch, seqlen) in [(2, 0), (0, 5), (0, 0)] {
        let tokens = Tokens { batch, seqlen, n_modalities: 2, ids: vec![], starts: None };
        let case = ScanCase::random(tokens, 3, 4, 8);
        let outputs = case.forward();
        assert_eq!(outputs["last_state"], case.fields["initial_state"]);
        let grad_last = Noise::new(1).values(case.state_len(), 0.0, 1.0);
        let grads = case.backward(&[], &[], Some(&grad_last));
        assert_eq!(grads["initial_state"], grad_last);
        let without = case.backward(&[], &[], None);
        for name in ["a", "d_skip", "dt_bias", "initial_state"] {
            assert!(without[name].iter().all(|&x| x == 0.0), "{name}");
        }
        let fresh = case.without(&["initial_state"]).forward();
        assert!(fresh["last_state"].iter().all(|&x| x == 0.0));
    }
}

#[test]
fn states_are_saved_where_a_segment_begins() {
    let case = ScanCase::random(Tokens::random(9, 2, STATE_STRIDE * 2 + 3, 2), 5, 3, 9);
    let saved = &case.forward()["saved_states"];
    assert_eq!(saved.len(), 2 * 3 * 3 * 5);
    for (segment, end) in [(1, STATE_STRIDE), (2, 2 * STATE_STRIDE)] {
        let mut head = case.time(0..end);
        head.fields.insert("initial_state", case.fields["initial_state"].clone());
        let last = &head.forward()["last_state"];
        for (sequence, d, n) in [(0, 0, 0), (0, 4, 2), (1, 3, 1), (1, 4, 2)] {
            let got = saved[((sequence * 3 + segment) * 3 + n) * 5 + d];
            assert_eq!(got, last[(sequence * 5 + d) * 3 + n], "segment {segment}");
        }
    }
}

#[test]
fn a_nan_in_any_input_comes_out() {
    fn check<T: Element>() {
        let clean = ScanCase::random(Tokens::random(10, 1, 20, 2), 70, 4, 10).cast::<T>();
        for &name in clean.fields.keys() {
            for place in [0.0, 0.5, 0.999] {
                let mut case = clean.clone();
                let x = case.fields.get_mut(name).unwrap();
                let at = (place * x.len() as f64) as usize;
                x[at] = T::from_f64(f64::NAN);
                let outputs = case.forward();
                assert!(to_f64(&outputs["out"]).iter().any(|x| x.is_nan()), "{name}[{at}], forward");
                let grads = case.backward(&outputs["saved_states"], &grad_out(&case), None);
                let broken = |name: &str| to_f64(&grads[name]).iter().any(|x| x.is_nan());
                assert!(["u", "dt", "a", "b", "c", "d_skip", "z"].into_iter().any(broken), "{name}[{at}], backward");
            }
        }
        let mut g = grad_out(&clean);
        g[40] = T::from_f64(f64::NAN);
        let grads = clean.backward(&clean.forward()["saved_states"], &g, None);
        for name in ["u", "dt", "z", "a", "b", "c", "d_skip", "dt_bias", "initial_state"] {
            assert!(to_f64(&grads[name]).iter().any(|x| x.is_nan()), "{name}");
        }
    }
    check::<f32>();
    check::<f64>();
}

#[test]
fn extreme_step_sizes_stay_finite() {
    for value in [-1e4, -200.0, 50.0, 1e4] {
        let mut case = ScanCase::random(Tokens::random(11, 1, 20, 1), 20, 4, 11);
        case.fields.get_mut("dt").unwrap().fill(value);
        let case = case.cast::<f32>();
        let outputs = case.forward();
        let grads = case.backward(&outputs["saved_states"], &grad_out(&case), None);
        for x in outputs.values().chain(grads.values()) {
            assert!(x.iter().all(|x| x.is_finite()), "dt = {value}");
        }
    }
}
