//! Device memory and what is refused: views of another stream, slices without elements, machines without a GPU,
//! workspaces that are too small.
#![allow(clippy::unwrap_used)]

mod cuda_support;

use cuda_support::*;
use mom_kernels::cuda::cudarc::driver::CudaSlice;
use mom_kernels::cuda::half::bf16;
use mom_kernels::cuda::library::{Factor, matmul};
use mom_kernels::cuda::{CudaError, Detail, DeviceOffsets, DevicePlan, Gpu, Module, Result};
use mom_kernels::cuda::{adamw, causal_conv1d, column_sums, grouped_gemm, rms_norm, selective_scan};

/// The norm of `x`, its views made by `by` and its launch asked of `of`.
fn norm(of: &Gpu, by: &Gpu, x: &CudaSlice<f32>, weight: &CudaSlice<f32>, y: &mut CudaSlice<f32>) -> Result<()> {
    let width = weight.len();
    rms_norm::forward(of, of.rows(x, width)?, None, by.read(weight), 1e-5, of.rows_mut(y, width)?)
}

#[test]
fn a_view_of_another_stream_is_refused() {
    let Some(gpu) = gpu("a_view_of_another_stream_is_refused") else { return };
    let other = with_stream(gpu.stream().context().new_stream().unwrap());
    let (x, weight) = (upload::<f32>(&gpu, &[1.0, 2.0, 3.0, 4.0]), upload::<f32>(&gpu, &[1.0, 1.0]));
    let mut y = poisoned::<f32>(&gpu, 4);
    for (of, by) in [(&gpu, &other), (&other, &gpu)] {
        let error = norm(of, by, &x, &weight, &mut y).unwrap_err();
        assert_eq!(error, CudaError::ForeignView { made_on: 0, passed_to: 0 });
        assert!(error.to_string().contains("expected views made by the Gpu that launches"), "{error}");
        assert!(download(&gpu, &y).iter().all(|y| y.is_nan()), "an output was written");
    }
    // It is told once: either of them works on. So does another Gpu of the same stream, whose launches are in order.
    let same = with_stream(gpu.stream().clone());
    for (of, by) in [(&gpu, &gpu), (&other, &other), (&gpu, &same), (&same, &gpu)] {
        let mut y = poisoned::<f32>(&gpu, 4);
        norm(of, by, &x, &weight, &mut y).unwrap();
        assert!(relative(&download(&gpu, &y), &[0.632_454, 1.264_908, 0.848_527, 1.131_370]) < 1e-5);
    }
}

/// Products describe their factors to the copy engine before they launch, or hand them to a library.
#[test]
fn a_product_of_views_of_another_stream_is_refused() {
    let Some(gpu) = gpu("a_product_of_views_of_another_stream_is_refused") else { return };
    let other = with_stream(gpu.stream().context().new_stream().unwrap());
    let with_library = with_stream(gpu.stream().clone());
    with_library.load_library().unwrap();
    let (n, width) = (256, 512);
    let (x, weight) = (poisoned::<bf16>(&gpu, n * width), poisoned::<bf16>(&gpu, width * width));
    let mut y = gpu.zeros::<bf16>(n * width).unwrap();
    for of in [&gpu, &with_library] {
        let product = |by: &Gpu, y: &mut CudaSlice<bf16>| -> Result<()> {
            let weights = grouped_gemm::GroupedWeights::new(width, width, vec![of.read(&weight)], None)?;
            let offsets = DeviceOffsets::single(n);
            grouped_gemm::forward(of, &offsets, &by.rows(&x, width)?, &weights, of.rows_mut(y, width)?)
        };
        let error = product(&other, &mut y).unwrap_err();
        assert_eq!(error, CudaError::ForeignView { made_on: 0, passed_to: 0 });
        product(of, &mut y).unwrap();
        assert!(download(&gpu, &y).iter().all(|y| y.is_nan()), "the product of NaNs");
        gpu.stream().memset_zeros(&mut y).unwrap();
    }
}

