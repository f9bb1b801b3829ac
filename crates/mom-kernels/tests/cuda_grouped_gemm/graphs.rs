//! Products in a captured graph: for other counts, for other values, and with what follows them.

use mom_kernels::cuda::cudarc::driver::CudaSlice;
use mom_kernels::cuda::half::bf16;
use mom_kernels::cuda::{Gpu, Module, grouped_gemm as device};

use crate::cuda_support::*;
use crate::problem::{Case, OnDevice, Problem, case, compare};

/// Other values where a graph reads.
fn copy_inputs(gpu: &Gpu, from: &OnDevice<bf16>, to: &mut OnDevice<bf16>) {
    let copy = |from: &CudaSlice<bf16>, to: &mut CudaSlice<bf16>| gpu.stream().memcpy_dtod(from, to).unwrap();
    copy(&from.x, &mut to.x);
    copy(&from.grad_y, &mut to.grad_y);
    from.weights.iter().zip(&mut to.weights).for_each(|(from, to)| copy(from, to));
    gpu.stream().memcpy_dtod(&from.biases, &mut to.biases).unwrap();
}

/// Two modalities that are each one whole split: the second launch has nothing to add, and what follows it must wait for the
/// first all the same.
#[test]
fn what_follows_waits_for_gradients_that_were_not_cut() {
    let Some(gpu) = gpu("what_follows_waits_for_gradients_that_were_not_cut") else { return };
    let gpu = on_a_stream_of_its_own(&gpu);
    gpu.preload(Module::ALL).unwrap();
    let (n_in, n_out, counts) = (640, 2560, [8192, 8192]);
    let case = Case { biases: false, ..case(&counts, n_in, n_out) };
    let p = Problem::new::<bf16>(&case, 30);
    let on_device = OnDevice::<bf16>::new(&gpu, &p);
    let weights = on_device.weights(&gpu, &p);
    let mut workspace = gpu.zeros(device::backward_weights_workspace_len(p.plan.n_rows(), &weights)).unwrap();
    let mut grads: Vec<_> = counts.iter().map(|_| poisoned::<bf16>(&gpu, n_in * n_out)).collect();
    let mut copies: Vec<_> = counts.iter().map(|_| poisoned::<bf16>(&gpu, n_in * n_out)).collect();
    let nan = poisoned::<bf16>(&gpu, n_in * n_out);
    let mut run = |gpu: &Gpu| {
        grads.iter_mut().for_each(|grad| gpu.stream().memcpy_dtod(&nan, grad).unwrap());
        let to = device::GroupedGrads::new(grads.iter_mut().map(|grad| gpu.write(grad)).collect());
        let (x, grad_y) = (gpu.rows(&on_device.x, n_in).unwrap(), gpu.rows(&on_device.grad_y, n_out).unwrap());
        let offsets = on_device.plan.modality_offsets(gpu);
        let result = device::backward_weights(gpu, &offsets, &x, &grad_y, &weights, to, gpu.write(&mut workspace));
        for (from, to) in grads.iter().zip(&mut copies) {
            gpu.stream().memcpy_dtod(from, to).unwrap();
        }
        result
    };
    run(&gpu).unwrap();
    let graph = captured(&gpu, || run(&gpu));
    let want: Vec<_> = grads.iter().map(|grad| download(&gpu, grad)).collect();
    assert!(want.iter().flatten().all(|x| x.is_finite()));
    for replay in 0..1000 {
        graph.launch().unwrap();
        if replay % 100 == 99 {
            let got: Vec<_> = copies.iter().map(|copy| download(&gpu, copy)).collect();
            assert!(got == want, "replay {replay}: a gradient was copied before it was there");
        }
    }
}

/// A graph captured with one set of counts is right for another.
#[test]
fn graph() {
    let Some(gpu) = gpu("graph") else { return };
    let gpu = on_a_stream_of_its_own(&gpu);
    gpu.preload(Module::ALL).unwrap();
    let first = Problem::new::<bf16>(&case(&[100, 200, 84], 96, 80), 6);
    let second = Problem::new::<bf16>(&case(&[0, 129, 255], 96, 80), 7);
    let mut on_device = OnDevice::<bf16>::new(&gpu, &first);
    on_device.run(&gpu, &first).unwrap();
    let graph = captured(&gpu, || on_device.run(&gpu, &first));
    let ids: Vec<u8> = [0, 129, 255].iter().enumerate().flat_map(|(id, &n)| std::iter::repeat_n(id as u8, n)).collect();
    on_device.plan.sort_again(&gpu, &gpu.read(&gpu.upload(&ids).unwrap())).unwrap();
    let other = OnDevice::<bf16>::new(&gpu, &second);
    copy_inputs(&gpu, &other, &mut on_device);
    graph.launch().unwrap();
    gpu.stream().synchronize().unwrap();
    compare::<bf16>("graph", &second, &on_device.outputs(&gpu, &second));
}

/// One shape in a captured graph, with rows that change their values.
#[test]
fn library_in_a_graph() {
    let Some(gpu) = gpu("library_in_a_graph") else { return };
    let gpu = on_a_stream_of_its_own(&gpu);
    gpu.load_library().unwrap();
    gpu.preload(Module::ALL).unwrap();
    let case = Case { biases: false, ..case(&[100, 0, 200], 768, 640) };
    let (first, second) = (Problem::new::<bf16>(&case, 10), Problem::new::<bf16>(&case, 11));
    let mut on_device = OnDevice::<bf16>::new(&gpu, &first);
    on_device.run(&gpu, &first).unwrap();
    let graph = captured(&gpu, || on_device.run(&gpu, &first));
    let other = OnDevice::<bf16>::new(&gpu, &second);
    copy_inputs(&gpu, &other, &mut on_device);
    graph.launch().unwrap();
    gpu.stream().synchronize().unwrap();
    compare::<bf16>("library in a graph", &second, &on_device.outputs(&gpu, &second));
}
