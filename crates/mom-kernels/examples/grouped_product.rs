//! A linear layer with weights of its own for each modality: tokens are sorted by modality once, and the layer is one product for
//! each modality over rows that lie side by side. Timed against one weight for all.
//!
//! `cargo run --release -p mom-kernels --example grouped_product`: a second.

use std::time::Instant;

use mom_kernels::grouped_gemm::{self, GroupedWeights};
use mom_kernels::{ModalityOffsets, ModalityPlan, Rows, RowsMut};

fn main() -> Result<(), mom_kernels::Error> {
    let (batch, seqlen, n_modalities, in_features, out_features) = (4, 512, 3, 256, 1024);
    // Documents of text, then an image, then speech, over and over.
    let ids: Vec<u8> = (0..batch * seqlen).map(|position| (position / 64 % n_modalities) as u8).collect();
    let plan = ModalityPlan::new(batch, seqlen, n_modalities, &ids, None)?;
    let offsets = plan.modality_offsets();
    for modality in 0..n_modalities {
        println!("modality {modality} has rows {:?}", offsets.rows(modality));
    }

    // x by position, then its rows in the plan's order. A model does this once, at its embedding.
    let x_by_position = wave(plan.n_rows() * in_features, 0.7);
    let mut x = vec![0.0; x_by_position.len()];
    for (row, &position) in plan.position_of_row().iter().enumerate() {
        let from = &x_by_position[position as usize * in_features..][..in_features];
        x[row * in_features..][..in_features].copy_from_slice(from);
    }

    let weights: Vec<Vec<f32>> =
        (0..n_modalities).map(|modality| wave(out_features * in_features, 0.3 + modality as f32)).collect();
    let own = GroupedWeights::new(in_features, out_features, weights.iter().map(Vec::as_slice).collect(), None)?;
    let shared = GroupedWeights::new(in_features, out_features, vec![&weights[0]], None)?;
    let (y, own_ms) = product(offsets, &x, &own)?;
    let (y_shared, shared_ms) = product(offsets, &x, &shared)?;
    println!(
        "{} rows, {in_features} -> {out_features}: {own_ms:.2} ms with weights of their own, {shared_ms:.2} ms with one",
        plan.n_rows()
    );

    // Modality 0 has the weight that all share in the second product; the others do not.
    let split = offsets.rows(0).end * out_features;
    assert!(y[..split] == y_shared[..split] && y[split..] != y_shared[split..]);
    // One element by hand: the last position, whose modality is another.
    let position = plan.n_rows() - 1;
    let row = plan.row_of_position()[position] as usize;
    let weight = &weights[usize::from(ids[position])];
    let by_hand: f64 =
        (0..in_features).map(|i| f64::from(x_by_position[position * in_features + i]) * f64::from(weight[i])).sum();
    println!(
        "position {position} is row {row}; its first output is {:.5}, by hand {by_hand:.5}",
        y[row * out_features]
    );
    assert!((f64::from(y[row * out_features]) - by_hand).abs() < 1e-3);
    Ok(())
}

/// The outputs, and the milliseconds of the fastest of some calls.
fn product(
    offsets: &ModalityOffsets,
    x: &[f32],
    weights: &GroupedWeights<'_, f32>,
) -> Result<(Vec<f32>, f64), mom_kernels::Error> {
    let mut y = vec![0.0; offsets.n_rows() * weights.out_features()];
    let mut fastest = f64::INFINITY;
    for _ in 0..20 {
        let began = Instant::now();
        let (x, y) = (Rows::new("x", x, weights.in_features())?, RowsMut::new("y", &mut y, weights.out_features())?);
        grouped_gemm::forward(offsets, x, weights, y)?;
        fastest = fastest.min(began.elapsed().as_secs_f64() * 1e3);
    }
    Ok((y, fastest))
}

/// Values between -1 and 1 that look random.
fn wave(len: usize, step: f32) -> Vec<f32> {
    (0..len).map(|i| (i as f32 * step).sin()).collect()
}
