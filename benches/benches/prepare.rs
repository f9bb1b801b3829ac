//! Preparing a source (reading, decoding, encoding, writing) beside decoding and encoding the same samples alone, out of
//! memory, on all threads: by format, in samples a second.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mom_data::readers::{Outcome, Sample};
use mom_data::scenes::{self, ImageFormat, SceneConfig, ShardOptions, write_shards};
use mom_data::{CodeKind, Dataset, ImageConfig, Needs, SourceConfig, TextConfig, TokenizerConfig, Tokenizers, encode};
use rayon::prelude::*;

const SAMPLES: usize = 600;
/// Pictures of a size that people have.
const SCENE: SceneConfig =
    SceneConfig { image_size: 256, sample_rate: 16_000, speech: scenes::Speech::Spoken, world: scenes::World::Small };

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

/// A format's own folder in the tests of mom-data.
fn fixtures(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/mom-data/tests/formats").join(name)
}

/// Pictures in tables of the datasets library: three tables many times.
fn parquet(folder: &Path) -> SourceConfig {
    for i in 0..40 {
        let table = fixtures(&format!("hf-parquet/datasets/data/train-0000{}-of-00003.parquet", i % 3));
        fs::copy(table, folder.join(format!("{i:03}.parquet"))).unwrap();
    }
    SourceConfig::at(folder)
}

/// FLAC files and transcripts of a few chapters, many times.
fn librispeech(folder: &Path) -> SourceConfig {
    let of_split = fixtures("librispeech/LibriSpeech/dev-clean");
    for (speaker, chapter) in [(1001, "100101"), (1001, "100102"), (2002, "200201"), (2002, "200202")] {
        for i in 0..20 {
            let to = folder.join(format!("LibriSpeech/dev-clean/{}/{chapter}", 10 * speaker + i));
            fs::create_dir_all(&to).unwrap();
            let renamed = |text: &str| text.replace(&format!("{speaker}-"), &format!("{}-", 10 * speaker + i));
            for entry in fs::read_dir(of_split.join(format!("{speaker}/{chapter}"))).unwrap() {
                let path = entry.unwrap().path();
                let to = to.join(renamed(path.file_name().unwrap().to_str().unwrap()));
                if path.extension().is_some_and(|ending| ending == "txt") {
                    fs::write(to, renamed(&fs::read_to_string(path).unwrap())).unwrap();
                } else {
                    fs::copy(path, to).unwrap();
                }
            }
        }
    }
    SourceConfig::at(folder.join("LibriSpeech"))
}

/// nanoGPT's: documents of a few hundred tokens.
fn token_file(folder: &Path) -> SourceConfig {
    const END: u16 = 50256;
    let document = |i: u32| (0..200 + i * 37 % 600).map(move |j| (i * 31 + j * 17) as u16 % 50_000).chain([END]);
    let bytes: Vec<u8> = (0..20_000).flat_map(document).flat_map(u16::to_le_bytes).collect();
    fs::write(folder.join("train.bin"), bytes).unwrap();
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
    // Few rows, many times, are few keys to be split by.
    let fitted = TokenizerConfig { image, held_out: 0.4, ..defaults };
    let text = TextConfig { kind: CodeKind::Precomputed, vocab_size: 50_257, ..fitted.text.clone() };
    let ready = TokenizerConfig { text, ..fitted.clone() };
    type Make = fn(&Path) -> SourceConfig;
    let formats: [(&str, Make, &TokenizerConfig); 6] = [
        ("webdataset", shards, &fitted),
        ("loose files", loose, &fitted),
        ("parquet", parquet, &fitted),
        ("librispeech", librispeech, &fitted),
        ("jsonl", jsonl, &fitted),
        ("token files", token_file, &ready),
    ];
    for (name, make, config) in formats {
        let dir = folder.path().join(name);
        fs::create_dir_all(&dir).unwrap();
        let source = make(&dir);
        let sources = [source.clone()];
        let tokenizers = Tokenizers::fit(&sources, config, Needs::CODES_AND_UNITS, |_| {}).unwrap();
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
