//! The whole mixer: its gradients against finite differences, and what it must not depend on.
#![allow(clippy::unwrap_used)]

mod common;

use common::mixer::{MixerCase, SMALL, Sizes, Split};
use common::{Noise, Tokens, all_bits, assert_all_close, assert_close, bits, cast, check_gradients, dot, with_threads};
use mom_kernels::grouped_gemm::GroupedWeights;
use mom_kernels::mixer::{self, MixerState, MixerWeights};
use mom_kernels::{Element, Rows};

const ALL: Split = [true; 4];
const ODD: Sizes = Sizes { d_model: 9, d_inner: 37, d_state: 16, d_conv: 3, dt_rank: 3 };

fn grad_out<T: Element>(case: &MixerCase<T>) -> Vec<T> {
    cast(&Noise::new(41).values(case.tokens.n_rows() * case.sizes.d_model, 0.0, 1.0))
}

fn by_position<T: Element>(case: &MixerCase<T>, x: &[T]) -> Vec<T> {
    case.tokens.to_positions(x, case.sizes.d_model)
}

fn check(case: &MixerCase<f64>) {
    let grad_out = grad_out(case);
    check_gradients(&case.fields, &case.backward(&grad_out), |fields| {
        dot(&MixerCase { fields: fields.clone(), ..case.clone() }.forward(None), &grad_out)
    });
}

#[test]
fn every_gradient_agrees_with_finite_differences() {
    check(&MixerCase::random(Tokens::random(1, 2, 18, 3), SMALL, ALL, 1));
    check(&MixerCase::random(Tokens::random(2, 2, 5, 2).with_documents(2), SMALL, ALL, 2));
    check(&MixerCase::random(Tokens::random(3, 3, 1, 2), SMALL, ALL, 3));
}

#[test]
fn gradients_agree_whichever_projections_are_split() {
    for choice in 0..16 {
        let split = [0, 1, 2, 3].map(|bit| choice >> bit & 1 == 1);
        check(&MixerCase::random(Tokens::random(choice, 1, 7, 3), SMALL, split, choice));
    }
}

#[test]
fn gradients_agree_without_biases() {
    let case = MixerCase::random(Tokens::random(4, 2, 6, 2), SMALL, ALL, 4);
    check(&case.without(&["conv.bias", "in_proj.bias", "dt_proj.bias", "out_proj.bias"]));
}

#[test]
fn f32_agrees_with_f64() {
    let case = MixerCase::random(Tokens::random(5, 2, 33, 3).with_documents(5), ODD, ALL, 5);
    let single = case.cast::<f32>();
    assert_close("out", &single.forward(None), &case.forward(None), 3e-6);
    assert_all_close(&single.backward(&grad_out(&single)), &case.backward(&grad_out(&case)), 2e-5);
}

#[test]
fn forward_gives_the_same_bits_whether_it_saves_or_not() {
    let case = MixerCase::random(Tokens::random(6, 2, 20, 3), ODD, ALL, 6).cast::<f32>();
    let fresh = &mut MixerState::zeros(&case.weights(), 2);
    let out = bits(&case.forward(None));
    assert_eq!(out, bits(&case.forward_saving().0));
    assert_eq!(out, bits(&case.forward(Some(fresh))));
}

