//! The two operations: by slices, by candle's operations and by a GPU's kernels, and finite differences.

#[cfg(feature = "cuda")]
use std::io::Write as _;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};

use super::taps::Taps;
#[cfg(feature = "cuda")]
use super::way::Way;
use super::{convolve, norm};
use crate::Result;

fn var(shape: &[usize], key: f64) -> Var {
    let n = shape.iter().product::<usize>();
    let values: Vec<f64> = (0..n).map(|i| (0.7 * i as f64 + key).sin() + 0.1 * key).collect();
    Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap()
}

fn flat(tensor: &Tensor) -> Vec<f64> {
    tensor.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

fn largest_difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// An operation over its inputs.
type Path<'a> = &'a dyn Fn(&[Tensor]) -> Result<Tensor>;

/// Whether two ways agree in value and all gradients, and the first one with finite differences.
fn agree(inputs: &[Var], ways: [Path<'_>; 2]) {
    let tensors = || inputs.iter().map(|input| input.as_tensor().clone()).collect::<Vec<_>>();
    let loss = |way: &dyn Fn(&[Tensor]) -> Result<Tensor>| {
        let y = way(&tensors()).unwrap();
        let weight = var(y.dims(), 2.0);
        (y.clone(), (y * weight.as_tensor()).unwrap().sum_all().unwrap())
    };
    let ((a, loss_a), (b, loss_b)) = (loss(ways[0]), loss(ways[1]));
    assert!(largest_difference(&flat(&a), &flat(&b)) < 1e-12);
    let (of_a, of_b) = (loss_a.backward().unwrap(), loss_b.backward().unwrap());
    for (which, input) in inputs.iter().enumerate() {
        let gradient = flat(of_a.get(input).unwrap());
        let difference = largest_difference(&gradient, &flat(of_b.get(input).unwrap()));
        assert!(difference < 1e-11, "gradient {which}: {difference}");
        let start = flat(input);
        for i in (0..start.len()).step_by(start.len().div_ceil(12)) {
            let at = |value: f64| {
                let mut moved = start.clone();
                moved[i] = value;
                input.set(&Tensor::from_vec(moved, input.shape(), &Device::Cpu).unwrap()).unwrap();
                flat(&loss(ways[0]).1)[0]
            };
            let difference = (at(start[i] + 1e-5) - at(start[i] - 1e-5)) / 2e-5;
            at(start[i]);
            let error = (gradient[i] - difference).abs();
            assert!(error < 1e-7 + 1e-7 * difference.abs(), "input {which}[{i}]: {} {difference}", gradient[i]);
        }
    }
}

#[test]
fn convolutions_agree_and_meet_finite_differences() {
    for taps in [Taps::same(3, &Device::Cpu), Taps::halving(2, &Device::Cpu), Taps::doubling(2, &Device::Cpu)] {
        let taps = Arc::new(taps.unwrap());
        for n_biases in [1, 2] {
            let inputs = [var(&[2, taps.n_in, 3], 0.0), var(&[5, 3, 3, 3], 1.0), var(&[n_biases, 5], 3.0)];
            agree(
                &inputs,
                [&|x| convolve::convolve(&x[0], &x[1], &x[2], &taps), &|x| {
                    convolve::by_operations(&x[0], &x[1], &x[2], &taps)
                }],
            );
        }
    }
}

/// More neighbourhoods than exist at a time, so that gradients are sums over several chunks.
#[test]
fn many_pictures_are_the_same_as_each_alone() {
    let taps = Arc::new(Taps::same(32, &Device::Cpu).unwrap());
    let (x, weight, bias) = (var(&[33, 1024, 8], 0.0), var(&[4, 3, 3, 8], 1.0), var(&[33, 4], 3.0));
    let run = |x: &Tensor, bias: &Tensor| {
        let y = convolve::convolve(x, &weight, bias, &taps).unwrap();
        let of_y = var(&[1, 1024, 4], 2.0);
        let loss = y.broadcast_mul(&of_y).unwrap().sum_all().unwrap();
        (flat(&y), flat(loss.backward().unwrap().get(&weight).unwrap()))
    };
    let (all, gradient) = run(&x, &bias);
    let mut sum = vec![0.0; gradient.len()];
    for picture in 0..33 {
        let (y, part) = run(&x.narrow(0, picture, 1).unwrap(), &bias.narrow(0, picture, 1).unwrap());
        assert_eq!(y, all[picture * 4096..(picture + 1) * 4096]);
        sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
    }
    assert!(largest_difference(&gradient, &sum) < 1e-9);
}

#[test]
fn norms_agree_and_meet_finite_differences() {
    for (channels, n_groups) in [(6, 3), (4, 1), (4, 4)] {
        let inputs = [var(&[2, 5, channels], 0.0), var(&[channels], 1.0), var(&[channels], 3.0)];
        agree(
            &inputs,
            [&|x| norm::group_norm_silu(&x[0], &x[1], &x[2], n_groups), &|x| {
                norm::by_operations(&x[0], &x[1], &x[2], n_groups)
            }],
        );
    }
}

/// By candle's operations: weights and activations in 16 bits, norms in 32.
#[test]
fn sixteen_bits_lose_no_more_than_they_must() {
    let taps = Arc::new(Taps::same(4, &Device::Cpu).unwrap());
    let narrow =
        |of: &Var, dtype| Var::from_tensor(&of.to_dtype(DType::BF16).unwrap().to_dtype(dtype).unwrap()).unwrap();
    let (x, w, b) = (var(&[2, 16, 8], 0.0), var(&[8, 3, 3, 8], 1.0), var(&[2, 8], 3.0));
    let (norm_w, norm_b) = (var(&[8], 1.0), var(&[8], 2.0));
    let run = |dtype: DType| {
        let [x, w, b] = [&x, &w, &b].map(|of| narrow(of, dtype));
        let wide = if dtype == DType::BF16 { DType::F32 } else { dtype };
        let [norm_w, norm_b] = [&norm_w, &norm_b].map(|of| narrow(of, wide));
        let h = norm::by_operations(&x, &norm_w, &norm_b, 2).unwrap();
        let y = convolve::by_operations(&h, &w, &b, &taps).unwrap();
        assert_eq!(y.dtype(), dtype);
        let of_y = var(&[2, 16, 8], 2.0).to_dtype(dtype).unwrap();
        let gradients = (&y * of_y).unwrap().sum_all().unwrap().backward().unwrap();
        let all = [x, w, b, norm_w, norm_b].map(|of| flat(gradients.get(&of).unwrap()));
        (flat(&y), all)
    };
    let ((y, all), (want, of_want)) = (run(DType::BF16), run(DType::F64));
    let size = |of: &[f64]| of.iter().map(|x| x * x).sum::<f64>().sqrt();
    let off = |a: &[f64], b: &[f64]| size(&a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<_>>()) / size(b);
    assert!(off(&y, &want) < 1e-2, "{}", off(&y, &want));
    for (i, (a, b)) in all.iter().zip(&of_want).enumerate() {
        assert!(off(a, b) < 2e-2, "gradient {i}: {}", off(a, b));
    }
}

/// The GPU, where there is one; else says so on stderr.
#[cfg(feature = "cuda")]
#[allow(clippy::explicit_write, reason = "`eprintln` is captured")]
fn gpu(test: &str) -> Option<Device> {
    let device = mom_core::cuda_device(0);
    if let Err(error) = &device {
        // Past the capture of a test's output.
        writeln!(std::io::stderr(), "SKIPPED {test}: {error}").unwrap();
        assert!(std::env::var_os("MOM_REQUIRE_GPU").is_none(), "MOM_REQUIRE_GPU is set, but {error}");
    }
    device.ok()
}

/// On a GPU the kernels give what f64 on the CPU gives: value and all gradients.
#[cfg(feature = "cuda")]
#[test]
fn kernels_agree_with_f64() {
    let Some(device) = gpu("kernels_agree_with_f64") else { return };
    let size = |of: &[f64]| of.iter().map(|x| x * x).sum::<f64>().sqrt();
    let off = |a: &[f64], b: &[f64]| size(&a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<_>>()) / size(b);
    // Value and gradients, with inputs as `dtype` has them; the last `n_wide` are never below f32.
    let run = |inputs: &[Var], n_wide: usize, (dtype, device): (DType, &Device), way: Path<'_>| {
        let wide = if dtype == DType::BF16 { DType::F32 } else { dtype };
        let inputs: Vec<Var> = (inputs.iter().enumerate())
            .map(|(i, input)| {
                let (narrow, of) = if i + n_wide < inputs.len() { (DType::BF16, dtype) } else { (DType::F32, wide) };
                let input = input.to_dtype(narrow).unwrap().to_dtype(of).unwrap();
                Var::from_tensor(&input.to_device(device).unwrap()).unwrap()
            })
            .collect();
        let y = way(&inputs.iter().map(|input| input.as_tensor().clone()).collect::<Vec<_>>()).unwrap();
        let of_y = var(y.dims(), 2.0).to_dtype(DType::BF16).unwrap().to_dtype(dtype).unwrap();
        let loss = (&y * of_y.to_device(device).unwrap()).unwrap().sum_all().unwrap();
        let gradients = loss.backward().unwrap();
        let all: Vec<Vec<f64>> = inputs.iter().map(|of| flat(gradients.get(of).unwrap())).collect();
        [vec![flat(&y)], all].concat()
    };
    for (dtype, channels, takes) in
        [(DType::BF16, 16, true), (DType::BF16, 192, true), (DType::BF16, 12, false), (DType::F32, 12, true)]
    {
        let x = Tensor::zeros((1, 4, channels), dtype, &device).unwrap();
        let of_channels = Tensor::zeros(channels, DType::F32, &device).unwrap();
        assert_eq!(super::gpu::norm(&of_channels, &of_channels, 1, 1e-5).takes(&x), takes, "{dtype:?}, {channels}");
        assert_eq!(Way::of(&x, true), Way::Kernels);
    }
    let cases = [(16, 24, 4), (12, 16, 6), (8, 3, 5), (192, 96, 16)];
    for (dtype, limit) in [(DType::F32, 2e-5), (DType::BF16, 1e-2)] {
        for (n_in, n_out, side) in cases {
            for which in 0..3 {
                let taps = |device: &Device| {
                    let of = [Taps::same, Taps::halving, Taps::doubling][which];
                    Arc::new(of(side, device).unwrap())
                };
                let (here, there) = (taps(&Device::Cpu), taps(&device));
                for n_biases in [1, 3] {
                    let inputs =
                        [var(&[3, here.n_in, n_in], 0.0), var(&[n_out, 3, 3, n_in], 1.0), var(&[n_biases, n_out], 3.0)];
                    let want = run(&inputs, 0, (DType::F64, &Device::Cpu), &|x| {
                        convolve::convolve(&x[0], &x[1], &x[2], &here)
                    });
                    let got = run(&inputs, 0, (dtype, &device), &|x| convolve::convolve(&x[0], &x[1], &x[2], &there));
                    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                        let off = off(got, want);
                        assert!(
                            off < limit,
                            "{dtype:?}, {n_in} to {n_out}, {side}, taps {which}, {n_biases} biases, {i}: {off:e}"
                        );
                    }
                }
            }
        }
        for (channels, n_groups) in [(16, 4), (192, 32), (12, 3)] {
            let inputs = [var(&[3, 64, channels], 0.0), var(&[channels], 1.0), var(&[channels], 3.0)];
            let way: Path<'_> = &|x| norm::group_norm_silu(&x[0], &x[1], &x[2], n_groups);
            let (want, got) =
                (run(&inputs, 2, (DType::F64, &Device::Cpu), way), run(&inputs, 2, (dtype, &device), way));
            for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                assert!(off(got, want) < limit, "{dtype:?}, norm of {channels}, {i}: {:e}", off(got, want));
            }
        }
    }
}