/// What was refused is forgotten: the next call, which is right, is not blamed for it.
#[test]
fn misuse_is_told_once() {
    let Some(gpu) = gpu("misuse_is_told_once") else { return };
    let other = with_stream(gpu.stream().context().new_stream().unwrap());
    let x = upload::<f32>(&gpu, &[1.0, 2.0, 3.0, 4.0]);
    let weight = upload::<f32>(&gpu, &[1.0, 1.0]);
    let (mut y, mut normed) = (poisoned::<f32>(&gpu, 4), poisoned::<f32>(&gpu, 4));
    // A foreign view, and no library.
    let (a, b) = (other.rows(&x, 2).unwrap(), gpu.rows(&x, 2).unwrap());
    let to = gpu.rows_mut(&mut y, 2).unwrap();
    let error = matmul(&gpu, 1.0, Factor::plain(&a), Factor::plain(&b), 0.0, to, None).unwrap_err();
    assert_eq!(error, CudaError::ForeignView { made_on: 0, passed_to: 0 });
    norm(&gpu, &gpu, &x, &weight, &mut normed).unwrap();
    assert!(download(&gpu, &normed).iter().all(|x| x.is_finite()));
}

/// The device is made current by whoever calls, on whichever thread.
#[test]
fn a_fresh_thread_may_begin_with_any_call() {
    let Some(gpu) = gpu("a_fresh_thread_may_begin_with_any_call") else { return };
    let (n, width) = (64, 64);
    let x = upload::<bf16>(&gpu, &vec![1.0; n * width]);
    let weight = upload::<bf16>(&gpu, &vec![0.5; width * width]);
    let others: Vec<_> = (0..3).map(|_| with_stream(gpu.stream().clone())).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| others[0].preload(Module::of("embedding")).unwrap());
        scope.spawn(|| assert_eq!(gpu.download(&others[1].upload(&[7u32]).unwrap()).unwrap(), [7]));
        scope.spawn(|| others[2].load_library().map(drop).unwrap());
    });
    let mut y = poisoned::<bf16>(&gpu, n * width);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // The residual is copied first, columns of it past the driver's wrapper.
            let product = grouped_gemm::GroupedWeights::new(width, width, vec![gpu.read(&weight)], None).unwrap();
            let (x, offsets) = (gpu.rows(&x, width).unwrap(), DeviceOffsets::single(n));
            let to = gpu.rows_mut(&mut y, width).unwrap();
            grouped_gemm::forward_add(&gpu, &offsets, &x, &product, Some(&x), to).unwrap();
        });
    });
    assert!(download(&gpu, &y).iter().all(|&y| y == 33.0));
}

#[test]
fn rows_without_columns_and_batches_without_sequences_are_named() {
    let Some(gpu) = gpu("rows_without_columns_and_batches_without_sequences_are_named") else { return };
    let (x, taps) = (gpu.zeros::<f32>(8).unwrap(), gpu.zeros::<f32>(8).unwrap());
    let text = gpu.rows(&x, 2).unwrap().columns(0, 0).unwrap_err().to_string();
    assert!(text.contains("columns") && text.contains("end"), "{text}");
    let empty = gpu.zeros::<f32>(0).unwrap();
    let conv = causal_conv1d::ConvInputs::new(
        mom_kernels::cuda::DeviceLayout::contiguous(0, 16, None).unwrap(),
        gpu.rows(&empty, 2).unwrap(),
        gpu.read(&taps),
    );
    let text = causal_conv1d::backward_workspace_len(&conv).unwrap_err().to_string();
    assert!(text.contains("batch"), "{text}");
}

