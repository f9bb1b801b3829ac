//! Grouped products: against plain loops and finite differences, and what they must not depend on.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Fields, Noise, assert_close, bits, cast, check_gradients, dot, poisoned, to_f64, with_threads};
use mom_kernels::grouped_gemm::{GroupedGrads, GroupedWeights, Into, backward_input, backward_weights, forward};
use mom_kernels::{Element, ModalityOffsets, Result, Rows, RowsMut};

#[derive(Clone)]
struct Case<T> {
    offsets: ModalityOffsets,
    n_in: usize,
    n_out: usize,
    n_groups: usize,
    /// `x`, `weights` (all groups behind each other), `biases`.
    fields: Fields<T>,
}

impl Case<f64> {
    fn random(counts: &[usize], n_groups: usize, n_in: usize, n_out: usize, seed: u64) -> Self {
        let offsets = ModalityOffsets::from_counts(counts.iter().copied());
        let mut noise = Noise::new(seed);
        let fields = Fields::from([
            ("x", noise.values(offsets.n_rows() * n_in, 0.0, 1.0)),
            ("weights", noise.values(n_groups * n_in * n_out, 0.0, 1.0)),
            ("biases", noise.values(n_groups * n_out, 0.0, 1.0)),
        ]);
        Self { offsets, n_in, n_out, n_groups, fields }
    }

    fn reference(&self) -> Vec<f64> {
        let mut y = Vec::new();
        for row in 0..self.offsets.n_rows() {
            let group = if self.n_groups == 1 { 0 } else { self.offsets.modality_of_row(row) };
            for o in 0..self.n_out {
                let weight = &self.fields["weights"][(group * self.n_out + o) * self.n_in..][..self.n_in];
                let bias = self.fields.get("biases").map_or(0.0, |biases| biases[group * self.n_out + o]);
                y.push(bias + dot(&self.fields["x"][row * self.n_in..][..self.n_in], weight));
            }
        }
        y
    }
}

impl<T: Element> Case<T> {
    fn cast<U: Element>(&self) -> Case<U> {
        let fields = self.fields.iter().map(|(&name, x)| (name, cast(&to_f64(x)))).collect();
        let Self { n_in, n_out, n_groups, .. } = *self;
        Case { offsets: self.offsets.clone(), n_in, n_out, n_groups, fields }
    }

    fn without_biases(mut self) -> Self {
        self.fields.remove("biases");
        self
    }

    fn weights(&self) -> GroupedWeights<'_, T> {
        let weights = self.fields["weights"].chunks_exact(self.n_in * self.n_out).collect();
        let biases = self.fields.get("biases").map(|biases| biases.chunks_exact(self.n_out).collect());
        GroupedWeights::new(self.n_in, self.n_out, weights, biases).unwrap()
    }

    fn x(&self) -> Rows<'_, T> {
        Rows::new("x", &self.fields["x"], self.n_in).unwrap()
    }

    fn forward(&self) -> Vec<T> {
        let mut y = poisoned(self.offsets.n_rows() * self.n_out);
        forward(&self.offsets, self.x(), &self.weights(), RowsMut::new("y", &mut y, self.n_out).unwrap()).unwrap();
        y
    }

    fn backward(&self, grad_y: &[T]) -> Fields<T> {
        let mut grads: Fields<T> = self.fields.iter().map(|(&name, x)| (name, poisoned(x.len()))).collect();
        let grad_rows = Rows::new("grad_y", grad_y, self.n_out).unwrap();
        let grad_x = RowsMut::new("grad_x", grads.get_mut("x").unwrap(), self.n_in).unwrap();
        backward_input(&self.offsets, grad_rows, &self.weights(), grad_x, Into::Overwrite).unwrap();
        self.try_backward_weights(grad_y, &mut grads).unwrap();
        grads
    }

    fn try_backward_weights(&self, grad_y: &[T], grads: &mut Fields<T>) -> Result<()> {
        let mut biases = grads.remove("biases");
        let grad_biases = biases.as_mut().map(|biases| biases.chunks_exact_mut(self.n_out).collect());
        let grad_weights = grads.get_mut("weights").unwrap().chunks_exact_mut(self.n_in * self.n_out).collect();
        let result = backward_weights(
            &self.offsets,
            self.x(),
            Rows::new("grad_y", grad_y, self.n_out).unwrap(),
            &self.weights(),
            GroupedGrads::new(grad_weights).with_grad_biases(grad_biases),
        );
        grads.extend(biases.map(|biases| ("biases", biases)));
        result
    }
}

