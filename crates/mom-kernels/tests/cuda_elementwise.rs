//! Elementwise operations on the GPU against plain loops in f64: every length around a thread's and a block's, every
//! alignment, poisoned memory, nothing written behind the end.
#![allow(clippy::unwrap_used)]

mod cuda_support;

use cuda_support::*;
use mom_kernels::cuda::cudarc::driver::CudaSlice;
use mom_kernels::cuda::elementwise as ops;
use mom_kernels::cuda::half::{bf16, f16};
use mom_kernels::cuda::{DeviceMut, DeviceRef, Gpu};

const LENGTHS: [usize; 9] = [0, 1, 7, 8, 9, 2047, 2048, 2049, 70_001];

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Values behind `skip` others.
struct Offset<T> {
    memory: CudaSlice<T>,
    skip: usize,
    len: usize,
}

impl<T: TestElement> Offset<T> {
    fn of(gpu: &Gpu, values: &[f64], skip: usize) -> Self {
        let all = [&vec![f64::NAN; skip][..], values, &[f64::NAN]].concat();
        Self { memory: upload::<T>(gpu, &all), skip, len: values.len() }
    }

    fn read<'a>(&'a self, gpu: &'a Gpu) -> DeviceRef<'a, T> {
        gpu.read_view(self.memory.slice(self.skip..self.skip + self.len))
    }

    fn write<'a>(&'a mut self, gpu: &'a Gpu) -> DeviceMut<'a, T> {
        gpu.write_view(self.memory.slice_mut(self.skip..self.skip + self.len))
    }

    /// The values; what lies beside them is as it was.
    fn values(&self, gpu: &Gpu) -> Vec<f64> {
        let all = download(gpu, &self.memory);
        let (values, beside) =
            (&all[self.skip..self.skip + self.len], [&all[..self.skip], &all[self.skip + self.len..]]);
        assert!(beside.concat().iter().all(|x| x.is_nan()), "written beside the array");
        values.to_vec()
    }
}

fn close<T: TestElement>(what: &str, got: &[f64], want: &[f64]) {
    let mut report = Report::new(what.to_owned());
    report.output::<T>("out", got, want, want, 1e-6);
    report.finish();
}