/// More windows than exist at a time: sums of parts are those of one.
#[cfg(feature = "cuda")]
#[test]
fn parts_of_windows_sum_to_the_whole_on_a_gpu() {
    let Some(device) = gpu("parts_of_windows_sum_to_the_whole_on_a_gpu") else { return };
    // 36,864 windows of 4608 elements, in bf16 340 MB.
    let (taps, n) = (Arc::new(Taps::same(64, &device).unwrap()), 9);
    let of = |shape: &[usize], key| var(shape, key).to_dtype(DType::BF16).unwrap().to_device(&device).unwrap();
    let (x, bias) = (of(&[n, 4096, 512], 0.0), of(&[1, 8], 3.0));
    let weight = Var::from_tensor(&of(&[8, 3, 3, 512], 1.0)).unwrap();
    let of_y = of(&[n, 4096, 8], 2.0);
    let run = |first: usize, n: usize| {
        let y = convolve::convolve(&x.narrow(0, first, n).unwrap(), &weight, &bias, &taps).unwrap();
        let loss = (&y * of_y.narrow(0, first, n).unwrap()).unwrap().to_dtype(DType::F32).unwrap().sum_all().unwrap();
        (flat(&y), flat(loss.backward().unwrap().get(&weight).unwrap()))
    };
    let (all, gradient) = run(0, n);
    let mut sum = vec![0.0; gradient.len()];
    for picture in 0..n {
        let (y, part) = run(picture, 1);
        assert_eq!(y, all[picture * 4096 * 8..(picture + 1) * 4096 * 8]);
        sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
    }
    let size = |of: &[f64]| of.iter().map(|x| x * x).sum::<f64>().sqrt();
    let difference: Vec<f64> = gradient.iter().zip(&sum).map(|(a, b)| a - b).collect();
    assert!(size(&difference) < 1e-2 * size(&sum), "{:e}", size(&difference) / size(&sum));
}