#[test]
fn packed_documents_are_as_documents_apart() {
    let lengths = [4, 1, 17, 16, 9];
    let tokens = Tokens::random(7, 1, lengths.iter().sum(), 3).with_lengths(&lengths);
    let packed = MixerCase::random(tokens, ODD, ALL, 7);
    let (out, grad_out) = (packed.forward(None), grad_out(&packed));
    let grads = packed.backward(&grad_out);
    let mut sums = packed.fields.iter().map(|(&name, x)| (name, vec![0.0; x.len()])).collect::<common::Fields<f64>>();
    sums.remove("x");
    let mut first = 0;
    for length in lengths {
        let range = first..first + length;
        let rows = |x: &[f64]| packed.tokens.rows_of_time(x, ODD.d_model, range.clone());
        let mut apart = packed.time(range.clone());
        apart.tokens.starts = None;
        apart.plan = apart.tokens.plan();
        assert_close("out", &rows(&out), &apart.forward(None), 1e-13);
        let alone = apart.backward(&rows(&grad_out));
        assert_close("grad_x", &rows(&grads["x"]), &alone["x"], 1e-12);
        for (name, sum) in &mut sums {
            sum.iter_mut().zip(&alone[name]).for_each(|(sum, x)| *sum += x);
        }
        first += length;
    }
    assert_all_close(&grads, &sums, 1e-12);
}

#[test]
fn chunks_and_single_steps_are_as_the_whole() {
    let whole = MixerCase::random(Tokens::random(8, 3, 24, 2).with_documents(8), ODD, ALL, 8);
    let mut state = MixerState::zeros(&whole.weights(), 3);
    let out = by_position(&whole, &whole.forward(Some(&mut state)));
    let mut chunked = MixerState::zeros(&whole.weights(), 3);
    let chunks: Vec<_> = [0..1, 1..3, 3..18, 18..24]
        .into_iter()
        .map(|range| {
            let chunk = whole.time(range);
            let out = chunk.forward(Some(&mut chunked));
            by_position(&chunk, &out)
        })
        .collect();
    let mut stepped = MixerState::zeros(&whole.weights(), 3);
    let steps: Vec<_> = (0..24)
        .map(|t| {
            let one = whole.time(t..t + 1);
            let out = one.step(&mut stepped);
            by_position(&one, &out)
        })
        .collect();
    assert_close("chunks", &common::join_time(&chunks, 3), &out, 1e-12);
    assert_close("steps", &common::join_time(&steps, 3), &out, 1e-12);
    for other in [&chunked, &stepped] {
        assert_close("conv state", &other.conv, &state.conv, 1e-12);
        assert_close("scan state", &other.scan, &state.scan, 1e-12);
    }
}

#[test]
fn relabelled_modalities_with_permuted_weights_change_nothing() {
    let case = MixerCase::random(Tokens::random(9, 2, 25, 3), ODD, ALL, 9);
    let mut relabelled = case.clone();
    let new_id = [2u8, 0, 1];
    let old_id = [1, 2, 0];
    relabelled.tokens.ids.iter_mut().for_each(|id| *id = new_id[usize::from(*id)]);
    relabelled.plan = relabelled.tokens.plan();
    let permute = |x: &[f64]| -> Vec<f64> {
        let per_group = x.len() / 3;
        old_id.iter().flat_map(|&old: &usize| x[old * per_group..][..per_group].to_vec()).collect()
    };
    for (name, x) in &mut relabelled.fields {
        if name.contains("proj") {
            *x = permute(x);
        }
    }
    let x = relabelled.tokens.to_rows(&by_position(&case, &case.fields["x"]), ODD.d_model);
    relabelled.fields.insert("x", x);
    let out = by_position(&case, &case.forward(None));
    assert_close("out", &by_position(&relabelled, &relabelled.forward(None)), &out, 1e-13);
    let grad = Noise::new(3).values(50 * ODD.d_model, 0.0, 1.0);
    let before = case.backward(&grad);
    let moved = relabelled.tokens.to_rows(&by_position(&case, &grad), ODD.d_model);
    let after = relabelled.backward(&moved);
    for (name, x) in &before {
        let want = match *name {
            "x" => relabelled.tokens.to_rows(&by_position(&case, x), ODD.d_model),
            name if name.contains("proj") => permute(x),
            _ => x.clone(),
        };
        assert_close(name, &after[name], &want, 1e-12);
    }
}

