//! The scan on the GPU against the CPU's in f64: every output, element type, option and odd size; poisoned memory; twice
//! the same bits.

#![allow(clippy::unwrap_used)]

mod cuda_support;
#[path = "cuda_support/scan.rs"]
mod scan;

use cuda_support::*;
use mom_kernels::cuda::cudarc::driver::CudaSlice;
use mom_kernels::cuda::half::{bf16, f16};
use mom_kernels::cuda::{CudaError, DeviceLayout, DeviceRowsMut, Gpu, rms_norm, selective_scan as device};
use scan::*;

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

/// Few sequences, which are cut into chunks of time: 1000 steps into six times 160 and 40.
const CUT: Case = Case { seqlen: 1000, documents: false, ..FULL };

#[test]
fn chunks_of_every_kind() {
    let Some(gpu) = gpu("chunks_of_every_kind") else { return };
    assert!(device::forward_workspace_len(CUT.batch, CUT.seqlen, CUT.d_inner, CUT.d_state) > 0);
    check_all(&gpu, CUT);
    check_all(&gpu, Case { documents: true, ..CUT });
    check_all(&gpu, Case { states: false, ..CUT });
    check_all(&gpu, Case { bias: false, gate_and_skip: false, ..CUT });
    check_all(&gpu, Case { bias: false, softplus: false, ..CUT });
    check_all(&gpu, Case { dt_rank: 3, ..CUT }); // rows that do not lie on 16 bytes
    for (d_inner, d_state) in [(33, 16), (96, 5), (40, 32), (20, 64)] {
        check::<bf16>(&gpu, Case { d_inner, d_state, ..CUT }, 90);
        check::<f32>(&gpu, Case { d_inner, d_state, ..CUT }, 91);
    }
    for seqlen in [512, 513, 527, 639, 640, 641, 1023, 1041] {
        check::<bf16>(&gpu, Case { batch: 1, seqlen, ..CUT }, 92);
    }
}

#[test]
fn documents_start_in_some_chunks() {
    let Some(gpu) = gpu("documents_start_in_some_chunks") else { return };
    let case = Case { documents: true, ..CUT };
    let starts: [&[usize]; 8] = [&[0], &[1, 2], &[159], &[160], &[161, 191, 192], &[319, 961], &[960, 999], &[500]];
    for (seed, of_first) in starts.into_iter().enumerate() {
        // The other sequence has those of the next.
        let of_second = starts[(seed + 1) % starts.len()].iter().map(|at| case.seqlen + at);
        let mut is_start = vec![false; case.batch * case.seqlen];
        of_first.iter().copied().chain(of_second).for_each(|at| is_start[at] = true);
        check_problem::<bf16>(
            &gpu,
            &far::<bf16>(Problem::with_starts::<bf16>(case, &is_start, 100 + seed as u64), -4.0),
        );
        check_problem::<f32>(&gpu, &far::<f32>(Problem::with_starts::<f32>(case, &is_start, 120 + seed as u64), -4.0));
    }
}

/// Three chunks are of the backward pass alone.
#[test]
fn a_whole_forward_pass_before_chunks_of_the_backward_pass() {
    let Some(gpu) = gpu("a_whole_forward_pass_before_chunks_of_the_backward_pass") else { return };
    let case = Case { batch: 25, seqlen: 2050, d_inner: 128, documents: false, ..FULL };
    assert_eq!(device::forward_workspace_len(case.batch, case.seqlen, case.d_inner, case.d_state), 0);
    check_problem::<bf16>(&gpu, &far::<bf16>(Problem::new::<bf16>(case, 160), -4.0));
}

/// With `dt` further on by this much on average: at -4 a state comes through a thousand steps, at 4 not through forty.
fn far<T: TestElement>(mut problem: Problem, by: f64) -> Problem {
    problem.dt_bias = rounded::<f32>(&problem.dt_bias.iter().map(|x| x + by).collect::<Vec<_>>());
    problem
}

#[test]
fn states_come_through_chunks_or_do_not() {
    let Some(gpu) = gpu("states_come_through_chunks_or_do_not") else { return };
    for by in [-6.0, -4.0, 2.0, 4.0] {
        check_problem::<bf16>(&gpu, &far::<bf16>(Problem::new::<bf16>(CUT, 140), by));
        check_problem::<f16>(&gpu, &far::<f16>(Problem::new::<f16>(CUT, 141), by));
        check_problem::<f32>(&gpu, &far::<f32>(Problem::new::<f32>(CUT, 142), by));
    }
}

