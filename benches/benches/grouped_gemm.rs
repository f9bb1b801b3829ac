//! Grouped products of three modalities against one dense call of the `gemm` crate on the same rows.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use mom_benches::mixer::Projection;
use mom_benches::shape::{BATCH, D_INNER, D_MODEL, DT_RANK, N_MODALITIES, N_ROWS, SEQLEN, X_DBL};
use mom_benches::{best_secs, report, spans, values};
use mom_kernels::grouped_gemm::{GroupedGrads, Into, backward_input, backward_weights, forward};
use mom_kernels::{Rows, RowsMut};

/// Each time is the best over this long.
const EACH: Duration = Duration::from_millis(1500);

/// `to = a b` with the strides of rows and columns, on all threads.
fn dense(
    [m, n, k]: [usize; 3],
    to: &mut [f32],
    a: &[f32],
    [a_row, a_col]: [isize; 2],
    b: &[f32],
    b_strides: [isize; 2],
) {
    assert!(to.len() == m * n && a.len() == m * k && b.len() == k * n);
    let [b_row, b_col] = b_strides;
    // SAFETY: dense matrices of these sizes, by the assertion.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            to.as_mut_ptr(),
            1,
            n as isize,
            false,
            a.as_ptr(),
            a_col,
            a_row,
            b.as_ptr(),
            b_col,
            b_row,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::Rayon(rayon::current_num_threads()),
        );
    }
}

fn bench(c: &mut Criterion) {
    let plan = spans(BATCH, SEQLEN, N_MODALITIES).unwrap();
    let offsets = plan.modality_offsets();
    println!("rows of each modality: {:?}", (0..N_MODALITIES).map(|m| offsets.rows(m).len()).collect::<Vec<_>>());
    for (name, n_in, n_out) in [
        ("in_proj", D_MODEL, 2 * D_INNER),
        ("x_proj", D_INNER, X_DBL),
        ("dt_proj", DT_RANK, D_INNER),
        ("out_proj", D_INNER, D_MODEL),
    ] {
        let projection = Projection::new(n_in, n_out);
        let weights = projection.weights().unwrap();
        let one = values(0, n_in * n_out, 0.0, 1.0);
        let (x, grad_y) = (values(1, N_ROWS * n_in, 0.0, 1.0), values(2, N_ROWS * n_out, 0.0, 1.0));
        let x_rows = Rows::new("x", &x, n_in).unwrap();
        let grad_rows = Rows::new("grad_y", &grad_y, n_out).unwrap();
        let (wide_in, wide_out) = (n_in as isize, n_out as isize);

        let (mut y, mut y_dense) = (vec![0.0; N_ROWS * n_out], vec![0.0; N_ROWS * n_out]);
        let mut grouped = || {
            forward(offsets, x_rows, &weights, RowsMut::new("y", black_box(&mut y), n_out).unwrap()).unwrap();
        };
        let mut whole = || dense([N_ROWS, n_out, n_in], black_box(&mut y_dense), &x, [wide_in, 1], &one, [1, wide_in]);
        let [secs, dense_secs] = best_secs(EACH, [&mut grouped, &mut whole]);
        report(&format!("{name} forward"), secs, "dense", dense_secs, 1.1);
        c.bench_function(&format!("{name}/forward"), |b| b.iter(&mut grouped));
        c.bench_function(&format!("{name}/forward/dense"), |b| b.iter(&mut whole));

        let (mut grad_x, mut grad_x_dense) = (vec![0.0; N_ROWS * n_in], vec![0.0; N_ROWS * n_in]);
        let mut grouped = || {
            let to = RowsMut::new("grad_x", black_box(&mut grad_x), n_in).unwrap();
            backward_input(offsets, grad_rows, &weights, to, Into::Overwrite).unwrap();
        };
        let mut whole = || {
            dense([N_ROWS, n_in, n_out], black_box(&mut grad_x_dense), &grad_y, [wide_out, 1], &one, [wide_in, 1]);
        };
        let [secs, dense_secs] = best_secs(EACH, [&mut grouped, &mut whole]);
        report(&format!("{name} grad input"), secs, "dense", dense_secs, 1.1);
        c.bench_function(&format!("{name}/grad_input"), |b| b.iter(&mut grouped));
        c.bench_function(&format!("{name}/grad_input/dense"), |b| b.iter(&mut whole));

        let mut grads = vec![vec![0.0; n_in * n_out]; N_MODALITIES];
        let mut grad_dense = vec![0.0; n_in * n_out];
        let mut grouped = || {
            let grad_weights = black_box(&mut grads).iter_mut().map(Vec::as_mut_slice).collect();
            let grads = GroupedGrads::new(grad_weights);
            backward_weights(offsets, x_rows, grad_rows, &weights, grads).unwrap();
        };
        let mut whole = || {
            dense([n_out, n_in, N_ROWS], black_box(&mut grad_dense), &grad_y, [1, wide_out], &x, [wide_in, 1]);
        };
        let [secs, dense_secs] = best_secs(EACH, [&mut grouped, &mut whole]);
        report(&format!("{name} grad weight"), secs, "dense", dense_secs, 1.1);
        c.bench_function(&format!("{name}/grad_weight"), |b| b.iter(&mut grouped));
        c.bench_function(&format!("{name}/grad_weight/dense"), |b| b.iter(&mut whole));
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
