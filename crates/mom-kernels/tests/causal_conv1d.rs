//! The causal convolution: against plain loops and finite differences, and what it must not depend on.
#![allow(clippy::unwrap_used)]

mod common;

use common::{
    Fields, Noise, Tokens, all_bits, assert_close, bits, cast, check_gradients, dot, join_time, poisoned, to_f64,
    with_threads,
};
use mom_kernels::causal_conv1d::{Activation, ConvGrads, ConvInputs, backward, forward, step};
use mom_kernels::{Element, ModalityPlan, Result, Rows, RowsMut};

#[derive(Clone)]
struct ConvCase<T> {
    tokens: Tokens,
    plan: ModalityPlan,
    d_inner: usize,
    d_conv: usize,
    activation: Activation,
    /// `x`, `weight`, `bias`, `initial_state`.
    fields: Fields<T>,
}

impl ConvCase<f64> {
    fn random(tokens: Tokens, d_inner: usize, d_conv: usize, seed: u64) -> Self {
        let mut noise = Noise::new(seed);
        let fields = Fields::from([
            ("x", noise.values(tokens.n_rows() * d_inner, 0.0, 1.5)),
            ("weight", noise.values(d_inner * d_conv, 0.0, 1.0)),
            ("bias", noise.values(d_inner, 0.0, 1.0)),
            ("initial_state", noise.values(tokens.batch * (d_conv - 1) * d_inner, 0.0, 1.0)),
        ]);
        let plan = tokens.plan();
        Self { tokens, plan, d_inner, d_conv, activation: Activation::Silu, fields }
    }

    /// The equation in plain loops: `out` by row.
    fn reference(&self) -> Vec<f64> {
        let Self { tokens, d_inner, d_conv, .. } = self;
        let x = tokens.to_positions(&self.fields["x"], *d_inner);
        let mut out = vec![0.0; x.len()];
        for (sequence, t) in (0..tokens.batch).flat_map(|b| (0..tokens.seqlen).map(move |t| (b, t))) {
            for d in 0..*d_inner {
                let mut pre = self.fields.get("bias").map_or(0.0, |bias| bias[d]);
                for k in 0..*d_conv {
                    let back = d_conv - 1 - k;
                    let first = sequence * tokens.seqlen;
                    let crosses = |t: usize| tokens.starts.as_ref().is_some_and(|starts| starts[first + t]);
                    let hidden = (0..back).any(|i| i <= t && crosses(t - i));
                    let input = match (t.checked_sub(back), self.fields.get("initial_state")) {
                        _ if hidden => 0.0,
                        (Some(from), _) => x[(first + from) * d_inner + d],
                        (None, Some(state)) => state[(sequence * (d_conv - 1) + t + k) * d_inner + d],
                        (None, None) => 0.0,
                    };
                    pre += self.fields["weight"][d * d_conv + k] * input;
                }
                let gate = if self.activation == Activation::Silu { 1.0 / (1.0 + (-pre).exp()) } else { 1.0 };
                out[(sequence * tokens.seqlen + t) * d_inner + d] = pre * gate;
            }
        }
        tokens.to_rows(&out, *d_inner)
    }
}

impl<T: Element> ConvCase<T> {
    fn cast<U: Element>(&self) -> ConvCase<U> {
        let fields = self.fields.iter().map(|(&name, x)| (name, cast(&to_f64(x)))).collect();
        let (tokens, plan) = (self.tokens.clone(), self.plan.clone());
        ConvCase { tokens, plan, d_inner: self.d_inner, d_conv: self.d_conv, activation: self.activation, fields }
    }

    fn without(mut self, name: &str) -> Self {
        self.fields.remove(name);
        self
    }

    fn time(&self, range: std::ops::Range<usize>) -> Self {
        let mut part = self.clone().without("initial_state");
        part.tokens = self.tokens.time(range.clone());
        part.plan = part.tokens.plan();
        part.fields.insert("x", self.tokens.rows_of_time(&self.fields["x"], self.d_inner, range));
        part
    }

    fn state_len(&self) -> usize {
        self.tokens.batch * (self.d_conv - 1) * self.d_inner
    }

