//! Every option, number of modalities and odd size; grids on either side of a choice of kernel; long sequences and empty ones.

use mom_kernels::cuda::half::{bf16, f16};
use mom_kernels::cuda::{DeviceLayout, DeviceRowsMut, Gpu, selective_scan as device};

use crate::cuda_support::*;
use crate::scan::*;

#[test]
fn every_option() {
    let Some(gpu) = gpu("every_option") else { return };
    check_all(&gpu, FULL);
    check_all(&gpu, Case { documents: false, states: false, ..FULL });
    check_all(&gpu, Case { bias: false, gate_and_skip: false, ..FULL });
    check_all(&gpu, Case { bias: false, softplus: false, ..FULL });
    check_all(&gpu, Case { n_modalities: 1, ..FULL });
    check_all(&gpu, Case { batch: 17, seqlen: 33, n_modalities: 200, ..FULL });
}

/// Few modalities, whose biases' gradients the kernel sums; many, as many as it has room for; more than those; and none.
#[test]
fn any_number_of_modalities() {
    let Some(gpu) = gpu("any_number_of_modalities") else { return };
    for n_modalities in [2, 4, 5, 8, 15, 16, 17] {
        // One block of channels to a sequence, two, and chunks of time.
        for (batch, seqlen, d_inner) in [(3, 161, 96), (9, 333, 128), (1, 2100, 64)] {
            check_all(&gpu, Case { batch, seqlen, d_inner, n_modalities, ..FULL });
        }
    }
    for (batch, seqlen) in [(3, 161), (1, 2100)] {
        check_all(&gpu, Case { batch, seqlen, bias: false, ..FULL });
    }
}

#[test]
fn odd_sizes() {
    let Some(gpu) = gpu("odd_sizes") else { return };
    for seqlen in [1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65] {
        check::<bf16>(&gpu, Case { seqlen, ..FULL }, 4);
        check::<f32>(&gpu, Case { seqlen, ..FULL }, 5);
    }
    for d_inner in [1, 5, 31, 33, 40, 200] {
        check::<bf16>(&gpu, Case { d_inner, ..FULL }, 6);
        check::<f32>(&gpu, Case { d_inner, ..FULL }, 7);
    }
    for d_state in [1, 2, 3, 8, 15, 17, 32, 33, 48, 64] {
        check_all(&gpu, Case { d_state, ..FULL });
    }
    // Rows that do not lie on 16 bytes.
    check_all(&gpu, Case { dt_rank: 3, ..FULL });
}

#[test]
fn a_document_starts_at_the_last_step() {
    let Some(gpu) = gpu("a_document_starts_at_the_last_step") else { return };
    // What lies behind it in its tile is no document's.
    for seqlen in [1, 33, 50, 64] {
        let case = Case { seqlen, ..FULL };
        let is_start: Vec<bool> = (0..case.batch * seqlen).map(|at| at % seqlen == seqlen - 1).collect();
        check_problem::<bf16>(&gpu, &Problem::with_starts::<bf16>(case, &is_start, 20));
        check_problem::<f16>(&gpu, &Problem::with_starts::<f16>(case, &is_start, 21));
        check_problem::<f32>(&gpu, &Problem::with_starts::<f32>(case, &is_start, 22));
    }
}

#[test]
fn shapes_of_models() {
    let Some(gpu) = gpu("shapes_of_models") else { return };
    // Enough blocks to take each of the aligned kernels.
    check::<bf16>(&gpu, Case { batch: 2, seqlen: 300, d_inner: 1536, documents: false, dt_rank: 48, ..FULL }, 8);
    check::<bf16>(&gpu, Case { batch: 4, seqlen: 100, d_inner: 4096, documents: false, dt_rank: 128, ..FULL }, 9);
    check::<f32>(&gpu, Case { batch: 4, seqlen: 100, d_inner: 2048, dt_rank: 64, ..FULL }, 10);
}

#[test]
fn grids_between_two_kernels() {
    let Some(gpu) = gpu("grids_between_two_kernels") else { return };
    // Blocks of 32 channels that fit three times a multiprocessor, then four times, on a card with 132 of them.
    for (batch, seqlen) in [(3, 37), (4, 37), (4, 32), (4, 96)] {
        let case = Case { batch, seqlen, d_inner: 4096, dt_rank: 128, ..FULL };
        check::<bf16>(&gpu, case, 13);
        check::<f16>(&gpu, case, 14);
    }
}

