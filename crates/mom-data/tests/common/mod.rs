//! Shared by the integration tests: small corpora, and shards made by hand.
#![allow(dead_code, clippy::unwrap_used)]

use std::fs::File;
use std::path::{Path, PathBuf};

use mom_data::scenes::{self, SceneConfig, SceneSource, ShardOptions};
use mom_data::{ImageConfig, Needs, SourceConfig, TokenizerConfig};

/// All that a sample can have.
pub const ALL: Needs = Needs::CODES_AND_UNITS;

/// Options for a few small documents in shards of 16.
pub fn options(documents: usize) -> ShardOptions {
    let scene = SceneConfig { image_size: 16, ..SceneConfig::default() };
    ShardOptions { seed: 5, documents, documents_per_shard: 16, scene, ..ShardOptions::default() }
}

/// A configuration that fits [`options`] in a moment.
pub fn config() -> TokenizerConfig {
    let image = ImageConfig { size: 16, patch: 4, codes: 32, ..ImageConfig::default() };
    let mut config = TokenizerConfig { held_out: 0.2, image, ..TokenizerConfig::default() };
    config.text.vocab_size = 300;
    config.speech.units = 32;
    config
}

/// A few small documents, out of nothing.
pub fn generated(documents: usize) -> SourceConfig {
    SourceConfig::generated(SceneSource { seed: 5, documents, image_size: 16, ..SceneSource::default() })
}

/// Writes generated shards and returns their folder.
pub fn write(dir: &Path, options: &ShardOptions) -> PathBuf {
    let shards = dir.join("shards");
    scenes::write_shards(&shards, options, |_, _| {}).unwrap();
    shards
}

/// Writes a shard from names and contents.
pub fn tar(path: &Path, members: &[(&str, Vec<u8>)]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut archive = tar::Builder::new(File::create(path).unwrap());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, bytes.as_slice()).unwrap();
    }
    archive.into_inner().unwrap();
}

/// A wav file of any format from samples that are interleaved.
pub fn wav(rate: u32, channels: u16, bits: u16, values: &[f32]) -> Vec<u8> {
    let float = bits == 0;
    let spec = hound::WavSpec {
        channels,
        sample_rate: rate,
        bits_per_sample: if float { 32 } else { bits },
        sample_format: if float { hound::SampleFormat::Float } else { hound::SampleFormat::Int },
    };
    let mut bytes = std::io::Cursor::new(Vec::new());
    let mut writer = hound::WavWriter::new(&mut bytes, spec).unwrap();
    for &value in values {
        if float {
            writer.write_sample(value).unwrap();
        } else {
            writer.write_sample((f64::from(value) * f64::from((1u32 << (bits - 1)) - 1)) as i32).unwrap();
        }
    }
    writer.finalize().unwrap();
    bytes.into_inner()
}

/// A sine of one second, `channels` alike.
pub fn tone(rate: u32, channels: usize) -> Vec<f32> {
    let wave = |i: u32| 0.5 * (std::f32::consts::TAU * 440.0 * i as f32 / rate as f32).sin();
    (0..rate).flat_map(|i| std::iter::repeat_n(wave(i), channels)).collect()
}

/// A PNG of any colour type.
pub fn png(width: u32, height: u32, colour: image::ExtendedColorType, bytes: &[u8]) -> Vec<u8> {
    use image::ImageEncoder;
    let mut out = Vec::new();
    image::codecs::png::PngEncoder::new(&mut out).write_image(bytes, width, height, colour).unwrap();
    out
}