    fn inputs(&self) -> ConvInputs<'_, T> {
        ConvInputs::new(
            self.plan.layout(),
            Rows::new("x", &self.fields["x"], self.d_inner).unwrap(),
            &self.fields["weight"],
        )
        .with_bias(self.fields.get("bias").map(Vec::as_slice))
        .with_activation(self.activation)
        .with_initial_state(self.fields.get("initial_state").map(Vec::as_slice))
    }

    /// `out` and `last_state`.
    fn forward(&self) -> Fields<T> {
        let mut out = poisoned(self.tokens.n_rows() * self.d_inner);
        let mut last_state = poisoned(self.state_len());
        let rows = RowsMut::new("out", &mut out, self.d_inner).unwrap();
        forward(&self.inputs(), rows, Some(&mut last_state)).unwrap();
        Fields::from([("out", out), ("last_state", last_state)])
    }

    fn backward(&self, grad_out: &[T], grad_last_state: Option<&[T]>) -> Fields<T> {
        let mut grads = self.fields.iter().map(|(&name, x)| (name, poisoned(x.len()))).collect();
        self.try_backward(grad_out, grad_last_state, &mut grads).unwrap();
        grads
    }

    fn try_backward(&self, grad_out: &[T], grad_last_state: Option<&[T]>, grads: &mut Fields<T>) -> Result<()> {
        let mut slots: std::collections::BTreeMap<_, _> =
            grads.iter_mut().map(|(&name, x)| (name, x.as_mut_slice())).collect();
        let grads = ConvGrads::new(
            RowsMut::new("x", slots.remove("x").unwrap(), self.d_inner).unwrap(),
            slots.remove("weight").unwrap(),
        )
        .with_out(slots.remove("out").map(|out| RowsMut::new("out", out, self.d_inner).unwrap()))
        .with_grad_bias(slots.remove("bias"))
        .with_grad_initial_state(slots.remove("initial_state"));
        backward(&self.inputs(), Rows::new("grad_out", grad_out, self.d_inner).unwrap(), grad_last_state, grads)
    }
}

fn grad_out<T: Element>(case: &ConvCase<T>) -> Vec<T> {
    cast(&Noise::new(21).values(case.tokens.n_rows() * case.d_inner, 0.0, 1.0))
}

#[test]
fn every_width_and_length_agrees_with_plain_loops() {
    for d_conv in 1..=4 {
        for d_inner in [1, 3, 8, 31, 32, 33, 64, 65, 100] {
            for seqlen in [1, 2, 3, 4, 5, 17] {
                let tokens = Tokens::random(seqlen as u64, 2, seqlen, 3).with_documents(d_inner as u64);
                let mut case = ConvCase::random(tokens, d_inner, d_conv, 1);
                for activation in [Activation::Silu, Activation::Identity] {
                    case.activation = activation;
                    let want = case.reference();
                    let name = format!("{d_inner} x {d_conv} x {seqlen}");
                    assert_close(&name, &case.forward()["out"], &want, 1e-14);
                    assert_close(&name, &case.cast::<f32>().forward()["out"], &want, 1e-6);
                }
            }
        }
    }
}

#[test]
fn the_backward_pass_gives_the_output_once_more_to_the_bit() {
    for d_conv in 1..=4 {
        for activation in [Activation::Silu, Activation::Identity] {
            let tokens = Tokens::random(4, 2, 11, 3).with_documents(2);
            let case = ConvCase { activation, ..ConvCase::random(tokens, 37, d_conv, 4) };
            let grad_out = grad_out(&case);
            let mut grads: Fields<f64> = case.fields.iter().map(|(&name, x)| (name, poisoned(x.len()))).collect();
            grads.insert("out", poisoned(grad_out.len()));
            case.try_backward(&grad_out, None, &mut grads).unwrap();
            assert_eq!(grads.remove("out").unwrap(), case.forward()["out"]);
            assert_eq!(grads, case.backward(&grad_out, None));
        }
    }
}