#[test]
fn long_sequences() {
    let Some(gpu) = gpu("long_sequences") else { return };
    let case = Case { batch: 1, seqlen: 65_536, d_inner: 64, documents: false, ..FULL };
    check::<bf16>(&gpu, case, 11);
    check::<f32>(&gpu, case, 12);
}

#[test]
fn no_position() {
    let Some(gpu) = gpu("no_position") else { return };
    no_positions::<f32>(&gpu, false);
    // All that a model's block has: the kernels that read past the end.
    no_positions::<bf16>(&gpu, true);
    no_positions::<f16>(&gpu, true);
}

/// No step: states and their gradients pass through, sums are zero.
fn no_positions<T: TestElement>(gpu: &Gpu, full: bool) {
    let (d_inner, d_state) = (40, 16);
    let empty = gpu.zeros::<T>(1).unwrap();
    let none = || gpu.read(&empty).first("none", 0).unwrap();
    let a = gpu.upload(&vec![-1.0f32; d_inner * d_state]).unwrap();
    let state: Vec<f32> = (0..2 * d_inner * d_state).map(|i| i as f32).collect();
    let initial = gpu.upload(&state).unwrap();
    let zeros = gpu.zeros::<f32>(d_inner).unwrap();
    let bias = || device::DtBias::new(gpu.read(&zeros), mom_kernels::cuda::DeviceOffsets::single(0));
    let rows = |width| mom_kernels::cuda::DeviceRows::new("none", none(), width).unwrap();
    let inputs = device::ScanInputs::<T>::new(
        DeviceLayout::contiguous(2, 0, None).unwrap(),
        rows(d_inner),
        rows(d_inner),
        gpu.read(&a),
        rows(d_state),
        rows(d_state),
    )
    .with_dt_bias(full.then(bias))
    .with_d_skip(full.then(|| gpu.read(&zeros)))
    .with_z(full.then(|| rows(d_inner)))
    .with_initial_state(gpu.read(&initial));
    let mut out = gpu.zeros::<T>(1).unwrap();
    let mut last = poisoned::<f32>(gpu, state.len());
    let no_rows = |slice, width| DeviceRowsMut::new("none", gpu.write(slice).first("none", 0).unwrap(), width).unwrap();
    let outputs = device::ScanOutputs::new(no_rows(&mut out, d_inner)).with_last_state(gpu.write(&mut last));
    let mut workspace = gpu.zeros::<f32>(device::forward_workspace_len(2, 0, d_inner, d_state)).unwrap();
    device::forward(gpu, &inputs, outputs, gpu.write(&mut workspace)).unwrap();
    assert_eq!(gpu.download(&last).unwrap(), state);
    let [mut gu, mut gdt, mut gb, mut gc, mut gz] = [(); 5].map(|()| gpu.zeros::<T>(1).unwrap());
    let [mut gbias, mut gd] = [(); 2].map(|()| poisoned::<f32>(gpu, d_inner));
    let mut ga = poisoned::<f32>(gpu, d_inner * d_state);
    let mut ginit = poisoned::<f32>(gpu, state.len());
    let mut workspace = poisoned::<f32>(gpu, device::backward_workspace_len(&inputs).unwrap());
    let grads = device::ScanGrads::new(
        no_rows(&mut gu, d_inner),
        no_rows(&mut gdt, d_inner),
        gpu.write(&mut ga),
        no_rows(&mut gb, d_state),
        no_rows(&mut gc, d_state),
    )
    .with_grad_dt_bias(full.then(|| gpu.write(&mut gbias)))
    .with_grad_d_skip(full.then(|| gpu.write(&mut gd)))
    .with_grad_z(full.then(|| no_rows(&mut gz, d_inner)))
    .with_grad_initial_state(gpu.write(&mut ginit));
    let output_grads = device::ScanOutputGrads::new(rows(d_inner)).with_grad_last_state(gpu.read(&last));
    let saved = gpu.read(&zeros).first("saved", 0).unwrap();
    device::backward(gpu, &inputs, saved, &output_grads, grads, gpu.write(&mut workspace)).unwrap();
    assert_eq!(gpu.download(&ginit).unwrap(), state);
    assert_eq!(gpu.download(&ga).unwrap(), vec![0.0; d_inner * d_state]);
    if full {
        assert_eq!(
            [gpu.download(&gbias).unwrap(), gpu.download(&gd).unwrap()],
            [vec![0.0; d_inner], vec![0.0; d_inner]]
        );
    }
}
