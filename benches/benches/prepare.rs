//! Preparing a source (reading, decoding, encoding, writing) beside decoding and encoding the same samples alone, out of
//! memory, on all threads: by format, in samples a second.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mom_data::readers::{Outcome, Sample};
use mom_data::scenes::{self, ImageFormat, SceneConfig, ShardOptions, write_shards};
use mom_data::{Dataset, ImageConfig, Needs, SourceConfig, TokenizerConfig, Tokenizers, encode};
use rayon::prelude::*;

const SAMPLES: usize = 600;
/// Pictures of a size that people have.
const SCENE: SceneConfig = SceneConfig { image_size: 256, sample_rate: 16_000, speech: scenes::Speech::Spoken };

fn shards(folder: &Path) -> SourceConfig {
    let options = ShardOptions {
        documents: SAMPLES,
        documents_per_shard: 200,
        scene: SCENE,
        image_format: ImageFormat::Jpeg { quality: 90 },
        ..ShardOptions::default()
    };
    write_shards(folder, &options, |_, _| {}).unwrap();
    SourceConfig::at(folder)
}

fn loose(folder: &Path) -> SourceConfig {
    for index in 0..SAMPLES {
        let document = scenes::document(1, index as u64, &SCENE);
        let path = folder.join(format!("{:02}/{index:06}", index % 16));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path.with_extension("txt"), document.caption).unwrap();
        fs::write(path.with_extension("jpg"), encode::jpeg(&document.image, 90).unwrap()).unwrap();
        fs::write(path.with_extension("wav"), encode::wav(&document.speech, SCENE.sample_rate).unwrap()).unwrap();
    }
    SourceConfig::at(folder)
}

fn jsonl(folder: &Path) -> SourceConfig {
    let silent = SceneConfig { image_size: 8, speech: scenes::Speech::Silent, ..SCENE };
    let captions: Vec<String> = (0..512).map(|i| scenes::document(2, i, &silent).caption).collect();
    let text = |first: usize| (0..40).map(|i| captions[(first + i) % captions.len()].clone() + " ").collect::<String>();
    let lines: String = (0..2 * SAMPLES).map(|i| format!("{{\"id\": {i}, \"text\": {:?}}}\n", text(7 * i))).collect();
    fs::write(folder.join("texts.jsonl"), lines).unwrap();
    SourceConfig::at(folder)
}

fn samples(source: &SourceConfig) -> Vec<Sample> {
    let reader = source.open().unwrap();
    let mut samples = Vec::new();
    for unit in 0..reader.units().len() {
        reader
            .read(unit, &mut |outcome| {
                if let Outcome::Sample(sample) = outcome {
                    samples.push(sample);
                }
                ControlFlow::Continue(())
            })
            .unwrap();
    }
    samples
}

fn bench(c: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let defaults = TokenizerConfig::default();
    let image = ImageConfig { size: 64, patch: 8, ..defaults.image.clone() };
    let config = TokenizerConfig { image, ..defaults };
    for (name, make) in [("webdataset", shards as fn(&Path) -> SourceConfig), ("loose files", loose), ("jsonl", jsonl)]
    {
        let dir = folder.path().join(name);
        fs::create_dir_all(&dir).unwrap();
        let source = make(&dir);
        let sources = [source.clone()];
        let tokenizers = Tokenizers::fit(&sources, &config, Needs::CODES_AND_UNITS, |_| {}).unwrap();
        let samples = samples(&source);
        let mut group = c.benchmark_group(name);
        group.throughput(Throughput::Elements(samples.len() as u64));
        group.measurement_time(Duration::from_secs(8)).sample_size(10);
        group.bench_function("decode and encode alone", |b| {
            b.iter(|| samples.par_iter().filter(|s| Dataset::document(s, &source, &tokenizers).is_ok()).count());
        });
        group.bench_function("prepare", |b| {
            b.iter(|| {
                let out = tempfile::tempdir_in(folder.path()).unwrap();
                Dataset::prepare(&sources, &tokenizers, out.path(), |_| {}).unwrap().train.len()
            });
        });
        group.finish();
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
