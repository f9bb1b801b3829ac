//! Batches of 8 x 4096 positions from tokenised documents, as a training step takes them: packed, and in Transfusion with
//! patches and their noise. In positions a second, on all threads (`RAYON_NUM_THREADS` sets their number).
#![allow(missing_docs, clippy::unwrap_used)]

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mom_data::scenes::SceneSource;
use mom_data::{Batch, Dataset, Forms, Loader, Needs, Order, SourceConfig, TokenizerConfig, Tokenizers};
use mom_models::diffusion::{Noise, Timesteps};

const BATCH: usize = 8;
const SEQLEN: usize = 4096;

/// The noise of a batch, where it has patches.
fn noise(batch: &Batch, index: u64) -> Option<Noise> {
    let (n_images, n_values) = (batch.n_images(), batch.patches.len());
    (n_images > 0).then(|| Noise::draw(1, index, n_images, n_values, Timesteps::Independent))
}

fn bench(c: &mut Criterion) {
    let sources = [SourceConfig::generated(SceneSource { documents: 1000, ..SceneSource::default() })];
    let mut group = c.benchmark_group("loader");
    group.throughput(Throughput::Elements((BATCH * SEQLEN) as u64));
    group.measurement_time(Duration::from_secs(4)).sample_size(20);
    for (name, needs) in
        [("transfusion", Needs::PATCHES), ("chameleon", Needs::CODES), ("three-modality", Needs::CODES_AND_UNITS)]
    {
        let tokenizers = Tokenizers::fit(&sources, &TokenizerConfig::default(), needs, |_| {}).unwrap();
        let data = Dataset::load(&sources, &tokenizers).unwrap();
        let order = Order::Shuffled { seed: 1 };
        let mut loader = Loader::new(data.train, Forms::default(), BATCH, SEQLEN, order).unwrap();
        let first = loader.next_batch().unwrap();
        println!(
            "{name}: {} patches among {} positions, {:.1} % padding",
            first.n_patches(),
            BATCH * SEQLEN,
            100.0 * loader.padding()
        );
        group.bench_function(name, |b| b.iter(|| loader.next_batch().unwrap()));
        let mut step = 0;
        if first.n_patches() > 0 {
            group.bench_function(format!("{name} with noise"), |b| {
                b.iter(|| {
                    step += 1;
                    let batch = loader.next_batch().unwrap();
                    let noise = noise(&batch, step);
                    (batch, noise)
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
