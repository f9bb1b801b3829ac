//! The cross-entropy at other vocabularies than the models', and its sums.

use mom_kernels::cuda::cross_entropy::{
    GroupInputs, Losses, Scale, Targets, forward, forward_backward_in_place, group_sums, group_sums_workspace_len,
};
use mom_kernels::cuda::half::bf16;
use mom_kernels::{RowsMut, cross_entropy as host};

use crate::Error;
use crate::timing::{Bench, expect, noise, relative};

/// Rows of logits that differ; the others repeat them.
const SOME_ROWS: usize = 64;

/// Rows that fill a block, that lie anywhere, that are short, that fit no block.
pub fn cross_entropies(bench: &mut Bench<'_>) -> Result<(), Error> {
    for (n_rows, vocabulary) in [(8192, 65_536), (8192, 50_257), (65_536, 2048), (4096, 131_072)] {
        if bench.wants("cross entropy") {
            cross_entropy(bench, &format!("{n_rows} x {vocabulary}"), n_rows, vocabulary)?;
        }
    }
    Ok(())
}

fn cross_entropy(bench: &mut Bench<'_>, shape: &str, n_rows: usize, vocabulary: usize) -> Result<(), Error> {
    let gpu = bench.gpu;
    let scale = Scale::new(1.0 / n_rows as f32).with_z(1e-5);
    let some: Vec<bf16> = noise(SOME_ROWS * vocabulary, 1, 8.0).into_iter().map(bf16::from_f32).collect();
    let some_targets: Vec<u32> = (0..SOME_ROWS).map(|row| (row * 977 % vocabulary) as u32).collect();
    let targets: Vec<u32> = some_targets.iter().cycle().take(n_rows).copied().collect();
    let mut logits = gpu.upload(&some.repeat(n_rows.div_ceil(SOME_ROWS))[..n_rows * vocabulary])?;
    let targets = gpu.upload(&targets)?;
    let targets = Targets::new(gpu.read(&targets));
    let (mut loss, mut lse) = (gpu.zeros::<f32>(n_rows)?, gpu.zeros::<f32>(n_rows)?);
    let mut out_of_range = gpu.zeros::<u32>(1)?;
    let mut losses = Losses::new(gpu.write(&mut loss), gpu.write(&mut lse), gpu.write(&mut out_of_range));
    let bytes = (n_rows * vocabulary) as f64 * 2.0;
    let rows = gpu.rows(&logits, vocabulary)?;
    bench.time("cross entropy forward", shape, bytes, 0.0, || forward(gpu, &rows, &targets, &mut losses))?;
    drop(rows);
    let mut rows = gpu.rows_mut(&mut logits, vocabulary)?;
    forward_backward_in_place(gpu, &mut rows, &targets, scale, &mut losses)?;
    drop((rows, losses));
    let mut want: Vec<f64> = some.iter().map(|x| x.to_f64()).collect();
    let mut want_losses = vec![host::RowLoss::default(); SOME_ROWS];
    let gradient = host::Gradient::InPlace { scale: f64::from(scale.scale), z: f64::from(scale.z) };
    let rows = RowsMut::new("logits", &mut want, vocabulary)?;
    host::forward_backward(rows, &some_targets, gradient, &mut want_losses)?;
    let first = gpu.stream().clone_dtoh(&logits.slice(..SOME_ROWS * vocabulary))?;
    expect(&format!("gradient {shape}"), relative(first.iter().map(|x| x.to_f64()), &want), 4e-3)?;
    let losses = gpu.download(&loss)?.into_iter().take(SOME_ROWS).map(f64::from);
    let want: Vec<f64> = want_losses.iter().map(|loss| loss.nll).collect();
    expect(&format!("loss {shape}"), relative(losses, &want), 1e-6)?;
    let mut losses = Losses::new(gpu.write(&mut loss), gpu.write(&mut lse), gpu.write(&mut out_of_range));
    let mut rows = gpu.rows_mut(&mut logits, vocabulary)?;
    bench.time("cross entropy forward + backward", shape, 2.0 * bytes, 0.0, || {
        forward_backward_in_place(gpu, &mut rows, &targets, scale, &mut losses)
    })?;
    drop(losses);
    let mut sums = gpu.zeros::<f64>(3)?;
    let mut workspace = gpu.zeros::<f64>(group_sums_workspace_len(n_rows, 1))?;
    bench.time("loss by group", shape, n_rows as f64 * 12.0, 0.0, || {
        let (loss, lse) = (gpu.read(&loss), gpu.read(&lse));
        let inputs = GroupInputs::new(targets.clone(), vocabulary, loss, lse);
        let (mut sums, mut out_of_range) = (gpu.write(&mut sums), gpu.write(&mut out_of_range));
        group_sums(gpu, &inputs, 1, &mut sums, &mut out_of_range, gpu.write(&mut workspace))
    })?;
    Ok(())
}
