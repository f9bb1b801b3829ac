//! Windows of convolutions: every element at its place, zeros outside, for every unit that is copied.
#![allow(clippy::unwrap_used)]

mod cuda_support;

use cuda_support::*;
use mom_kernels::cuda::half::bf16;
use mom_kernels::cuda::unfold::{Convolution, unfold};
use mom_kernels::cuda::{DeviceElement, Gpu};

/// The windows, element by element.
fn plain(x: &[f64], stride: usize, of: &Convolution, row: usize) -> Vec<f64> {
    let ([batch, height, width], [_, out_height, out_width]) = (of.input, of.output());
    let mut windows = Vec::new();
    for (n, y, z) in (0..batch).flat_map(|n| (0..out_height).flat_map(move |y| (0..out_width).map(move |z| (n, y, z))))
    {
        let start = windows.len();
        for (i, j) in (0..of.kernel[0]).flat_map(|i| (0..of.kernel[1]).map(move |j| (i, j))) {
            let place = |out: usize, tap: usize, before: usize, side: usize| {
                (out * of.stride + tap * of.dilation).checked_sub(before).filter(|&at| at < side)
            };
            let at = place(y, i, of.vertical[0], height).zip(place(z, j, of.horizontal[0], width));
            windows.extend((0..of.channels).map(|c| match at {
                Some((y, z)) => x[((n * height + y) * width + z) * stride + c],
                None => 0.0,
            }));
        }
        windows.resize(start + row, 0.0);
    }
    windows
}

fn check<T: TestElement + DeviceElement>(gpu: &Gpu, of: &Convolution, from: usize, stride: usize, row: usize) {
    let pixels: usize = of.input.iter().product();
    let x = rounded::<T>(&Random(7).normals(pixels * stride, 1.0));
    let want = plain(&x[from..], stride, of, row);
    let on_device = upload::<T>(gpu, &x);
    // In two parts, as who has little memory asks for them.
    let cut = of.n_windows() / 3;
    for (first, n) in [(0, cut), (cut, of.n_windows() - cut)] {
        let mut windows = poisoned::<T>(gpu, n * row);
        let pixels = gpu.rows(&on_device, stride).unwrap().columns(from, of.channels).unwrap();
        unfold(gpu, &pixels, of, first, gpu.rows_mut(&mut windows, row).unwrap()).unwrap();
        let got = download::<T>(gpu, &windows);
        assert!(
            got == want[first * row..(first + n) * row],
            "{of:?}, columns {from}.., rows of {row}, {}",
            T::DTYPE.name()
        );
    }
}

#[test]
fn windows_are_those_of_a_plain_loop() {
    let Some(gpu) = gpu("windows_are_those_of_a_plain_loop") else { return };
    let picture = |channels| Convolution::new([2, 7, 5], channels, [3, 3]).with_zeros([1, 1], [1, 1]);
    let sound = |channels| Convolution::new([3, 1, 61], channels, [1, 7]);
    for channels in [1, 3, 8, 40] {
        for of in [
            picture(channels),
            picture(channels).with_zeros([0, 1], [0, 1]).with_stride(2),
            picture(channels).with_zeros([0, 0], [0, 0]).with_dilation(2),
            sound(channels),
            sound(channels).with_zeros([0, 0], [6, 0]),
            sound(channels).with_zeros([0, 0], [5, 2]).with_stride(4),
            sound(channels).with_dilation(4).with_zeros([0, 0], [24, 0]),
        ] {
            check::<f32>(&gpu, &of, 0, channels, of.window());
            check::<bf16>(&gpu, &of, 0, channels, of.window().next_multiple_of(8));
            // Channels of a group: some of each pixel's.
            check::<bf16>(&gpu, &of, 8, 64, of.window());
            check::<bf16>(&gpu, &of, 1, 51, of.window() + 3);
        }
    }
}

#[test]
fn what_does_not_fit_is_told() {
    let Some(gpu) = gpu("what_does_not_fit_is_told") else { return };
    let x = gpu.zeros::<f32>(12).unwrap();
    let mut windows = gpu.zeros::<f32>(3 * 4).unwrap();
    let mut tells = |of: Convolution, first: usize, row: usize, what: &str| {
        let rows = gpu.rows_mut(&mut windows, row).unwrap();
        let told = unfold(&gpu, &gpu.rows(&x, 1).unwrap(), &of, first, rows).unwrap_err().to_string();
        assert!(told.contains(what), "{told}");
    };
    let of = Convolution::new([1, 1, 12], 1, [1, 3]);
    tells(of, 8, 4, "windows");
    tells(of, 0, 2, "window");
    tells(of.with_stride(0), 0, 4, "stride");
    tells(Convolution::new([1, 1, 13], 1, [1, 3]), 0, 4, "x");
    tells(Convolution::new([1, 1, 2], 1, [1, 3]), 0, 4, "x");
    assert_eq!(Convolution::new([1, 1, 2], 1, [1, 3]).n_windows(), 0);
    // As many pixels as would be none in 64 bits.
    let many = Convolution::new([1 << 34, 1 << 15, 1 << 15], 1, [1, 1]).with_zeros([1, 0], [0, 0]);
    tells(many, 1 << 15, 4, "input");
    tells(Convolution::new([1, 1, 3], 1, [1, 2]).with_dilation(usize::MAX), 0, 4, "dilation");
}