#[test]
fn every_gradient_agrees_with_finite_differences() {
    let check = |case: &ConvCase<f64>| {
        let grad_out = grad_out(case);
        let grad_last = Noise::new(5).values(case.state_len(), 0.0, 1.0);
        check_gradients(&case.fields, &case.backward(&grad_out, Some(&grad_last)), |fields| {
            let outputs = ConvCase { fields: fields.clone(), ..case.clone() }.forward();
            dot(&outputs["out"], &grad_out) + dot(&outputs["last_state"], &grad_last)
        });
    };
    for d_conv in 1..=4 {
        for seqlen in [1, 2, 11] {
            let case = ConvCase::random(Tokens::random(2, 2, seqlen, 3), 5, d_conv, 2);
            check(&case);
            check(&case.clone().without("bias"));
            check(&case.clone().without("initial_state"));
            check(&ConvCase { activation: Activation::Identity, ..case });
            check(&ConvCase::random(Tokens::random(2, 3, seqlen, 2).with_documents(1), 3, d_conv, 3));
        }
    }
}

#[test]
fn f32_gradients_agree_with_f64_at_every_width() {
    for d_inner in [1, 16, 63, 64, 65, 130] {
        let case = ConvCase::random(Tokens::random(3, 2, 33, 3).with_documents(2), d_inner, 4, 3);
        let want = case.backward(&grad_out(&case), None);
        let single = case.cast::<f32>();
        common::assert_all_close(&single.backward(&grad_out(&single), None), &want, 2e-6);
    }
}

#[test]
fn packed_documents_are_as_documents_apart() {
    let lengths = [3, 1, 2, 9, 4];
    let tokens = Tokens::random(4, 1, lengths.iter().sum(), 2).with_lengths(&lengths);
    let packed = ConvCase::random(tokens, 35, 4, 4);
    let (out, g) = (packed.forward()["out"].clone(), grad_out(&packed));
    let grads = packed.backward(&g, None);
    let mut first = 0;
    for length in lengths {
        let range = first..first + length;
        let mut apart = packed.time(range.clone());
        apart.tokens.starts = None;
        apart.plan = apart.tokens.plan();
        assert_eq!(bits(&packed.tokens.rows_of_time(&out, 35, range.clone())), bits(&apart.forward()["out"]));
        let apart_grads = apart.backward(&packed.tokens.rows_of_time(&g, 35, range.clone()), None);
        let part = packed.tokens.rows_of_time(&grads["x"], 35, range);
        assert_eq!(bits(&part), bits(&apart_grads["x"]));
        first += length;
    }
    assert!(grads["initial_state"].iter().all(|&x| x == 0.0));
}

#[test]
fn chunks_that_hand_their_state_on_are_as_the_whole() {
    for d_conv in 1..=4 {
        let whole = ConvCase::random(Tokens::random(5, 2, 20, 3).with_documents(1), 17, d_conv, 5);
        let outputs = whole.forward();
        let g = grad_out(&whole);
        let grads = whole.backward(&g, None);
        let mut state = whole.fields["initial_state"].clone();
        let mut outs = Vec::new();
        let mut chunks = Vec::new();
        for range in [0..1, 1..3, 3..4, 4..11, 11..20] {
            let mut chunk = whole.time(range.clone());
            chunk.fields.insert("initial_state", state);
            let outputs = chunk.forward();
            outs.push(chunk.tokens.to_positions(&outputs["out"], 17));
            state = outputs["last_state"].clone();
            chunks.push((range, chunk));
        }
        assert_eq!(bits(&join_time(&outs, 2)), bits(&whole.tokens.to_positions(&outputs["out"], 17)));
        assert_eq!(bits(&state), bits(&outputs["last_state"]));
        let (mut grad_last, mut grad_x) = (None, Vec::new());
        for (range, chunk) in chunks.into_iter().rev() {
            let g = whole.tokens.rows_of_time(&g, 17, range);
            let mut chunk_grads = chunk.backward(&g, grad_last.as_deref());
            grad_x.insert(0, chunk.tokens.to_positions(&chunk_grads["x"], 17));
            grad_last = chunk_grads.remove("initial_state");
        }
        let want = whole.tokens.to_positions(&grads["x"], 17);
        assert_close("grad_x", &join_time(&grad_x, 2), &want, 1e-14);
        assert_close("grad_initial_state", &grad_last.unwrap(), &grads["initial_state"], 1e-14);
    }
}