#[test]
fn modalities_with_equal_weights_are_as_one() {
    let dense = MixerCase::random(Tokens::random(10, 2, 21, 3), ODD, [false; 4], 10);
    let mut split = dense.clone();
    split.split = ALL;
    for (name, x) in &mut split.fields {
        if name.contains("proj") {
            *x = x.repeat(3);
        }
    }
    assert_close("out", &split.forward(None), &dense.forward(None), 1e-13);
}

#[test]
fn an_absent_modality_has_gradient_zero_and_breaks_nothing() {
    let mut tokens = Tokens::random(11, 2, 20, 3);
    tokens.ids.iter_mut().for_each(|id| *id = if *id == 1 { 0 } else { *id });
    let mut case = MixerCase::random(tokens, ODD, ALL, 11);
    for (name, x) in &mut case.fields {
        if name.contains("proj") {
            let third = x.len() / 3;
            x[third..2 * third].fill(f64::NAN);
        }
    }
    assert!(case.forward(None).iter().all(|x| x.is_finite()));
    for (name, x) in case.backward(&grad_out(&case)) {
        assert!(x.iter().all(|x| x.is_finite()), "{name}");
        if name.contains("proj") {
            let third = x.len() / 3;
            assert!(x[third..2 * third].iter().all(|&x| x == 0.0), "{name}");
            assert!(x[..third].iter().all(|&x| x != 0.0), "{name}");
        }
    }
}

#[test]
fn no_rows_give_no_output_and_zero_gradients() {
    let tokens = Tokens { batch: 2, seqlen: 0, n_modalities: 3, ids: vec![], starts: None };
    let case = MixerCase::random(tokens, SMALL, ALL, 12);
    assert!(case.forward(None).is_empty());
    assert!(case.backward(&[]).values().flatten().all(|&x| x == 0.0));
    let mut state = MixerState::zeros(&case.weights(), 2);
    state.scan.fill(3.0);
    let before = state.clone();
    case.forward(Some(&mut state));
    assert_eq!(state, before);
}

#[test]
fn results_have_the_same_bits_on_any_number_of_threads() {
    let sizes = Sizes { d_model: 96, d_inner: 192, d_state: 16, d_conv: 4, dt_rank: 6 };
    let case = MixerCase::random(Tokens::random(13, 3, 90, 3).with_documents(1), sizes, ALL, 13).cast::<f32>();
    let run = |n| with_threads(n, || (bits(&case.forward(None)), all_bits(&case.backward(&grad_out(&case)))));
    let one = run(1);
    assert!(one == run(2) && one == run(3) && one == run(2));
}

#[test]
fn a_nan_in_any_input_comes_out() {
    let clean = MixerCase::random(Tokens::random(14, 1, 12, 2), ODD, ALL, 14).cast::<f32>();
    let grad_out = grad_out(&clean);
    for &name in clean.fields.keys() {
        let mut case = clean.clone();
        case.fields.get_mut(name).unwrap()[0] = f32::NAN;
        assert!(case.forward(None).iter().any(|x| x.is_nan()), "{name}, forward");
        // out_proj's bias takes no part in any gradient.
        let broken = case.backward(&grad_out).values().flatten().any(|x| x.is_nan());
        assert!(broken || name == "out_proj.bias", "{name}, backward");
    }
}