fn grad_y<T: Element>(case: &Case<T>) -> Vec<T> {
    cast(&Noise::new(31).values(case.offsets.n_rows() * case.n_out, 0.0, 1.0))
}

#[test]
fn every_size_agrees_with_plain_loops() {
    for (n_in, n_out) in [(1, 1), (3, 5), (16, 48), (48, 16), (17, 33), (64, 130)] {
        for counts in [vec![0], vec![1], vec![3, 0, 9], vec![40, 1, 25], vec![0, 0, 300]] {
            for n_groups in [1, counts.len()] {
                let case = Case::random(&counts, n_groups, n_in, n_out, 1);
                let name = format!("{counts:?} in {n_groups} groups, {n_in} -> {n_out}");
                assert_close(&name, &case.forward(), &case.reference(), 1e-13);
                assert_close(&name, &case.cast::<f32>().forward(), &case.reference(), 3e-6);
                let plain = case.without_biases();
                assert_close(&name, &plain.forward(), &plain.reference(), 1e-13);
            }
        }
    }
}

#[test]
fn every_gradient_agrees_with_finite_differences() {
    for (counts, n_groups) in [(vec![4, 0, 7], 3), (vec![4, 3, 7], 1), (vec![1], 1), (vec![300, 2], 2)] {
        let case = Case::random(&counts, n_groups, 5, 3, 2);
        let grad_y = grad_y(&case);
        let loss = |fields: &Fields<f64>| {
            dot(&Case { fields: fields.clone(), offsets: case.offsets.clone(), ..case }.reference(), &grad_y)
        };
        let grads = case.backward(&grad_y);
        check_gradients(&case.fields, &grads, loss);
        common::assert_all_close(&case.cast::<f32>().backward(&cast(&grad_y)), &grads, 3e-6);
        let plain = case.clone().without_biases();
        common::assert_all_close(&plain.backward(&grad_y), &to_plain(&grads), 0.0);
    }
}

fn to_plain(grads: &Fields<f64>) -> Fields<f64> {
    grads.iter().filter(|(name, _)| **name != "biases").map(|(&name, x)| (name, x.clone())).collect()
}

#[test]
fn a_gradient_can_be_added_to_what_is_there() {
    let case = Case::random(&[6, 0, 3], 3, 7, 4, 3);
    let grad_y = grad_y(&case);
    let before = Noise::new(1).values(9 * 7, 0.0, 1.0);
    let mut sum = before.clone();
    let rows = Rows::new("grad_y", &grad_y, 4).unwrap();
    let to = RowsMut::new("grad_x", &mut sum, 7).unwrap();
    backward_input(&case.offsets, rows, &case.weights(), to, Into::Add).unwrap();
    let alone = case.backward(&grad_y);
    let want: Vec<f64> = before.iter().zip(&alone["x"]).map(|(a, b)| a + b).collect();
    assert_close("sum", &sum, &want, 1e-14);
}

#[test]
fn columns_of_wider_rows_are_read_and_written_in_place() {
    let case = Case::random(&[5, 8], 2, 6, 4, 4).without_biases();
    let wide_x: Vec<f64> = case.fields["x"].chunks_exact(6).flat_map(|x| [&[9.0; 3], x, &[9.0; 2]].concat()).collect();
    let x = Rows::new("wide", &wide_x, 11).unwrap().columns(3, 6).unwrap();
    let mut wide_y = vec![7.0; 13 * 10];
    let (_left, right) = RowsMut::new("wide", &mut wide_y, 10).unwrap().split_columns(2).unwrap();
    let (middle, _right) = right.split_columns(4).unwrap();
    forward(&case.offsets, x, &case.weights(), middle).unwrap();
    let want = case.forward();
    for (row, want) in wide_y.chunks_exact(10).zip(want.chunks_exact(4)) {
        assert_eq!(row[2..6], *want);
        assert!(row[..2].iter().chain(&row[6..]).all(|&x| x == 7.0));
    }
}