#[test]
fn single_steps_are_as_the_whole() {
    for d_conv in 1..=4 {
        let whole = ConvCase::random(Tokens::random(6, 3, 12, 2).with_documents(4), 21, d_conv, 6);
        let outputs = whole.forward();
        let mut state = whole.fields["initial_state"].clone();
        let outs: Vec<_> = (0..12)
            .map(|t| {
                let one = whole.time(t..t + 1);
                let mut out = poisoned(3 * 21);
                step(&one.inputs(), &mut state, RowsMut::new("out", &mut out, 21).unwrap()).unwrap();
                one.tokens.to_positions(&out, 21)
            })
            .collect();
        assert_eq!(bits(&join_time(&outs, 3)), bits(&whole.tokens.to_positions(&outputs["out"], 21)));
        assert_eq!(bits(&state), bits(&outputs["last_state"]));
    }
}

#[test]
fn results_have_the_same_bits_on_any_number_of_threads() {
    let case = ConvCase::random(Tokens::random(7, 3, 40, 3).with_documents(7), 300, 4, 7).cast::<f32>();
    let run = |n| with_threads(n, || (all_bits(&case.forward()), all_bits(&case.backward(&grad_out(&case), None))));
    let one = run(1);
    assert!(one == run(2) && one == run(5));
}

#[test]
fn no_position_passes_the_state_through() {
    for (batch, seqlen) in [(2, 0), (0, 3)] {
        let tokens = Tokens { batch, seqlen, n_modalities: 2, ids: vec![], starts: None };
        let case = ConvCase::random(tokens, 3, 4, 8);
        assert_eq!(case.forward()["last_state"], case.fields["initial_state"]);
        let grad_last = Noise::new(1).values(case.state_len(), 0.0, 1.0);
        let grads = case.backward(&[], Some(&grad_last));
        assert_eq!(grads["initial_state"], grad_last);
        assert!(grads["weight"].iter().chain(&grads["bias"]).all(|&x| x == 0.0));
    }
}

#[test]
fn a_nan_in_any_input_comes_out() {
    let clean = ConvCase::random(Tokens::random(9, 1, 6, 2), 70, 4, 9).cast::<f32>();
    let has_nan = |x: &Vec<f32>| x.iter().any(|x| x.is_nan());
    for &name in clean.fields.keys() {
        let mut case = clean.clone();
        case.fields.get_mut(name).unwrap()[69] = f32::NAN;
        assert!(has_nan(&case.forward()["out"]), "{name}, forward");
        assert!(case.backward(&grad_out(&case), None).values().any(has_nan), "{name}, backward");
    }
    let mut g = grad_out(&clean);
    g[69] = f32::NAN;
    let grads = clean.backward(&g, None);
    assert!(["x", "weight", "bias"].iter().all(|name| has_nan(&grads[name])));
}

#[test]
fn what_the_conv_refuses_is_named_and_nothing_is_written() {
    let case = ConvCase::random(Tokens::random(1, 2, 3, 2), 5, 4, 1);
    let refuse = |case: &ConvCase<f64>, lens: [usize; 2], width, message: &str| {
        let [mut out, mut last] = lens.map(|n| vec![7.0; n]);
        let rows = RowsMut::new("out", &mut out, width).unwrap();
        assert_eq!(forward(&case.inputs(), rows, Some(&mut last)).unwrap_err().to_string(), message);
        assert!(out.iter().chain(&last).all(|&x| x == 7.0));
    };
    for (name, less, message) in [
        ("x", 5, "causal_conv1d: x has 5 rows, expected 6"),
        ("weight", 1, "causal_conv1d: weight has 19 elements, expected 15"),
        ("weight", 17, "causal_conv1d: d_conv = 0 is outside 1..=4"),
        ("bias", 1, "causal_conv1d: bias has 4 elements, expected 5"),
        ("initial_state", 1, "causal_conv1d: initial_state has 29 elements, expected 30"),
    ] {
        let mut wrong = case.clone();
        let x = wrong.fields.get_mut(name).unwrap();
        x.truncate(x.len() - less);
        refuse(&wrong, [30, 30], 5, message);
    }
    let wide = ConvCase::random(Tokens::random(1, 2, 3, 2), 5, 5, 1);
    refuse(&wide, [30, 40], 5, "causal_conv1d: d_conv = 5 is outside 1..=4");
    refuse(&case, [25, 30], 5, "causal_conv1d: out has 5 rows, expected 6");
    refuse(&case, [36, 30], 6, "causal_conv1d: out has 6 columns, expected 5");
    refuse(&case, [30, 31], 5, "causal_conv1d: last_state has 31 elements, expected 30");
    let nothing = Rows::new("x", &case.fields["x"], 5).unwrap().columns(0, 0).unwrap();
    let mut inputs = case.inputs();
    inputs.x = nothing;
    let error = forward(&inputs, RowsMut::new("out", &mut [0.0; 30], 5).unwrap(), None);
    assert_eq!(error.unwrap_err().to_string(), "causal_conv1d: d_inner = 0 is outside 1..=4294967295");
}