/// A card that is not there is refused by name; the kernels of one that is known are chosen.
#[test]
fn pretending_to_be_another_card() {
    let Some(gpu) = gpu("pretending_to_be_another_card") else { return };
    let known = with_stream(gpu.stream().clone()).pretending((8, 9)).unwrap();
    assert_eq!(known.compute_capability(), (8, 9));
    let error = with_stream(gpu.stream().clone()).pretending((7, 5)).unwrap_err();
    assert!(error.to_string().contains("7.5"), "{error}");
}

#[test]
fn slices_without_elements() {
    let Some(gpu) = gpu("slices_without_elements") else { return };
    let (mut zeros, uploaded) = (gpu.zeros::<f32>(0).unwrap(), gpu.upload::<f32>(&[]).unwrap());
    assert_eq!((zeros.len(), uploaded.len()), (0, 0));
    assert!(gpu.read(&zeros).is_empty() && gpu.write(&mut zeros).is_empty());
    assert_eq!(gpu.rows(&uploaded, 8).unwrap().n_rows(), 0);
    assert!(gpu.download(&uploaded).unwrap().is_empty());
    let weight = upload::<f32>(&gpu, &[1.0, 1.0]);
    norm(&gpu, &gpu, &uploaded, &weight, &mut zeros).unwrap();
    drop((zeros, uploaded));
    gpu.stream().synchronize().unwrap();
    // A plan of no positions.
    let ids = gpu.zeros::<u8>(0).unwrap();
    let plan = DevicePlan::sort(&gpu, 0, 16, 3, &gpu.read(&ids), None).unwrap();
    assert_eq!(plan.n_rows(), 0);
    plan.check(&gpu).unwrap();
}

#[test]
fn a_machine_without_the_device_says_so() {
    // Without a driver, without any device, or with fewer than this.
    let error = Gpu::new(1_000).unwrap_err();
    let text = error.to_string();
    match error {
        CudaError::NoDriver { .. } => {
            assert!(text.contains("libcuda.so.1") && text.contains("CPU functions"), "{text}");
            assert_eq!(Gpu::new(0).unwrap_err(), error, "it does not depend on the device");
        }
        CudaError::NoDevice { ordinal, .. } => {
            assert_eq!(ordinal, 1_000);
            assert!(text.starts_with("GPU 1000 cannot be used: "), "{text}");
        }
        other => panic!("{other}"),
    }
}

/// That an operation with one element too few in its workspace names it, what is expected and what it got.
fn refuses(op: &str, arg: &str, expected: usize, call: impl FnOnce(usize) -> Result<()>) {
    assert!(expected > 0, "{op}: {arg} has no smaller one");
    let text = call(expected - 1).unwrap_err().to_string();
    assert_eq!(text, format!("{op}: {arg} has {} elements, expected {expected}", expected - 1));
}

