//! Offsets past 2^31 elements.

use mom_kernels::cuda::cudarc::driver::CudaSlice;
use mom_kernels::cuda::half::bf16;
use mom_kernels::cuda::{DeviceLayout, selective_scan as device};

use crate::cuda_support::*;

/// More than 2^31 elements: the last sequence of many is what it is among few.
#[test]
fn beyond_two_gigaelements() {
    let Some(gpu) = gpu("beyond_two_gigaelements") else { return };
    let (batch, seqlen, d_inner, d_state) = (520, 1024, 4096, 16);
    let n = batch * seqlen;
    assert!(n * d_inner > 1 << 31);
    let free = gpu.stream().context().mem_get_info().unwrap().0;
    let workspace_bytes = 4 * (128 * n * 32 + batch * d_inner * 17 + batch * seqlen / 16 * d_inner * 16);
    let needed = 5 * n * d_inner * 2 + workspace_bytes + (2 << 30);
    if free < needed {
        eprintln!(
            "SKIPPED beyond_two_gigaelements: needs {} GiB of device memory, {} are free",
            needed >> 30,
            free >> 30
        );
        return;
    }
    let mut r = Random(30);
    let mut random =
        |len: usize, scale: f64| -> Vec<bf16> { (0..len).map(|_| bf16::round(scale * r.normal())).collect() };
    let (u, dt, bc) = (random(seqlen * d_inner, 1.0), random(seqlen * d_inner, 1.0), random(seqlen * 32, 1.0));
    let grad_out = random(seqlen * d_inner, 1.0);
    let run = |batch: usize| -> Vec<Vec<bf16>> {
        let n = batch * seqlen;
        let last = |data: &[bf16], width: usize| {
            let mut slice = gpu.zeros::<bf16>(n * width).unwrap();
            gpu.stream().memcpy_htod(data, &mut slice.slice_mut((n - seqlen) * width..)).unwrap();
            slice
        };
        let (u, dt, bc, grad_out) = (last(&u, d_inner), last(&dt, d_inner), last(&bc, 32), last(&grad_out, d_inner));
        let a = gpu.upload(&vec![-0.5f32; d_inner * d_state]).unwrap();
        let inputs = device::ScanInputs::new(
            DeviceLayout::contiguous(batch, seqlen, None).unwrap(),
            gpu.rows(&u, d_inner).unwrap(),
            gpu.rows(&dt, d_inner).unwrap(),
            gpu.read(&a),
            gpu.rows(&bc, 32).unwrap().columns(0, 16).unwrap(),
            gpu.rows(&bc, 32).unwrap().columns(16, 16).unwrap(),
        );
        let mut out = gpu.zeros::<bf16>(n * d_inner).unwrap();
        let len = device::forward_workspace_len(batch, seqlen, d_inner, d_state);
        let mut workspace = gpu.zeros::<f32>(len).unwrap();
        let mut saved = gpu.zeros::<f32>(device::saved_states_len(batch, seqlen, d_inner, d_state)).unwrap();
        let outputs =
            device::ScanOutputs::new(gpu.rows_mut(&mut out, d_inner).unwrap()).with_saved_states(gpu.write(&mut saved));
        device::forward(&gpu, &inputs, outputs, gpu.write(&mut workspace)).unwrap();
        let tail = |slice: &CudaSlice<bf16>, width: usize| -> Vec<bf16> {
            gpu.stream().clone_dtoh(&slice.slice((n - seqlen) * width..)).unwrap()
        };
        let forward = tail(&out, d_inner);
        // The gradient of u takes the place of the output.
        let mut gu = out;
        let mut gdt = gpu.zeros::<bf16>(n * d_inner).unwrap();
        let mut gbc = gpu.zeros::<bf16>(n * 32).unwrap();
        let mut ga = gpu.zeros::<f32>(d_inner * d_state).unwrap();
        let mut workspace = gpu.zeros::<f32>(device::backward_workspace_len(&inputs).unwrap()).unwrap();
        let (grad_b, grad_c) = gpu.rows_mut(&mut gbc, 32).unwrap().split_columns(16).unwrap();
        let grads = device::ScanGrads::new(
            gpu.rows_mut(&mut gu, d_inner).unwrap(),
            gpu.rows_mut(&mut gdt, d_inner).unwrap(),
            gpu.write(&mut ga),
            grad_b,
            grad_c,
        );
        let output_grads = device::ScanOutputGrads::new(gpu.rows(&grad_out, d_inner).unwrap());
        device::backward(&gpu, &inputs, gpu.read(&saved), &output_grads, grads, gpu.write(&mut workspace)).unwrap();
        vec![forward, tail(&gu, d_inner), tail(&gdt, d_inner), tail(&gbc, 32)]
    };
    // Of four, since fewer would be cut into chunks.
    let (few, many) = (run(4), run(batch));
    assert!(few.iter().flatten().any(|x| x.wide() != 0.0));
    for (i, (few, many)) in few.iter().zip(&many).enumerate() {
        assert!(few == many, "output {i} of the last sequence differs");
    }
}
