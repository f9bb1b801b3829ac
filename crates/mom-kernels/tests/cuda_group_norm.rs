//! Group norm against f64, also where a mean is many times the deviation.
#![allow(clippy::unwrap_used)]

mod cuda_support;

use cuda_support::*;
use mom_kernels::cuda::group_norm::{
    Activation, GroupNorm, backward, backward_workspace_len, group_norm, layer_norm, takes, workspace_len,
};
use mom_kernels::cuda::half::bf16;
use mom_kernels::cuda::{DeviceElement, DeviceRows, DeviceRowsMut, Gpu};

/// The error function, by its series; from 4 on it is 1 within 2e-8.
fn erf(x: f64) -> f64 {
    if x.abs() > 4.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

struct Case {
    batch: usize,
    n_rows: usize,
    n_channels: usize,
    n_groups: usize,
    mean: f64,
    activation: Activation,
}

fn check<T: TestElement + DeviceElement>(gpu: &Gpu, case: &Case, limit: f64) {
    let &Case { batch, n_rows, n_channels, n_groups, mean, activation } = case;
    let mut random = Random(3);
    let len = batch * n_rows * n_channels;
    let each = n_channels / n_groups;
    // Every group has a mean of its own.
    let x: Vec<f64> = random
        .normals(len, 1.0)
        .iter()
        .enumerate()
        .map(|(i, x)| x + mean * ((i % n_channels / each) as f64 + 1.0))
        .collect();
    let x = rounded::<T>(&x);
    let (weight, bias) =
        (rounded::<f32>(&random.normals(n_channels, 1.0)), rounded::<f32>(&random.normals(n_channels, 1.0)));
    let mut want = vec![0.0; len];
    for (picture, group) in (0..batch).flat_map(|picture| (0..n_groups).map(move |group| (picture, group))) {
        let places = || {
            (0..n_rows).flat_map(move |row| {
                (group * each..(group + 1) * each)
                    .map(move |channel| (channel, (picture * n_rows + row) * n_channels + channel))
            })
        };
        let n = (n_rows * each) as f64;
        let mean = places().map(|(_, at)| x[at]).sum::<f64>() / n;
        let variance = places().map(|(_, at)| (x[at] - mean).powi(2)).sum::<f64>() / n;
        for (channel, at) in places() {
            let y = (x[at] - mean) / (variance + 1e-6).sqrt() * weight[channel] + bias[channel];
            want[at] = match activation {
                Activation::None => y,
                Activation::Silu => y / (1.0 + (-y).exp()),
                Activation::Gelu => y * (1.0 + erf(y / std::f64::consts::SQRT_2)) / 2.0,
            };
        }
    }
    let (on_device, weight, bias) = (upload::<T>(gpu, &x), upload::<f32>(gpu, &weight), upload::<f32>(gpu, &bias));
    let mut y = poisoned::<T>(gpu, len);
    let mut workspace = poisoned::<f32>(gpu, workspace_len::<T>(batch, n_rows, n_channels, n_groups));
    let norm =
        GroupNorm::new(batch, n_groups, gpu.read(&weight), gpu.read(&bias)).with_eps(1e-6).with_activation(activation);
    let x = gpu.rows(&on_device, n_channels).unwrap();
    group_norm(gpu, &x, &norm, gpu.rows_mut(&mut y, n_channels).unwrap(), gpu.write(&mut workspace)).unwrap();
    let error = relative(&download::<T>(gpu, &y), &want);
    let shape = (batch, n_rows, n_channels, n_groups);
    assert!(error < limit, "{shape:?}, mean {mean}, {activation:?}, {}: {error:.1e}", T::DTYPE.name());
}

#[test]
fn norms_agree_with_f64() {
    let Some(gpu) = gpu("norms_agree_with_f64") else { return };
    for (n_rows, n_channels, n_groups) in
        [(1, 8, 1), (7, 32, 32), (1000, 128, 32), (5000, 512, 32), (333, 512, 512), (70, 1024, 4)]
    {
        for (mean, activation) in [(0.0, Activation::None), (0.5, Activation::Silu), (0.5, Activation::Gelu)] {
            let case = Case { batch: 3, n_rows, n_channels, n_groups, mean, activation };
            check::<f32>(&gpu, &case, 1e-5);
            check::<bf16>(&gpu, &case, 1e-2);
        }
    }
    // Four hundred deviations and more: sums around zero would keep three digits fewer.
    for mean in [100.0, 1000.0] {
        let case = Case { batch: 2, n_rows: 2000, n_channels: 64, n_groups: 16, mean, activation: Activation::None };
        check::<f32>(&gpu, &case, 1e-6 * mean * 16.0);
    }
}

/// Gradients against f64, by the formulas of `backward`.
fn check_backward<T: TestElement + DeviceElement>(gpu: &Gpu, case: &Case, limit: f64) {
    let &Case { batch, n_rows, n_channels, n_groups, mean, activation } = case;
    let mut random = Random(7);
    let (len, each) = (batch * n_rows * n_channels, n_channels / n_groups);
    let x = random.normals(len, 1.0).iter().map(|x| x + mean).collect::<Vec<f64>>();
    let (x, grad) = (rounded::<T>(&x), rounded::<T>(&random.normals(len, 1.0)));
    let (weight, bias) =
        (rounded::<f32>(&random.normals(n_channels, 1.0)), rounded::<f32>(&random.normals(n_channels, 1.0)));
    let (mut of_x, mut of_bias, mut of_weight) = (vec![0.0; len], vec![0.0; n_channels], vec![0.0; n_channels]);
    for (picture, group) in (0..batch).flat_map(|picture| (0..n_groups).map(move |group| (picture, group))) {
        let channels = group * each..(group + 1) * each;
        let places: Vec<(usize, usize)> = (0..n_rows)
            .flat_map(|row| {
                channels.clone().map(move |channel| (channel, (picture * n_rows + row) * n_channels + channel))
            })
            .collect();
        let n = places.len() as f64;
        let mean = places.iter().map(|&(_, at)| x[at]).sum::<f64>() / n;
        let variance = places.iter().map(|&(_, at)| (x[at] - mean).powi(2)).sum::<f64>() / n;
        let scale = (variance + 1e-5).sqrt().recip();
        let of = |(channel, at): (usize, usize)| {
            let x_hat = (x[at] - mean) * scale;
            let z = x_hat * weight[channel] + bias[channel];
            let s = 1.0 / (1.0 + (-z).exp());
            let slope = if activation == Activation::Silu { s * (1.0 + z * (1.0 - s)) } else { 1.0 };
            (x_hat, grad[at] * slope)
        };
        let (mut first, mut second) = (0.0, 0.0);
        for &(channel, at) in &places {
            let (x_hat, dz) = of((channel, at));
            of_bias[channel] += dz;
            of_weight[channel] += dz * x_hat;
            first += dz * weight[channel] / n;
            second += dz * weight[channel] * x_hat / n;
        }
        for &(channel, at) in &places {
            let (x_hat, dz) = of((channel, at));
            of_x[at] = (dz * weight[channel] - first - x_hat * second) * scale;
        }
    }
    let (x, grad) = (upload::<T>(gpu, &x), upload::<T>(gpu, &grad));
    let (weight, bias) = (upload::<f32>(gpu, &weight), upload::<f32>(gpu, &bias));
    let norm = GroupNorm::new(batch, n_groups, gpu.read(&weight), gpu.read(&bias)).with_activation(activation);
    let run = || {
        let mut grad_x = poisoned::<T>(gpu, len);
        let mut grads = poisoned::<f32>(gpu, 2 * n_channels);
        let mut workspace = poisoned::<f32>(gpu, backward_workspace_len::<T>(batch, n_rows, n_channels, n_groups));
        let (x, grad) = (gpu.rows(&x, n_channels).unwrap(), gpu.rows(&grad, n_channels).unwrap());
        let to = gpu.rows_mut(&mut grad_x, n_channels).unwrap();
        backward(gpu, &x, &grad, &norm, to, gpu.write(&mut grads), gpu.write(&mut workspace)).unwrap();
        (download::<T>(gpu, &grad_x), download::<f32>(gpu, &grads))
    };
    let (got_x, got) = run();
    let shape = (batch, n_rows, n_channels, n_groups);
    for (what, got, want) in
        [("x", &got_x[..], &of_x), ("bias", &got[..n_channels], &of_bias), ("weight", &got[n_channels..], &of_weight)]
    {
        let error = relative(got, want);
        assert!(error < limit, "{shape:?}, {activation:?}, {}, {what}: {error:.1e}", T::DTYPE.name());
    }
    assert_eq!(run(), (got_x, got), "two runs give the same bits");
}

#[test]
fn gradients_agree_with_f64() {
    let Some(gpu) = gpu("gradients_agree_with_f64") else { return };
    for (batch, n_rows, n_channels, n_groups) in
        [(1, 2, 8, 1), (3, 7, 32, 8), (2, 1000, 128, 32), (3, 333, 192, 32), (1, 5000, 512, 32), (2, 70, 1024, 4)]
    {
        for (mean, activation) in [(0.0, Activation::None), (0.5, Activation::Silu)] {
            let case = Case { batch, n_rows, n_channels, n_groups, mean, activation };
            check_backward::<f32>(&gpu, &case, 2e-5);
            check_backward::<bf16>(&gpu, &case, 1e-2);
        }
    }
    // Groups of one channel each, and as many channels as a block holds.
    let case = |n_channels, n_groups| Case {
        batch: 2,
        n_rows: 70,
        n_channels,
        n_groups,
        mean: 0.5,
        activation: Activation::Silu,
    };
    check_backward::<f32>(&gpu, &case(64, 64), 2e-5);
    check_backward::<bf16>(&gpu, &case(64, 64), 1e-2);
    check_backward::<f32>(&gpu, &case(1024, 32), 2e-5);
    check_backward::<bf16>(&gpu, &case(2048, 32), 1e-2);
    // No pixel: gradients of the parameters are zero.
    {
        let (ones, none) = (gpu.upload(&[1.0f32; 8]).unwrap(), gpu.upload(&[0.0f32; 8]).unwrap());
        let none = DeviceRows::new("x", gpu.read(&none).first("x", 0).unwrap(), 8).unwrap();
        let norm = GroupNorm::new(1, 2, gpu.read(&ones), gpu.read(&ones));
        let (mut to, mut grads) = (poisoned::<f32>(&gpu, 8), poisoned::<f32>(&gpu, 16));
        let len = backward_workspace_len::<f32>(1, 0, 8, 2);
        let mut workspace = poisoned::<f32>(&gpu, len);
        let to = DeviceRowsMut::new("grad_x", gpu.write(&mut to).first("grad_x", 0).unwrap(), 8).unwrap();
        let workspace = gpu.write(&mut workspace).first("workspace", len).unwrap();
        backward(&gpu, &none, &none, &norm, to, gpu.write(&mut grads), workspace).unwrap();
        assert_eq!(download::<f32>(&gpu, &grads), [0.0; 16]);
    }
    // The error function's slope is not there: refused, not left out.
    let ones = gpu.upload(&[1.0f32; 8]).unwrap();
    let norm = GroupNorm::new(1, 1, gpu.read(&ones), gpu.read(&ones)).with_activation(Activation::Gelu);
    let (mut to, mut grads) = (poisoned::<f32>(&gpu, 8), poisoned::<f32>(&gpu, 16));
    let mut workspace = poisoned::<f32>(&gpu, backward_workspace_len::<f32>(1, 1, 8, 1));
    let x = gpu.rows(&ones, 8).unwrap();
    let (to, grads, workspace) = (gpu.rows_mut(&mut to, 8).unwrap(), gpu.write(&mut grads), gpu.write(&mut workspace));
    let error = backward(&gpu, &x, &x, &norm, to, grads, workspace).unwrap_err().to_string();
    assert!(error.contains("activation"), "{error}");
}

fn check_rows<T: TestElement + DeviceElement>(gpu: &Gpu, n_rows: usize, width: usize, mean: f64, limit: f64) {
    let mut random = Random(5);
    let x: Vec<f64> = random.normals(n_rows * width, 1.0).iter().map(|x| x + mean).collect();
    let x = rounded::<T>(&x);
    let (weight, bias) = (rounded::<f32>(&random.normals(width, 1.0)), rounded::<f32>(&random.normals(width, 1.0)));
    let normed = x.chunks(width).flat_map(|row| {
        let mean = row.iter().sum::<f64>() / width as f64;
        let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
        let scale = (variance + 1e-5).sqrt().recip();
        row.iter().zip(&weight).zip(&bias).map(move |((x, weight), bias)| (x - mean) * scale * weight + bias)
    });
    let want: Vec<f64> = normed.collect();
    let (on_device, weight, bias) = (upload::<T>(gpu, &x), upload::<f32>(gpu, &weight), upload::<f32>(gpu, &bias));
    let mut y = poisoned::<T>(gpu, x.len());
    let (rows, to) = (gpu.rows(&on_device, width).unwrap(), gpu.rows_mut(&mut y, width).unwrap());
    layer_norm(gpu, &rows, &gpu.read(&weight), &gpu.read(&bias), 1e-5, to).unwrap();
    let error = relative(&download::<T>(gpu, &y), &want);
    assert!(error < limit, "({n_rows}, {width}), mean {mean}, {}: {error:.1e}", T::DTYPE.name());
}

#[test]
fn norms_of_rows_agree_with_f64() {
    let Some(gpu) = gpu("norms_of_rows_agree_with_f64") else { return };
    for (n_rows, width) in [(1, 8), (9, 128), (1000, 512), (777, 768), (33, 1024), (100, 520)] {
        check_rows::<f32>(&gpu, n_rows, width, 0.5, 1e-5);
        check_rows::<bf16>(&gpu, n_rows, width, 0.5, 1e-2);
    }
    check_rows::<bf16>(&gpu, 100, 2048, 0.0, 1e-2);
    check_rows::<f32>(&gpu, 100, 512, 1000.0, 1e-3);
}

#[test]
fn what_does_not_fit_is_told() {
    let Some(gpu) = gpu("what_does_not_fit_is_told") else { return };
    assert!(takes::<f32>(1024) && !takes::<f32>(1028) && !takes::<f32>(6) && takes::<bf16>(2048) && !takes::<bf16>(12));
    let (x, weight) = (gpu.zeros::<f32>(6 * 16).unwrap(), gpu.zeros::<f32>(16).unwrap());
    let mut y = gpu.zeros::<f32>(6 * 16).unwrap();
    let mut tells = |batch: usize, n_groups: usize, what: &str| {
        let mut workspace = gpu.zeros::<f32>(workspace_len::<f32>(2, 3, 16, 4)).unwrap();
        let norm = GroupNorm::new(batch, n_groups, gpu.read(&weight), gpu.read(&weight));
        let (x, y) = (gpu.rows(&x, 16).unwrap(), gpu.rows_mut(&mut y, 16).unwrap());
        let told = group_norm(&gpu, &x, &norm, y, gpu.write(&mut workspace)).unwrap_err().to_string();
        assert!(told.contains(what), "{told}");
    };
    tells(2, 3, "n_groups");
    tells(0, 4, "batch");
    tells(4, 4, "pixels");
    tells(3, 4, "workspace");
}