#[test]
fn small_workspaces_are_named() {
    let Some(gpu) = gpu("small_workspaces_are_named") else { return };
    let (batch, seqlen, d, d_state) = (2, 32, 16, 16);
    let n = batch * seqlen;
    let memory = |len: usize| gpu.zeros::<f32>(len).unwrap();
    let (x, weight, states) = (memory(n * d), memory(d), memory(d * d_state));
    let (mut to_x, mut to_weight) = (memory(n * d), memory(d));
    let offsets = DeviceOffsets::single(n);

    refuses("rms_norm", "workspace", rms_norm::backward_workspace_len(n, d), |len| {
        let inputs = rms_norm::NormInputs::new(gpu.rows(&x, d)?, gpu.read(&weight), 1e-5, gpu.rows(&x, d)?);
        let (grad_x, grad_weight) = (gpu.rows_mut(&mut to_x, d)?, gpu.write(&mut to_weight));
        rms_norm::backward(&gpu, &inputs, grad_x, grad_weight, gpu.write(&mut memory(len)))
    });
    refuses("column_sums", "workspace", column_sums::workspace_len(n, 1, d), |len| {
        let sums = gpu.write(&mut to_weight);
        column_sums::column_sums(&gpu, &offsets, &gpu.rows(&x, d)?, sums, gpu.write(&mut memory(len)))
    });
    refuses("adamw", "partial", adamw::global_norm_workspace_len([n * d]), |len| {
        adamw::global_norm(&gpu, &[gpu.read(&x)], &mut gpu.write(&mut memory(1)), gpu.write(&mut memory(len)))
    });

    let plan = DevicePlan::sort(&gpu, batch, seqlen, 1, &gpu.read(&gpu.zeros(n).unwrap()), None).unwrap();
    let taps = memory(d * 4);
    let conv = causal_conv1d::ConvInputs::new(plan.layout(&gpu), gpu.rows(&x, d).unwrap(), gpu.read(&taps));
    refuses("causal_conv1d", "workspace", causal_conv1d::backward_workspace_len(&conv).unwrap(), |len| {
        let mut grad_taps = memory(d * 4);
        let grads = causal_conv1d::ConvGrads::new(gpu.rows_mut(&mut to_x, d)?, gpu.write(&mut grad_taps));
        causal_conv1d::backward(&gpu, &conv, gpu.rows(&x, d)?, None, grads, gpu.write(&mut memory(len)))
    });

    let scan = selective_scan::ScanInputs::new(
        plan.layout(&gpu),
        gpu.rows(&x, d).unwrap(),
        gpu.rows(&x, d).unwrap(),
        gpu.read(&states),
        gpu.rows(&x, d).unwrap(),
        gpu.rows(&x, d).unwrap(),
    );
    let saved = memory(selective_scan::saved_states_len(batch, seqlen, d, d_state));
    refuses("selective_scan", "workspace", selective_scan::backward_workspace_len(&scan).unwrap(), |len| {
        let (mut grad_u, mut grad_dt, mut grad_a) = (memory(n * d), memory(n * d), memory(d * d_state));
        let (mut grad_b, mut grad_c) = (memory(n * d_state), memory(n * d_state));
        let grads = selective_scan::ScanGrads::new(
            gpu.rows_mut(&mut grad_u, d)?,
            gpu.rows_mut(&mut grad_dt, d)?,
            gpu.write(&mut grad_a),
            gpu.rows_mut(&mut grad_b, d_state)?,
            gpu.rows_mut(&mut grad_c, d_state)?,
        );
        let output_grads = selective_scan::ScanOutputGrads::new(gpu.rows(&x, d)?);
        selective_scan::backward(&gpu, &scan, gpu.read(&saved), &output_grads, grads, gpu.write(&mut memory(len)))
    });

    // Biases: so few rows need no partial sums of products.
    let square = memory(d * d);
    let weights = grouped_gemm::GroupedWeights::new(d, d, vec![gpu.read(&square)], Some(gpu.read(&weight))).unwrap();
    refuses("grouped_gemm", "workspace", grouped_gemm::backward_weights_workspace_len(n, &weights), |len| {
        let (mut grad, mut grad_bias) = (memory(d * d), memory(d));
        let grad_weights = vec![gpu.write(&mut grad)];
        let grads = grouped_gemm::GroupedGrads::new(grad_weights).with_grad_biases(gpu.write(&mut grad_bias));
        let (x, mut workspace) = (gpu.rows(&x, d)?, memory(len));
        grouped_gemm::backward_weights(&gpu, &offsets, &x, &x, &weights, grads, gpu.write(&mut workspace))
    });
}

