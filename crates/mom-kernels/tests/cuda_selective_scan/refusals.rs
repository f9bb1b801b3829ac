//! Memory that a kernel cannot use is refused: states off 16 bytes, a workspace of another size, rows that overlap.

use mom_kernels::cuda::{CudaError, DeviceLayout, rms_norm, selective_scan as device};

use crate::cuda_support::*;

/// Saved states that begin one element in: the kernels read and write them by 16 bytes.
#[test]
fn saved_states_off_16_bytes_are_refused() {
    let Some(gpu) = gpu("saved_states_off_16_bytes_are_refused") else { return };
    let (seqlen, d) = (32, 16);
    let zeros = |len: usize| gpu.zeros::<f32>(len).unwrap();
    let (x, a) = (zeros(seqlen * d), zeros(d * d));
    let inputs = device::ScanInputs::new(
        DeviceLayout::contiguous(1, seqlen, None).unwrap(),
        gpu.rows(&x, d).unwrap(),
        gpu.rows(&x, d).unwrap(),
        gpu.read(&a),
        gpu.rows(&x, d).unwrap(),
        gpu.rows(&x, d).unwrap(),
    );
    let len = device::saved_states_len(1, seqlen, d, d);
    let (mut out, mut saved, mut workspace) = (zeros(seqlen * d), zeros(len + 1), zeros(0));
    let outputs = device::ScanOutputs::new(gpu.rows_mut(&mut out, d).unwrap())
        .with_saved_states(gpu.write_view(saved.slice_mut(1..)));
    let off = |result: Result<(), CudaError>| {
        let text = result.unwrap_err().to_string();
        assert_eq!(text, "selective_scan: saved_states has 4 bytes off 16, expected 0");
    };
    off(device::forward(&gpu, &inputs, outputs, gpu.write(&mut workspace)));
    let mut room: Vec<_> = [seqlen * d; 4].into_iter().chain([d * d]).map(zeros).collect();
    let [grad_u, grad_dt, grad_b, grad_c, grad_a] = &mut room[..] else { unreachable!() };
    let grads = device::ScanGrads::new(
        gpu.rows_mut(grad_u, d).unwrap(),
        gpu.rows_mut(grad_dt, d).unwrap(),
        gpu.write(grad_a),
        gpu.rows_mut(grad_b, d).unwrap(),
        gpu.rows_mut(grad_c, d).unwrap(),
    );
    let output_grads = device::ScanOutputGrads::new(gpu.rows(&x, d).unwrap());
    let mut workspace = zeros(device::backward_workspace_len(&inputs).unwrap());
    let states = gpu.read_view(saved.slice(1..));
    off(device::backward(&gpu, &inputs, states, &output_grads, grads, gpu.write(&mut workspace)));
}

#[test]
fn a_workspace_of_another_size_is_refused() {
    let Some(gpu) = gpu("a_workspace_of_another_size_is_refused") else { return };
    let (seqlen, d, n) = (512, 32, 16);
    let [wide, narrow, a] = [seqlen * d, seqlen * n, d * n].map(|len| gpu.zeros::<f32>(len).unwrap());
    let mut out = gpu.zeros::<f32>(seqlen * d).unwrap();
    let needed = device::forward_workspace_len(1, seqlen, d, n);
    let mut run = |len: usize| {
        let inputs = device::ScanInputs::new(
            DeviceLayout::contiguous(1, seqlen, None)?,
            gpu.rows(&wide, d)?,
            gpu.rows(&wide, d)?,
            gpu.read(&a),
            gpu.rows(&narrow, n)?,
            gpu.rows(&narrow, n)?,
        );
        let mut workspace = gpu.zeros::<f32>(len)?;
        let outputs = device::ScanOutputs::new(gpu.rows_mut(&mut out, d)?);
        device::forward(&gpu, &inputs, outputs, gpu.write(&mut workspace))
    };
    for len in [0, needed - 1, needed + 1] {
        let error = run(len).unwrap_err().to_string();
        assert!(error.contains("workspace") && error.contains(&needed.to_string()), "{error}");
    }
    run(needed).unwrap();
}

#[test]
fn rows_that_overlap_are_refused() {
    let Some(gpu) = gpu("rows_that_overlap_are_refused") else { return };
    let (seqlen, d) = (24, 16); // as many channels as states, so that B could be written
    let [dense, a] = [seqlen * d, d * d].map(|len| gpu.zeros::<f32>(len).unwrap());
    let mut memory = upload::<f32>(&gpu, &vec![0.25; seqlen * 3 * d]);
    let saved = gpu.zeros::<f32>(device::saved_states_len(1, seqlen, d, d)).unwrap();
    // u, dt and B are columns `read` of `memory`, grad_u is columns `written`.
    let mut run = |read: [usize; 3], written: usize| -> mom_kernels::cuda::Result<()> {
        let (rows, to) = gpu.rows_mut(&mut memory, 3 * d)?.in_place();
        let [u, dt, b] = read.map(|start| rows.clone().columns(start, d).unwrap());
        let inputs = device::ScanInputs::new(
            DeviceLayout::contiguous(1, seqlen, None)?,
            u,
            dt,
            gpu.read(&a),
            b,
            gpu.rows(&dense, d)?,
        );
        let [mut gdt, mut gb, mut gc] = [(); 3].map(|()| gpu.zeros::<f32>(seqlen * d).unwrap());
        let mut ga = gpu.zeros::<f32>(d * d)?;
        let mut workspace = gpu.zeros::<f32>(device::backward_workspace_len(&inputs)?)?;
        let grads = device::ScanGrads::new(
            to.columns(written, d)?,
            gpu.rows_mut(&mut gdt, d)?,
            gpu.write(&mut ga),
            gpu.rows_mut(&mut gb, d)?,
            gpu.rows_mut(&mut gc, d)?,
        );
        let output_grads = device::ScanOutputGrads::new(gpu.rows(&dense, d)?);
        device::backward(&gpu, &inputs, gpu.read(&saved), &output_grads, grads, gpu.write(&mut workspace))
    };
    let overlap = |with: &str| {
        format!("selective_scan: grad_u overlaps {with}, expected the same rows exactly or none of their memory")
    };
    for (read, written, with) in [
        ([0, d, 2 * d], 1, "u"),
        ([0, d, 2 * d], d - 1, "u"),
        ([0, d, 2 * d], d + 1, "dt"),
        ([d, 2 * d, 0], 0, "b"), // all of it, but every block reads B
        ([d, 2 * d, 0], d - 1, "u"),
    ] {
        assert_eq!(run(read, written).unwrap_err().to_string(), overlap(with), "{read:?} {written}");
    }
    for written in [0, d] {
        run([0, d, 2 * d], written).unwrap();
    }
    // An operation that does not write in place refuses the rows that it would; the next one is asked anew.
    let (rows, to) = gpu.rows_mut(&mut memory, 3 * d).unwrap().in_place();
    let (weight, mut own) = (gpu.zeros::<f32>(3 * d).unwrap(), poisoned::<f32>(&gpu, seqlen * 3 * d));
    let norm = |to| rms_norm::forward(&gpu, rows.clone(), None, gpu.read(&weight), 1e-5, to);
    assert_eq!(norm(to).unwrap_err(), CudaError::InPlaceView);
    norm(gpu.rows_mut(&mut own, 3 * d).unwrap()).unwrap();
    assert_eq!(gpu.download(&own).unwrap(), vec![0.0; seqlen * 3 * d]);
}