#[test]
fn an_absent_modality_has_gradient_zero_and_breaks_nothing() {
    let mut case = Case::random(&[6, 0, 9], 3, 8, 5, 5);
    case.fields.get_mut("weights").unwrap()[40..80].fill(f64::NAN);
    case.fields.get_mut("biases").unwrap()[5..10].fill(f64::NAN);
    let grads = case.backward(&grad_y(&case));
    assert!(case.forward().iter().chain(&grads["x"]).all(|x| x.is_finite()));
    assert!(grads["weights"][40..80].iter().chain(&grads["biases"][5..10]).all(|&x| x == 0.0));
    assert!(grads["weights"][..40].iter().chain(&grads["weights"][80..]).all(|&x| x != 0.0 && x.is_finite()));
}

#[test]
fn results_have_the_same_bits_on_any_number_of_threads() {
    fn check<T: Element>(case: &Case<T>) {
        let run = |n| {
            with_threads(n, || {
                let grads = case.backward(&grad_y(case));
                (bits(&case.forward()), common::all_bits(&grads))
            })
        };
        let one = run(1);
        for n_threads in [2, 3, 4] {
            assert!(one == run(n_threads), "{n_threads} threads, {} -> {}", case.n_in, case.n_out);
        }
    }
    for (n_in, n_out) in [(256, 512), (512, 48), (16, 512), (512, 256)] {
        let case = Case::random(&[700, 33, 520], 3, n_in, n_out, 6);
        check(&case.cast::<f32>());
        check(&case);
    }
}

#[test]
fn a_nan_comes_out() {
    let clean = Case::random(&[6, 9], 2, 20, 18, 7).cast::<f32>();
    for &name in clean.fields.keys() {
        let mut case = clean.clone();
        *case.fields.get_mut(name).unwrap().last_mut().unwrap() = f32::NAN;
        assert!(case.forward().iter().any(|x| x.is_nan()), "{name}");
    }
    let mut g = grad_y(&clean);
    *g.last_mut().unwrap() = f32::NAN;
    let grads = clean.backward(&g);
    assert!(grads.values().all(|x| x.iter().any(|x| x.is_nan())));
}

#[test]
fn what_weights_refuse_is_named() {
    let w = [0.0f64; 6];
    let error =
        |n_in, n_out, weights, biases| GroupedWeights::new(n_in, n_out, weights, biases).unwrap_err().to_string();
    assert_eq!(error(2, 3, vec![], None), "grouped_gemm: weights = 0 is outside 1..=256");
    assert_eq!(error(2, 3, vec![&w[..]; 257], None), "grouped_gemm: weights = 257 is outside 1..=256");
    assert_eq!(error(0, 3, vec![&w], None), "grouped_gemm: in_features = 0 is outside 1..=4294967295");
    assert_eq!(error(2, 0, vec![&w], None), "grouped_gemm: out_features = 0 is outside 1..=4294967295");
    assert_eq!(error(2, 3, vec![&w, &w[1..]], None), "grouped_gemm: weight has 5 elements, expected 6");
    assert_eq!(error(2, 3, vec![&w, &w], Some(vec![&w[..3]])), "grouped_gemm: biases has 1 groups, expected 2");
    assert_eq!(error(2, 3, vec![&w], Some(vec![&w[..2]])), "grouped_gemm: bias has 2 elements, expected 3");
}