/// A sequence alone is cut, one of many is not.
#[test]
fn a_sequence_in_chunks_is_the_sequence() {
    let Some(gpu) = gpu("a_sequence_in_chunks_is_the_sequence") else { return };
    let case = Case { batch: 100, seqlen: 700, d_inner: 64, n_modalities: 1, dt_rank: 8, documents: false, ..FULL };
    let len = |batch| device::forward_workspace_len(batch, case.seqlen, case.d_inner, case.d_state);
    assert!(len(1) > 0 && len(case.batch) == 0);
    let many = far::<f32>(Problem::new::<f32>(case, 150), -3.0);
    let alone = Case { batch: 1, ..case };
    let first = |x: &[f64]| x[..x.len() / case.batch].to_vec();
    let plan = mom_kernels::ModalityPlan::new(1, case.seqlen, 1, &vec![0; case.seqlen], None).unwrap();
    let (dt_bias, a, d_skip) = (many.dt_bias.clone(), many.a.clone(), many.d_skip.clone());
    let [u, dt, x_dbl, xz, initial, grad_out, grad_last] =
        [&many.u, &many.dt, &many.x_dbl, &many.xz, &many.initial, &many.grad_out, &many.grad_last].map(|x| first(x));
    let one = Problem { case: alone, plan, u, dt, dt_bias, a, x_dbl, d_skip, xz, initial, grad_out, grad_last };
    let (one, many) = (on_device::<f32>(&gpu, &one, Places::Apart), on_device::<f32>(&gpu, &many, Places::Apart));
    let mut report = Report::new("chunks and the whole");
    for (i, what) in NAMES.into_iter().enumerate() {
        if !["grad_dt_bias", "grad_a", "grad_d_skip"].contains(&what) {
            report.within(what, &one[i], &first(&many[i]), 1e-5);
        }
    }
    report.finish();
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

/// Every kernel reads an element before it writes over it.
#[test]
fn in_place_is_apart() {
    let Some(gpu) = gpu("in_place_is_apart") else { return };
    let plain = Case { bias: false, gate_and_skip: false, ..FULL };
    let cases = [
        FULL,
        Case { batch: 4, d_inner: 4096, seqlen: 37, ..FULL }, // the grid of `wide`, on a card with 132 multiprocessors
        Case { softplus: false, ..FULL },
        plain,
        Case { d_inner: 33, ..FULL },
        Case { dt_rank: 3, ..FULL },
        Case { d_state: 32, seqlen: 33, ..FULL },
        Case { d_state: 64, seqlen: 17, ..plain },
        Case { batch: 1, seqlen: 1, ..FULL },
        Case { batch: 1, seqlen: 600, ..FULL }, // in chunks
    ];
    for (seed, case) in cases.into_iter().enumerate() {
        in_place::<bf16>(&gpu, case, 40 + seed as u64);
        in_place::<f16>(&gpu, case, 60 + seed as u64);
        in_place::<f32>(&gpu, case, 80 + seed as u64);
    }
}

fn in_place<T: TestElement>(gpu: &Gpu, case: Case, seed: u64) {
    let problem = Problem::new::<T>(case, seed);
    let apart = on_device::<T>(gpu, &problem, Places::Apart);
    assert!(apart.iter().flatten().all(|x| x.is_finite()), "{} {case:?}", T::DTYPE.name());
    // Each over its own input; as a block does, which needs u again; each elsewhere.
    for places in [[0, 1, 2, 3], [3, 1, 2, 0], [1, 2, 3, 0]] {
        let over = on_device::<T>(gpu, &problem, Places::Over(places));
        for (what, (apart, over)) in NAMES.iter().zip(apart.iter().zip(&over)) {
            let bits = |x: &[f64]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert!(bits(apart) == bits(over), "{} {case:?} over {places:?}: {what} differs", T::DTYPE.name());
        }
    }
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

#[test]
fn steps_are_the_sequence() {
    let Some(gpu) = gpu("steps_are_the_sequence") else { return };
    steps::<f32>(&gpu, 1e-5);
    steps::<bf16>(&gpu, 4e-3);
    steps::<f16>(&gpu, 6e-4);
}

fn steps<T: TestElement>(gpu: &Gpu, limit: f64) {
    let case = Case { seqlen: 5, d_inner: 33, d_state: 10, n_modalities: 1, dt_rank: 0, ..FULL };
    let p = Problem::new::<T>(case, 20);
    let want = on_host::<f64>(&p);
    let mut state = upload::<f32>(gpu, &p.initial);
    let [bias, a, d_skip] = [&p.dt_bias, &p.a, &p.d_skip].map(|x| upload::<f32>(gpu, x));
    let mut got = vec![0.0; want[0].len()];
    for t in 0..case.seqlen {
        // One row a sequence: position t of each.
        let gather = |x: &[f64], width: usize| -> Vec<f64> {
            (0..case.batch).flat_map(|b| x[(b * case.seqlen + t) * width..][..width].to_vec()).collect()
        };
        let u = upload::<T>(gpu, &gather(&p.u, 33));
        let dt = upload::<T>(gpu, &gather(&p.dt, 33));
        let bc = upload::<T>(gpu, &gather(&p.x_dbl, 20));
        let xz = upload::<T>(gpu, &gather(&p.xz, 66));
        let starts: Vec<u8> =
            (0..case.batch).map(|b| u8::from(p.plan.document_starts().unwrap()[b * case.seqlen + t])).collect();
        let starts = gpu.upload(&starts).unwrap();
        let inputs = device::ScanInputs::new(
            DeviceLayout::contiguous(case.batch, 1, Some(gpu.read(&starts))).unwrap(),
            gpu.rows(&u, 33).unwrap(),
            gpu.rows(&dt, 33).unwrap(),
            gpu.read(&a),
            gpu.rows(&bc, 20).unwrap().columns(0, 10).unwrap(),
            gpu.rows(&bc, 20).unwrap().columns(10, 10).unwrap(),
        )
        .with_dt_bias(device::DtBias::new(gpu.read(&bias), mom_kernels::cuda::DeviceOffsets::single(case.batch)))
        .with_d_skip(gpu.read(&d_skip))
        .with_z(gpu.rows(&xz, 66).unwrap().columns(33, 33).unwrap());
        let mut out = poisoned::<T>(gpu, case.batch * 33);
        device::step(gpu, &inputs, gpu.write(&mut state), gpu.rows_mut(&mut out, 33).unwrap()).unwrap();
        for (b, row) in download(gpu, &out).chunks_exact(33).enumerate() {
            got[(b * case.seqlen + t) * 33..][..33].copy_from_slice(row);
        }
    }
    let mut report = Report::new(format!("{} step", T::DTYPE.name()));
    report.within("out", &got, &want[0], limit);
    report.within("state", &download(gpu, &state), &want[1], 1e-5);
    report.finish();
}

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