fn check<T: TestElement>(gpu: &Gpu, n: usize, skip: usize) {
    let mut r = Random(n as u64 + 1);
    let mut draw = || rounded::<T>(&r.normals(n, 1.0));
    let (a, b) = (draw(), draw());
    let name = |what: &str| format!("{what} {} {n} +{skip}", T::DTYPE.name());
    let (on_a, on_b) = (Offset::<T>::of(gpu, &a, skip), Offset::<T>::of(gpu, &b, 0));
    let fresh = || Offset::<T>::of(gpu, &vec![f64::NAN; n], skip);
    let zip = |f: &dyn Fn(f64, f64) -> f64| a.iter().zip(&b).map(|(&a, &b)| f(a, b)).collect::<Vec<_>>();

    let mut out = fresh();
    ops::combine(gpu, 1.0, &on_a.read(gpu), 1.0, &on_b.read(gpu), &mut out.write(gpu)).unwrap();
    assert!(out.values(gpu) == rounded::<T>(&zip(&|a, b| f64::from(a as f32 + b as f32))), "{}", name("add"));
    let mut out = fresh();
    ops::scale(gpu, 0.5, &on_b.read(gpu), &mut out.write(gpu)).unwrap();
    assert!(out.values(gpu) == rounded::<T>(&zip(&|_, b| 0.5 * b)), "{}", name("scale"));

    let mut out = fresh();
    ops::silu(gpu, &on_a.read(gpu), &mut out.write(gpu)).unwrap();
    close::<T>(&name("silu"), &out.values(gpu), &zip(&|a, _| a * sigmoid(a)));
    let mut out = fresh();
    ops::silu_backward(gpu, &on_a.read(gpu), &on_b.read(gpu), &mut out.write(gpu)).unwrap();
    close::<T>(&name("silu_backward"), &out.values(gpu), &zip(&|a, b| b * sigmoid(a) * (1.0 + a * (1.0 - sigmoid(a)))));

    // To f32 and back.
    let wide: Vec<f64> = rounded::<f32>(&Random(9).normals(n, 1.0));
    let (before, mut sum) = (Offset::<f32>::of(gpu, &wide, 0), Offset::<f32>::of(gpu, &vec![f64::NAN; n], skip));
    ops::accumulate(gpu, &before.read(gpu), &on_a.read(gpu), &mut sum.write(gpu)).unwrap();
    let want: Vec<f64> = wide.iter().zip(&a).map(|(&x, &a)| f64::from(x as f32 + a as f32)).collect();
    assert!(sum.values(gpu) == want, "{}", name("accumulate"));
    let mut out = Offset::<f32>::of(gpu, &vec![f64::NAN; n], skip);
    ops::widen(gpu, &on_a.read(gpu), &mut out.write(gpu)).unwrap();
    assert!(out.values(gpu) == a, "{}", name("widen"));
    let wide_on = Offset::<f32>::of(gpu, &wide, skip);
    let mut out = fresh();
    ops::narrow(gpu, &wide_on.read(gpu), &mut out.write(gpu)).unwrap();
    assert!(out.values(gpu) == rounded::<T>(&wide), "{}", name("narrow"));

    // A row's width that divides n, and factors of each row.
    let width = (1..=n).rev().find(|width| *width < 100 && n.is_multiple_of(*width)).unwrap_or(1);
    let factors = rounded::<f32>(&Random(3).normals(n / width * 2, 1.0));
    let (clean, factors_on) = (Offset::<f32>::of(gpu, &wide, 0), upload::<f32>(gpu, &factors));
    let epsilon = rounded::<f32>(&Random(4).normals(n, 1.0));
    let epsilon_on = Offset::<f32>::of(gpu, &epsilon, skip);
    if n > 0 {
        let mut out = fresh();
        ops::add_noise(gpu, &clean.read(gpu), &epsilon_on.read(gpu), &gpu.read(&factors_on), &mut out.write(gpu))
            .unwrap();
        let of = |i: usize| {
            let row = i / width;
            let (x, e) = (wide[i] as f32 * factors[2 * row] as f32, epsilon[i] as f32 * factors[2 * row + 1] as f32);
            f64::from(x + e)
        };
        assert!(out.values(gpu) == rounded::<T>(&(0..n).map(of).collect::<Vec<_>>()), "{}", name("add_noise"));
    }

    // 1e-3 of the sum, and its gradient of 3.
    let run = || {
        let mut error = gpu.upload(&[f32::NAN]).unwrap();
        let mut workspace = gpu.upload(&vec![f32::NAN; ops::squared_error_workspace_len(n).unwrap().max(1)]).unwrap();
        let of_blocks =
            gpu.write(&mut workspace).first("workspace", ops::squared_error_workspace_len(n).unwrap()).unwrap();
        let mut to = gpu.write(&mut error);
        ops::squared_error(gpu, &on_a.read(gpu), &epsilon_on.read(gpu), 1e-3, &mut to, of_blocks).unwrap();
        drop(to);
        gpu.download(&error).unwrap()[0]
    };
    let want: f64 = a.iter().zip(&epsilon).map(|(a, e)| 1e-3 * (a - e).powi(2)).sum();
    assert!((f64::from(run()) - want).abs() <= 1e-5 * want, "{}: {} instead of {want}", name("squared_error"), run());
    assert!(run().to_bits() == run().to_bits());
    let grad = gpu.upload(&[3.0f32]).unwrap();
    let mut out = fresh();
    let mut to = out.write(gpu);
    ops::squared_error_backward(gpu, &on_a.read(gpu), &epsilon_on.read(gpu), 1e-3, &gpu.read(&grad), &mut to).unwrap();
    drop(to);
    let want: Vec<f64> = a.iter().zip(&epsilon).map(|(a, e)| 2.0 * 1e-3 * 3.0 * (a - e)).collect();
    close::<T>(&name("squared_error_backward"), &out.values(gpu), &want);
}

#[test]
fn elementwise_operations_are_plain_loops() {
    let Some(gpu) = gpu("elementwise_operations_are_plain_loops") else { return };
    for n in LENGTHS {
        for skip in [0, 1, 8] {
            check::<f32>(&gpu, n, skip);
            check::<bf16>(&gpu, n, skip);
            if cfg!(feature = "f16") {
                check::<f16>(&gpu, n, skip);
            }
        }
    }
}

#[test]
fn other_sizes_are_refused() {
    let Some(gpu) = gpu("other_sizes_are_refused") else { return };
    let (three, mut four) = (gpu.zeros::<f32>(3).unwrap(), gpu.zeros::<f32>(4).unwrap());
    let said = |result: mom_kernels::cuda::Result<()>, what: &str| {
        let message = result.unwrap_err().to_string();
        assert!(message.contains("elementwise") && message.contains(what), "{message}");
    };
    said(ops::silu(&gpu, &gpu.read(&three), &mut gpu.write(&mut four)), "x");
    said(ops::scale(&gpu, 1.0, &gpu.read(&three), &mut gpu.write(&mut four)), "b");
    let other = gpu.zeros::<f32>(4).unwrap();
    said(ops::combine(&gpu, 1.0, &gpu.read(&three), 1.0, &gpu.read(&other), &mut gpu.write(&mut four)), "a");
    let result =
        ops::add_noise(&gpu, &gpu.read(&other), &gpu.read(&other), &gpu.read(&three), &mut gpu.write(&mut four));
    said(result, "factors");
}