#[test]
fn what_the_mixer_refuses_is_named_and_the_state_stays() {
    let case = MixerCase::random(Tokens::random(15, 2, 3, 2), SMALL, ALL, 15);
    let fresh = MixerState::zeros(&case.weights(), 2);
    let refuse = |weights: &MixerWeights<'_, f64>, x: Rows<'_, f64>, state: &MixerState<f64>, message: &str| {
        let mut after = state.clone();
        let error = mixer::forward(&case.plan, x, weights, Some(&mut after)).unwrap_err();
        assert_eq!(error.to_string(), message);
        assert!(after == *state);
    };
    let projection = |n_in, n_out| {
        let zeros: &'static [f64] = &[0.0; 4096];
        GroupedWeights::new(n_in, n_out, vec![&zeros[..n_in * n_out]; 2], None).unwrap()
    };
    let (weights, x) = (case.weights(), case.x());
    let with = |change: &dyn Fn(&mut MixerWeights<'_, f64>)| {
        let mut weights = case.weights();
        change(&mut weights);
        weights
    };
    let cases: [(MixerWeights<'_, f64>, &str); 9] = [
        (with(&|w| w.in_proj = projection(6, 19)), "mixer: in_proj output has 19 features, expected 20"),
        (with(&|w| w.x_proj = projection(9, 8)), "mixer: x_proj input has 9 features, expected 10"),
        (with(&|w| w.x_proj = projection(10, 9)), "mixer: x_proj output has 9 features, expected 8"),
        (with(&|w| w.dt_proj = projection(2, 11)), "mixer: dt_proj output has 11 features, expected 10"),
        (with(&|w| w.out_proj = projection(11, 6)), "mixer: out_proj input has 11 features, expected 10"),
        (with(&|w| w.out_proj = projection(10, 7)), "mixer: out_proj output has 7 features, expected 6"),
        (with(&|w| w.a_log = &[0.0; 31]), "mixer: a_log has 31 elements, expected 30"),
        (with(&|w| w.conv_weight = &[0.0; 39]), "causal_conv1d: weight has 39 elements, expected 30"),
        (with(&|w| w.conv_bias = Some(&[0.0; 9])), "causal_conv1d: bias has 9 elements, expected 10"),
    ];
    for (weights, message) in &cases {
        refuse(weights, x, &fresh, message);
    }
    // The last operation has as many weights as there are modalities, or one.
    let three = GroupedWeights::new(10, 6, vec![&[0.0; 60][..]; 3], None).unwrap();
    refuse(&with(&|w| w.out_proj = three.clone()), x, &fresh, "mixer: out_proj has 3 weights, expected 2");
    let short = Rows::new("x", &case.fields["x"][..30], 6).unwrap();
    refuse(&weights, short, &fresh, "grouped_gemm: x has 5 rows, expected 6");
    let other = MixerState::new(vec![0.0; 59], fresh.scan.clone());
    refuse(&weights, x, &other, "causal_conv1d: initial_state has 59 elements, expected 60");
    let other = MixerState::new(fresh.conv.clone(), vec![0.0; 61]);
    refuse(&weights, x, &other, "selective_scan: initial_state has 61 elements, expected 60");
    let mut state = fresh.clone();
    let error = mixer::step(&case.plan, x, &weights, &mut state).unwrap_err().to_string();
    assert_eq!(error, "selective_scan step: seqlen = 3 is outside 1..=1");
    assert!(state == fresh);
}

#[test]
fn what_the_backward_pass_refuses_is_named() {
    let case = MixerCase::random(Tokens::random(16, 2, 3, 2), SMALL, ALL, 16);
    let (_, saved) = case.forward_saving();
    let other = MixerCase::random(Tokens::random(16, 2, 4, 2), SMALL, ALL, 16);
    let grad_out = [0.0; 36];
    let rows = |len| Rows::new("grad_out", &grad_out[..len], 6).unwrap();
    let error = mixer::backward(&case.plan, case.x(), &case.weights(), &saved, rows(30)).unwrap_err();
    assert_eq!(error.to_string(), "mixer: grad_out has 5 rows, expected 6");
    let error = mixer::backward(&case.plan, case.x(), &case.weights(), &other.forward_saving().1, rows(36));
    assert_eq!(error.unwrap_err().to_string(), "mixer: saved.xz has 160 elements, expected 120");
    let short = Rows::new("x", &case.fields["x"][..30], 6).unwrap();
    let error = mixer::backward(&case.plan, short, &case.weights(), &saved, rows(36)).unwrap_err();
    assert_eq!(error.to_string(), "grouped_gemm: x has 5 rows, expected 6");
}