#[test]
fn what_the_products_refuse_is_named_and_nothing_is_written() {
    let case = Case::random(&[2, 3], 2, 4, 3, 8);
    let long = [0.0; 100];
    let rows = |len, width| Rows::new("rows", &long[..len], width).unwrap();
    let other = ModalityOffsets::from_counts([2, 1, 2]);
    let refuse = |result: Result<()>, out: &[f64], message: &str| {
        assert_eq!(result.unwrap_err().to_string(), message);
        assert!(out.iter().all(|&x| x == 7.0));
    };
    for (offsets, x, y_len, y_width, message) in [
        (&other, rows(20, 4), 15, 3, "grouped_gemm: weights has 2 groups, expected 3"),
        (&case.offsets, rows(16, 4), 15, 3, "grouped_gemm: x has 4 rows, expected 5"),
        (&case.offsets, rows(25, 5), 15, 3, "grouped_gemm: x has 5 columns, expected 4"),
        (&case.offsets, rows(20, 4), 12, 3, "grouped_gemm: y has 4 rows, expected 5"),
        (&case.offsets, rows(20, 4), 20, 4, "grouped_gemm: y has 4 columns, expected 3"),
    ] {
        let mut y = vec![7.0; y_len];
        let result = forward(offsets, x, &case.weights(), RowsMut::new("y", &mut y, y_width).unwrap());
        refuse(result, &y, message);
    }
    for (offsets, grad_y, len, width, message) in [
        (&other, rows(15, 3), 20, 4, "grouped_gemm: weights has 2 groups, expected 3"),
        (&case.offsets, rows(12, 3), 20, 4, "grouped_gemm: grad_y has 4 rows, expected 5"),
        (&case.offsets, rows(20, 4), 20, 4, "grouped_gemm: grad_y has 4 columns, expected 3"),
        (&case.offsets, rows(15, 3), 16, 4, "grouped_gemm: grad_x has 4 rows, expected 5"),
        (&case.offsets, rows(15, 3), 25, 5, "grouped_gemm: grad_x has 5 columns, expected 4"),
    ] {
        let mut grad_x = vec![7.0; len];
        let to = RowsMut::new("grad_x", &mut grad_x, width).unwrap();
        let result = backward_input(offsets, grad_y, &case.weights(), to, Into::Overwrite);
        refuse(result, &grad_x, message);
    }
}

#[test]
fn what_the_weight_gradients_refuse_is_named_and_nothing_is_written() {
    let case = Case::random(&[2, 3], 2, 4, 3, 9);
    let fresh = || -> Fields<f64> { case.fields.iter().map(|(&name, x)| (name, vec![7.0; x.len()])).collect() };
    let refuse = |case: &Case<f64>, grad_y: &[f64], mut grads: Fields<f64>, message: &str| {
        let result = case.try_backward_weights(grad_y, &mut grads);
        assert_eq!(result.unwrap_err().to_string(), message);
        assert!(grads.values().flatten().all(|&x| x == 7.0));
    };
    let g = [0.0; 15];
    refuse(&case, &g[3..], fresh(), "grouped_gemm: grad_y has 4 rows, expected 5");
    let mut fewer = fresh();
    fewer.get_mut("weights").unwrap().truncate(12);
    refuse(&case, &g, fewer, "grouped_gemm: grad_weights has 1 groups, expected 2");
    let mut fewer = fresh();
    fewer.get_mut("biases").unwrap().truncate(3);
    refuse(&case, &g, fewer, "grouped_gemm: grad_biases has 1 groups, expected 2");
    let mut fewer = fresh();
    fewer.remove("biases");
    refuse(&case, &g, fewer, "grouped_gemm: grad_biases is absent, expected present");
    let plain = case.clone().without_biases();
    refuse(&plain, &g, fresh(), "grouped_gemm: grad_biases is present, expected absent");
    let (mut weight, mut bias) = ([7.0; 11], [7.0; 3]);
    let grads = GroupedGrads::new(vec![&mut weight]).with_grad_biases(vec![&mut bias[..]]);
    let one = Case::random(&[5], 1, 4, 3, 9);
    let rows = Rows::new("grad_y", &g, 3).unwrap();
    let result = backward_weights(&one.offsets, one.x(), rows, &one.weights(), grads);
    assert_eq!(result.unwrap_err().to_string(), "grouped_gemm: grad_weight has 11 elements, expected 12");
    let (mut weight, mut bias) = ([7.0; 12], [7.0; 2]);
    let grads = GroupedGrads::new(vec![&mut weight]).with_grad_biases(vec![&mut bias[..]]);
    let result = backward_weights(&one.offsets, one.x(), rows, &one.weights(), grads);
    assert_eq!(result.unwrap_err().to_string(), "grouped_gemm: grad_bias has 2 elements, expected 3");
    assert!(weight.iter().chain(&bias).all(|&x| x == 7.0));
}