/// More than both buffers hold, elements of several sizes, memory that is overwritten at once.
#[test]
fn staged_uploads_arrive_as_they_were() {
    let Some(gpu) = gpu("staged_uploads_arrive_as_they_were") else { return };
    let staged = with_stream(gpu.stream().clone());
    assert!(staged.stage_uploads(100).unwrap_err().to_string().contains("bytes"));
    staged.stage_uploads(4096).unwrap();
    let mut uploads = Vec::new();
    for n in [1, 3, 511, 512, 513, 1024, 1025, 5000, 0, 7] {
        let mut words: Vec<u32> = (0..n).map(|i| i * 2_654_435_761 + n).collect();
        let mut bytes: Vec<u8> = words.iter().map(|word| (word >> 24) as u8).collect();
        let of_words = staged.upload(&words).unwrap();
        let of_bytes = staged.upload(&bytes).unwrap();
        uploads.push((of_words, words.clone(), of_bytes, bytes.clone()));
        words.fill(0);
        bytes.fill(0);
    }
    for (of_words, words, of_bytes, bytes) in uploads {
        assert_eq!(gpu.download(&of_words).unwrap(), words);
        assert_eq!(gpu.download(&of_bytes).unwrap(), bytes);
    }
}

/// Each detail times its own, and nothing is timed behind the end.
#[test]
fn a_profile_tells_launches_or_regions() {
    let Some(gpu) = gpu("a_profile_tells_launches_or_regions") else { return };
    let (x, weight) = (upload::<f32>(&gpu, &[1.0, 2.0, 3.0, 4.0]), upload::<f32>(&gpu, &[1.0, 1.0]));
    let mut y = poisoned::<f32>(&gpu, 4);
    let mut run = || {
        gpu.region("norms", || {
            norm(&gpu, &gpu, &x, &weight, &mut y)?;
            norm(&gpu, &gpu, &x, &weight, &mut y)
        })
    };
    for (detail, name, count) in [(Detail::Regions, "norms", 1), (Detail::Launches, "rms_norm", 2)] {
        gpu.start_profile(detail);
        run().unwrap();
        let times = gpu.end_profile().unwrap();
        run().unwrap();
        assert!(
            matches!(&times[..], [time] if time.name.starts_with(name) && time.count == count && time.ms > 0.0),
            "{times:?}"
        );
    }
}

/// Sums that are long for their output are cut, and their parts lie in the library's workspace.
#[test]
fn products_of_several_threads_do_not_meet_in_the_workspace() {
    let Some(gpu) = gpu("products_of_several_threads_do_not_meet_in_the_workspace") else { return };
    gpu.load_library().unwrap();
    for (m, n, k) in [(2, 24, 64), (32, 32, 8192)] {
        let mut r = Random(7);
        let (a, b) = (upload::<f32>(&gpu, &r.normals(m * k, 1.0)), upload::<f32>(&gpu, &r.normals(n * k, 1.0)));
        let product = || {
            let mut y = poisoned::<f32>(&gpu, m * n);
            let (a, b) = (gpu.rows(&a, k).unwrap(), gpu.rows(&b, k).unwrap());
            let (a, b) = (Factor::plain(&a), Factor::transposed(&b));
            matmul(&gpu, 1.0, a, b, 0.0, gpu.rows_mut(&mut y, n).unwrap(), None).unwrap();
            download(&gpu, &y)
        };
        let want = product();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| assert!((0..50).all(|_| product() == want), "{m} x {n}, sums of {k}"));
            }
        });
    }
}

#[test]
fn what_is_left_free_is_so_for_a_stream_beside_and_is_taken_back() {
    let Some(gpu) = gpu("what_is_left_free_is_so_for_a_stream_beside_and_is_taken_back") else { return };
    let gpu = std::sync::Arc::new(gpu);
    let all = gpu.n_multiprocessors();
    let (first, second) = (gpu.leave_free(4), gpu.leave_free(2));
    assert_eq!([gpu.n_multiprocessors(), gpu.beside().unwrap().n_multiprocessors()], [all - 6; 2]);
    drop(first);
    assert_eq!(gpu.n_multiprocessors(), all - 2);
    drop(second);
    let none = gpu.leave_free(10_000);
    assert_eq!(gpu.n_multiprocessors(), 1, "one stays");
    drop(none);
    assert_eq!(gpu.n_multiprocessors(), all);
}
