//! RMS norm: against the equation and finite differences, and what it refuses.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Fields, Noise, assert_close, bits, cast, check_gradients, dot, poisoned, with_threads};
use mom_kernels::rms_norm::{backward, forward};
use mom_kernels::{Element, Rows, RowsMut};

const EPS: f64 = 1e-5;

fn reference(x: &[f64], weight: &[f64]) -> Vec<f64> {
    x.chunks_exact(weight.len())
        .flat_map(|row| {
            let r = (row.iter().map(|x| x * x).sum::<f64>() / row.len() as f64 + EPS).sqrt().recip();
            row.iter().zip(weight).map(move |(x, w)| x * r * w).collect::<Vec<_>>()
        })
        .collect()
}

fn run<T: Element>(x: &[T], weight: &[T]) -> Vec<T> {
    let mut y = poisoned(x.len());
    let width = weight.len();
    forward(Rows::new("x", x, width).unwrap(), weight, EPS, RowsMut::new("y", &mut y, width).unwrap()).unwrap();
    y
}

fn run_backward<T: Element>(x: &[T], weight: &[T], grad_y: &[T]) -> Fields<T> {
    let width = weight.len();
    let (mut grad_x, mut grad_weight) = (poisoned(x.len()), poisoned(width));
    let rows = |name, x| Rows::new(name, x, width).unwrap();
    let to = RowsMut::new("grad_x", &mut grad_x, width).unwrap();
    backward(rows("x", x), weight, EPS, rows("grad_y", grad_y), to, &mut grad_weight).unwrap();
    Fields::from([("x", grad_x), ("weight", grad_weight)])
}

#[test]
fn every_width_agrees_with_the_equation() {
    for width in [1, 2, 7, 8, 9, 15, 16, 17, 100, 257] {
        for n_rows in [1, 63, 64, 65, 200] {
            let mut noise = Noise::new(width as u64);
            let (x, weight) = (noise.values(n_rows * width, 0.1, 2.0), noise.values(width, 1.0, 0.5));
            let want = reference(&x, &weight);
            assert_close(&format!("{n_rows} x {width}"), &run(&x, &weight), &want, 1e-14);
            assert_close("f32", &run::<f32>(&cast(&x), &cast(&weight)), &want, 1e-6);
        }
    }
}

#[test]
fn both_gradients_agree_with_finite_differences() {
    for (n_rows, width) in [(1, 1), (3, 5), (70, 9), (2, 33)] {
        let mut noise = Noise::new(2);
        let fields =
            Fields::from([("x", noise.values(n_rows * width, 0.1, 1.0)), ("weight", noise.values(width, 1.0, 0.5))]);
        let grad_y = noise.values(n_rows * width, 0.0, 1.0);
        let grads = run_backward(&fields["x"], &fields["weight"], &grad_y);
        if width == 1 {
            // y = sign(x) w: the gradient of x is next to nothing, and no difference can show it.
            assert_close("weight", &grads["weight"], &[grad_y[0] * fields["x"][0].signum()], 1e-3);
            continue;
        }
        check_gradients(&fields, &grads, |f| dot(&reference(&f["x"], &f["weight"]), &grad_y));
        let single = run_backward::<f32>(&cast(&fields["x"]), &cast(&fields["weight"]), &cast(&grad_y));
        common::assert_all_close(&single, &grads, 2e-6);
    }
}

#[test]
fn results_have_the_same_bits_on_any_number_of_threads() {
    let mut noise = Noise::new(3);
    let x: Vec<f32> = cast(&noise.values(300 * 50, 0.0, 1.0));
    let weight: Vec<f32> = cast(&noise.values(50, 1.0, 0.5));
    let run = |n| {
        with_threads(n, || {
            let grads = run_backward(&x, &weight, &x);
            [bits(&run(&x, &weight)), bits(&grads["x"]), bits(&grads["weight"])]
        })
    };
    let one = run(1);
    assert!(one == run(2) && one == run(7));
}

#[test]
fn no_rows_give_a_zero_gradient_and_a_row_of_zeros_is_finite() {
    assert!(run_backward::<f64>(&[], &[1.0; 3], &[])["weight"].iter().all(|&x| x == 0.0));
    let grads = run_backward(&[0.0; 5], &[2.0; 5], &[1.0; 5]);
    assert_close("x", &grads["x"], &[2.0 / EPS.sqrt(); 5], 1e-12);
    assert_eq!(run(&[0.0; 5], &[2.0; 5]), [0.0; 5]);
}

#[test]
fn a_nan_breaks_its_row_alone() {
    for at in [0, 16, 18] {
        let mut x = vec![1.0f32; 3 * 19];
        x[19 + at] = f32::NAN;
        let y = run(&x, &[1.0; 19]);
        assert!(y[19..38].iter().all(|x| x.is_nan()));
        assert!(y[..19].iter().chain(&y[38..]).all(|x| x.is_finite()));
        let grads = run_backward(&x, &[1.0; 19], &[1.0; 57]);
        assert!(grads["x"][19..38].iter().chain(&grads["weight"]).all(|x| x.is_nan()));
        assert!(grads["x"][..19].iter().all(|x| x.is_finite()));
    }
}

#[test]
fn what_the_norm_refuses_is_named_and_nothing_is_written() {
    let x = [1.0f64; 12];
    let rows = Rows::new("x", &x, 4).unwrap();
    let forward_error = |x, weight: &[f64], len, width| {
        let mut y = vec![7.0; len];
        let error = forward(x, weight, EPS, RowsMut::new("y", &mut y, width).unwrap()).unwrap_err();
        assert!(y.iter().all(|&y| y == 7.0));
        error.to_string()
    };
    assert_eq!(forward_error(rows, &[1.0; 3], 12, 4), "rms_norm: weight has 3 elements, expected 4");
    assert_eq!(forward_error(rows, &[1.0; 4], 8, 4), "rms_norm: y has 2 rows, expected 3");
    assert_eq!(forward_error(rows, &[1.0; 4], 15, 5), "rms_norm: y has 5 columns, expected 4");
    let nothing = rows.columns(0, 0).unwrap();
    assert_eq!(forward_error(nothing, &[], 12, 4), "rms_norm: d_model = 0 is outside 1..=4294967295");
    let backward_error = |weight: &[f64], grad_y_len: usize, grad_x_len, grad_weight_len| {
        let (mut grad_x, mut grad_weight) = (vec![7.0; grad_x_len], vec![7.0; grad_weight_len]);
        let grad_y = Rows::new("grad_y", &x[..grad_y_len], 4).unwrap();
        let to = RowsMut::new("grad_x", &mut grad_x, 4).unwrap();
        let error = backward(rows, weight, EPS, grad_y, to, &mut grad_weight).unwrap_err();
        assert!(grad_x.iter().chain(&grad_weight).all(|&x| x == 7.0));
        error.to_string()
    };
    let ones = [1.0; 4];
    assert_eq!(backward_error(&ones[1..], 12, 12, 4), "rms_norm: weight has 3 elements, expected 4");
    assert_eq!(backward_error(&ones, 8, 12, 4), "rms_norm: grad_y has 2 rows, expected 3");
    assert_eq!(backward_error(&ones, 12, 8, 4), "rms_norm: grad_x has 2 rows, expected 3");
    assert_eq!(backward_error(&ones, 12, 12, 5), "rms_norm: grad_weight has 5 elements, expected 4");
}
