//! The vector functions against the standard library's in f64, over the whole range, and at its ends.
#![allow(clippy::unwrap_used)]

mod common;

use mom_kernels::Element;
use mom_kernels::simd::{Function, apply, instruction_set};

const FUNCTIONS: [Function; 4] = [Function::Exp, Function::Exp2, Function::Sigmoid, Function::Softplus];

fn exact(function: Function, x: f64) -> f64 {
    match function {
        Function::Exp => x.exp(),
        Function::Exp2 => x.exp2(),
        Function::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Function::Softplus => x.max(0.0) + (-x.abs()).exp().ln_1p(),
    }
}

/// Largest relative error over evenly spaced points, and over points that thin out towards zero.
fn worst<T: Element>(function: Function, min: f64, max: f64) -> f64 {
    const N: usize = 400_000;
    let even = (0..=N).map(|i| min + (max - min) * i as f64 / N as f64);
    let small = (0..=N).map(|i| (-40.0 * i as f64 / N as f64).exp2());
    let points: Vec<T> = even.chain(small.clone()).chain(small.map(|x| -x)).map(T::from_f64).collect();
    let mut values = points.clone();
    apply(function, &mut values);
    let error = |(x, y): (&T, &T)| {
        let want = exact(function, x.to_f64());
        assert!(y.to_f64().is_finite(), "{function:?}({x}) = {y}");
        ((y.to_f64() - want) / want).abs()
    };
    points.iter().zip(&values).map(error).fold(0.0, f64::max)
}

#[test]
fn f32_errors_are_as_stated() {
    for (function, min, max, stated) in [
        (Function::Exp, -87.0, 88.0, 3e-7),
        (Function::Exp2, -126.0, 127.4, 3e-7),
        (Function::Sigmoid, -87.0, 100.0, 5e-7),
        (Function::Softplus, -87.0, 100.0, 5e-7),
    ] {
        let error = worst::<f32>(function, min, max);
        println!("{function:?} f32 ({}): {error:.2e}", instruction_set());
        assert!(error <= stated, "{function:?}: {error:e} above {stated:e}");
    }
}

#[test]
fn f64_errors_are_as_stated() {
    for (function, min, max, stated) in [
        (Function::Exp, -708.0, 709.0, 1e-15),
        (Function::Exp2, -1022.0, 1023.4, 1e-15),
        (Function::Sigmoid, -708.0, 800.0, 3e-15),
        (Function::Softplus, -708.0, 800.0, 3e-15),
    ] {
        let error = worst::<f64>(function, min, max);
        println!("{function:?} f64 ({}): {error:.2e}", instruction_set());
        assert!(error <= stated, "{function:?}: {error:e} above {stated:e}");
    }
}

/// At every place of a vector, and of the rest behind the last whole one.
fn at_every_place<T: Element>(function: Function, x: f64, check: impl Fn(f64)) {
    for place in 0..37 {
        let mut values = vec![T::ZERO; 37];
        values[place] = T::from_f64(x);
        apply(function, &mut values);
        check(values[place].to_f64());
        let zero = exact(function, 0.0);
        let untouched = |(i, y): (usize, &T)| i == place || (y.to_f64() - zero).abs() < 1e-6;
        assert!(values.iter().enumerate().all(untouched), "{function:?} at {place}: a neighbour changed");
    }
}

#[test]
fn nan_goes_in_and_comes_out() {
    for function in FUNCTIONS {
        for nan in [f64::NAN, -f64::NAN] {
            at_every_place::<f32>(function, nan, |y| assert!(y.is_nan(), "{function:?}"));
            at_every_place::<f64>(function, nan, |y| assert!(y.is_nan(), "{function:?}"));
        }
    }
}

#[test]
fn infinities_end_where_the_functions_saturate() {
    fn check<T: Element>(smallest: f64, largest: f64) {
        let small = |y: f64| assert!((0.0..=smallest).contains(&y), "{y:e}");
        at_every_place::<T>(Function::Exp, f64::NEG_INFINITY, small);
        at_every_place::<T>(Function::Exp2, f64::NEG_INFINITY, small);
        at_every_place::<T>(Function::Sigmoid, f64::NEG_INFINITY, small);
        at_every_place::<T>(Function::Softplus, f64::NEG_INFINITY, small);
        let large = |y: f64| assert!(y >= largest && y.is_finite(), "{y:e}");
        at_every_place::<T>(Function::Exp, f64::INFINITY, large);
        at_every_place::<T>(Function::Exp2, f64::INFINITY, large);
        at_every_place::<T>(Function::Sigmoid, f64::INFINITY, |y| assert_eq!(y, 1.0));
        at_every_place::<T>(Function::Softplus, f64::INFINITY, |y| assert_eq!(y, f64::INFINITY));
    }
    check::<f32>(1.2e-38, 2.3e38);
    check::<f64>(2.3e-308, 1.2e308);
}

#[test]
fn one_is_exact() {
    for zero in [0.0, -0.0] {
        at_every_place::<f32>(Function::Exp2, zero, |y| assert_eq!(y, 1.0));
        at_every_place::<f64>(Function::Exp2, zero, |y| assert_eq!(y, 1.0));
        at_every_place::<f32>(Function::Exp, zero, |y| assert_eq!(y, 1.0));
        at_every_place::<f64>(Function::Exp, zero, |y| assert_eq!(y, 1.0));
    }
}