#[test]
fn what_the_gradients_refuse_is_named_and_nothing_is_written() {
    let case = ConvCase::random(Tokens::random(1, 2, 3, 2), 5, 4, 1);
    let fresh = || -> Fields<f64> { case.fields.iter().map(|(&name, x)| (name, vec![7.0; x.len()])).collect() };
    let refuse =
        |case: &ConvCase<f64>, grad_out: &[f64], last: Option<&[f64]>, mut grads: Fields<f64>, message: &str| {
            let result = case.try_backward(grad_out, last, &mut grads);
            assert_eq!(result.unwrap_err().to_string(), message);
            assert!(grads.values().flatten().all(|&x| x == 7.0));
        };
    let g = [0.0; 30];
    for (name, len, message) in [
        ("x", 25, "causal_conv1d: grad_x has 5 rows, expected 6"),
        ("weight", 21, "causal_conv1d: grad_weight has 21 elements, expected 20"),
        ("bias", 4, "causal_conv1d: grad_bias has 4 elements, expected 5"),
        ("initial_state", 25, "causal_conv1d: grad_initial_state has 25 elements, expected 30"),
    ] {
        let mut grads = fresh();
        grads.insert(name, vec![7.0; len]);
        refuse(&case, &g, None, grads, message);
    }
    refuse(&case, &g[5..], None, fresh(), "causal_conv1d: grad_out has 5 rows, expected 6");
    refuse(&case, &g, Some(&g[1..]), fresh(), "causal_conv1d: grad_last_state has 29 elements, expected 30");
    let mut fewer = fresh();
    fewer.remove("bias");
    refuse(&case, &g, None, fewer, "causal_conv1d: grad_bias is absent, expected present");
    let missing = case.clone().without("bias");
    refuse(&missing, &g, None, fresh(), "causal_conv1d: grad_bias is present, expected absent");
    let missing = case.clone().without("initial_state");
    refuse(&missing, &g, None, fresh(), "causal_conv1d: initial_state is absent, expected present");
}

#[test]
fn a_step_refuses_more_than_one_position_and_an_initial_state() {
    let refuse = |case: &ConvCase<f64>, state_len, out_len, message: &str| {
        let (mut state, mut out) = (vec![7.0; state_len], vec![7.0; out_len]);
        let result = step(&case.inputs(), &mut state, RowsMut::new("out", &mut out, 5).unwrap());
        assert_eq!(result.unwrap_err().to_string(), message);
        assert!(state.iter().chain(&out).all(|&x| x == 7.0));
    };
    let long = ConvCase::random(Tokens::random(1, 2, 3, 2), 5, 4, 1);
    refuse(&long, 30, 30, "causal_conv1d: seqlen = 3 is outside 1..=1");
    let one = ConvCase::random(Tokens::random(1, 2, 1, 2), 5, 4, 1);
    refuse(&one, 30, 10, "causal_conv1d: initial_state is present, expected absent");
    let one = one.without("initial_state");
    refuse(&one, 29, 10, "causal_conv1d: state has 29 elements, expected 30");
    refuse(&one, 30, 15, "causal_conv1d: out has 3 rows, expected 2");
}
