//! Every option, number of modalities, width and number of rows; each kernel and tile; no rows at all.

use mom_kernels::cuda::half::bf16;
use mom_kernels::cuda::{DevicePlan, Gpu, grouped_gemm as device};
use mom_kernels::grouped_gemm::Into;

use crate::cuda_support::*;
use crate::problem::{Case, case, check, check_all};

#[test]
fn options() {
    let Some(gpu) = gpu("options") else { return };
    let base = case(&[130, 257, 61], 96, 80);
    check_all(&gpu, &base);
    check_all(&gpu, &Case { biases: false, ..base.clone() });
    check_all(&gpu, &Case { into: Into::Add, ..base.clone() });
    check_all(&gpu, &Case { shared: true, ..base.clone() });
    for around in [(8, 16), (0, 8), (1, 2), (3, 0)] {
        check_all(&gpu, &Case { around, ..base.clone() });
        check_all(&gpu, &Case { around, into: Into::Add, ..base.clone() });
    }
}

#[test]
fn modalities() {
    let Some(gpu) = gpu("modalities") else { return };
    for counts in [&[200][..], &[0, 200, 0], &[128, 128, 128], &[1, 1, 1], &[0, 0, 5], &[64, 0, 65, 127, 3]] {
        check_all(&gpu, &case(counts, 64, 48));
    }
    check_all(&gpu, &case(&[3; 256], 40, 24));
}

#[test]
fn widths() {
    let Some(gpu) = gpu("widths") else { return };
    // Every tile, whole and cut, in both roles; vectors that are cut; single features.
    for (n_in, n_out) in [
        (1, 1),
        (7, 9),
        (16, 8),
        (48, 136),
        (65, 66),
        (72, 81),
        (80, 160),
        (128, 129),
        (161, 12),
        (160, 320),
        (300, 300),
    ] {
        check_all(&gpu, &case(&[70, 0, 150], n_in, n_out));
    }
    for (n_in, n_out) in [(1536, 80), (48, 1536), (512, 160), (160, 1024), (1024, 136), (136, 600)] {
        check::<bf16>(&gpu, &case(&[700, 1300, 50], n_in, n_out), 4);
        check::<f32>(&gpu, &case(&[70, 130, 50], n_in, n_out), 5);
    }
    // Aligned rows of gradients that are not.
    for (n_in, n_out) in [(98, 82), (82, 98), (298, 274)] {
        check::<bf16>(&gpu, &Case { around: (0, 6), ..case(&[700, 1300, 50], n_in, n_out) }, 6);
    }
}

/// Each kernel once, at sizes that the compute-sanitizer gets through: every tile of either card, in both directions, with
/// rows and columns that end inside of it, and each length of a sum whose rows stay in shared memory.
#[test]
fn every_kernel() {
    let Some(gpu) = gpu("every_kernel") else { return };
    let portable = with_stream(gpu.stream().clone()).portable();
    let widths = [(72, 48), (88, 72), (200, 120), (200, 152), (200, 264), (48, 264), (104, 264), (160, 264)];
    for (n_in, n_out) in widths.into_iter().flat_map(|(a, b)| [(a, b), (b, a)]) {
        let into = if n_in > n_out { Into::Add } else { Into::Overwrite };
        let case = Case { into, ..case(&[70, 0, 150], n_in, n_out) };
        check::<bf16>(&gpu, &case, 13);
        check::<bf16>(&portable, &case, 13);
    }
    check::<f32>(&gpu, &case(&[70, 0, 50], 72, 80), 14);
}

/// Many splits of the sum over the rows, and borders of modalities inside of them.
#[test]
fn many_rows() {
    let Some(gpu) = gpu("many_rows") else { return };
    for counts in [&[5000, 1, 15_000][..], &[20_001], &[3000; 7]] {
        check_all(&gpu, &case(counts, 32, 40));
    }
}

/// The gradients of no rows are zero, whoever computes them.
#[test]
fn no_rows_at_all() {
    let Some(gpu) = gpu("no_rows_at_all") else { return };
    let with_library = with_stream(gpu.stream().clone());
    with_library.load_library().unwrap();
    let portable = with_stream(gpu.stream().clone()).portable();
    for gpu in [&gpu, &with_library, &portable] {
        for (n_in, n_out) in [(640, 768), (48, 1536), (1536, 80), (24, 8)] {
            zero_rows::<bf16>(gpu, n_in, n_out);
            zero_rows::<f32>(gpu, n_in, n_out);
        }
    }
}

fn zero_rows<T: TestElement>(gpu: &Gpu, n_in: usize, n_out: usize) {
    let (x, y) = (gpu.zeros::<T>(0).unwrap(), gpu.zeros::<T>(0).unwrap());
    let weights: Vec<_> = (0..2).map(|_| gpu.zeros::<T>(n_in * n_out).unwrap()).collect();
    let weights = weights.iter().map(|weight| gpu.read(weight)).collect();
    let weights = device::GroupedWeights::new(n_in, n_out, weights, None).unwrap();
    let ids = gpu.zeros::<u8>(0).unwrap();
    let plan = DevicePlan::sort(gpu, 0, 16, 2, &gpu.read(&ids), None).unwrap();
    let mut grads: Vec<_> = (0..2).map(|_| poisoned::<T>(gpu, n_in * n_out)).collect();
    let to = device::GroupedGrads::new(grads.iter_mut().map(|grad| gpu.write(grad)).collect());
    let mut workspace = gpu.zeros(device::backward_weights_workspace_len(0, &weights)).unwrap();
    let (x, grad_y) = (gpu.rows(&x, n_in).unwrap(), gpu.rows(&y, n_out).unwrap());
    let offsets = plan.modality_offsets(gpu);
    device::backward_weights(gpu, &offsets, &x, &grad_y, &weights, to, gpu.write(&mut workspace)).unwrap();
    assert!(grads.iter().all(|grad| download(gpu, grad).iter().all(|&x| x == 0.0)), "{n_in} -> {n_out}");
}

/// More wide tiles than multiprocessors, so that each leaves while the block's next is multiplied; rows that end inside of 16
/// bytes, a last tile of few columns; sums of a few steps, in which several rows leave, and of many.
#[test]
fn many_wide_tiles() {
    let Some(gpu) = gpu("many_wide_tiles") else { return };
    for (narrow, wide) in [(268, 4100), (1292, 2060)] {
        for into in [Into::Overwrite, Into::Add] {
            let case = Case { into, around: (0, 4), ..case(&[1500, 0, 1041, 3], narrow, wide) };
            check::<bf16>(&gpu, &case, 18);
            check::<bf16>(&gpu, &Case { n_in: wide, n_out: narrow, ..case }, 19);
        }
    }
}

/// Gradients of weights with as many tiles as a card has multiprocessors, and a pair of tiles that lacks one: no partial sums.
#[test]
fn sums_without_splits() {
    let Some(gpu) = gpu("sums_without_splits") else { return };
    check::<bf16>(&gpu, &Case { biases: false, ..case(&[70, 0, 60], 2048, 2304) }, 15);
    check::<bf16>(&gpu, &Case { biases: false, ..case(&[70, 0, 60], 2048, 2432) }, 15);
}
