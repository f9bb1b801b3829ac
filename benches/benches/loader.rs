//! Batches of 8 x 4096 positions from tokenised documents, as a training step takes them: packed, and in Transfusion with
//! patches and their noise. In positions a second, on all threads (`RAYON_NUM_THREADS` sets their number).
#![allow(missing_docs, clippy::unwrap_used)]

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mom_data::scenes::{ShardOptions, write_shards};
use mom_data::{Batch, Corpus, Dataset, Loader, Order, Recipe, TokenizerConfig, Tokenizers};
use mom_models::diffusion::{Noise, Timesteps};

const BATCH: usize = 8;
const SEQLEN: usize = 4096;

/// The noise of a batch, where it has patches.
fn noise(batch: &Batch, index: u64) -> Option<Noise> {
    let (n_images, n_values) = (batch.n_images(), batch.patches.len());
    (n_images > 0).then(|| Noise::draw(1, index, n_images, n_values, Timesteps::Independent))
}

fn bench(c: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    write_shards(folder.path(), &ShardOptions { documents: 1000, ..ShardOptions::default() }, |_, _| {}).unwrap();
    let corpus = Corpus::open(folder.path()).unwrap();
    let mut group = c.benchmark_group("loader");
    group.throughput(Throughput::Elements((BATCH * SEQLEN) as u64));
    group.measurement_time(Duration::from_secs(4)).sample_size(20);
    for (name, recipe) in [
        ("transfusion", Recipe::transfusion()),
        ("chameleon", Recipe::chameleon()),
        ("three-modality", Recipe::three_modality()),
    ] {
        let tokenizers = Tokenizers::fit(&corpus, &TokenizerConfig::default(), recipe.needs()).unwrap();
        let data = Dataset::load(&corpus, &tokenizers, &recipe).unwrap();
        let mut loader = Loader::new(data.train, recipe, BATCH, SEQLEN, Order::Shuffled { seed: 1 }).unwrap();
        let first = loader.next_batch().unwrap();
        println!("{name}: {} patches among {} positions", first.n_patches(), BATCH * SEQLEN);
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
