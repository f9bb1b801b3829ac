//! What is compared in a golden file of each kind.

use std::path::Path;

use candle_core::{Device, Tensor};
use mom_models::codecs::{Quantizer, deduplicated, pixels};

use crate::files::{On, Tensors, safetensors};
use crate::golden::{Golden, Stored, TOLERANCE};
use crate::image_prep;

/// How exactly a file is to be met.
pub struct Bar {
    pub on: On,
    pub tolerance: f64,
    /// Codes are to be equal.
    pub codes: bool,
}

impl Bar {
    pub fn exact() -> Self {
        Self { on: crate::files::F32, tolerance: TOLERANCE, codes: true }
    }
}

/// Runs one file; panics where it is not met.
pub fn run(golden: &Golden, bar: &Bar) {
    let folder = tempfile::tempdir().unwrap();
    match golden.kind.as_str() {
        "chameleon_vqgan" => vqgan(golden, bar, &safetensors(folder.path(), &golden.weights, &golden.config)),
        "flux_ae" | "autoencoder_kl" => vae(golden, bar, &safetensors(folder.path(), &golden.weights, &golden.config)),
        "mimi" | "mimi_kyutai" => mimi(golden, bar, &safetensors(folder.path(), &golden.weights, &golden.config)),
        "hubert" => hubert(golden, bar, folder.path()),
        "hubert_spiritlm" => spiritlm(golden, bar, folder.path()),
        "image_prep" => image_prep::run(golden),
        kind => panic!("{}: unknown kind {kind}", golden.name),
    }
}

fn codes(bar: &Bar, golden: &Golden, got: &Tensor, name: &str) {
    if bar.codes {
        golden.equal(&got.flatten_all().unwrap().to_vec1::<u32>().unwrap(), name);
    }
}

fn image(golden: &Golden) -> Tensor {
    let &[batch, height, width, 3] = golden.shape("pixels") else { panic!("pixels") };
    let image = pixels::from_bytes(golden.bytes("pixels"), batch, height, width, &Device::Cpu).unwrap();
    golden.within(&image, "image", 1e-7);
    image
}

pub fn vqgan(golden: &Golden, bar: &Bar, path: &Path) {
    let vqgan = bar.on.vqgan(path).unwrap();
    golden.within(&vqgan.features(&image(golden)).unwrap(), "pre_quant", bar.tolerance);
    codes(bar, golden, &vqgan.encode(&golden.f32("image")).unwrap(), "codes");
    golden.within(&vqgan.embed(&golden.code_tensor("codes")).unwrap(), "quantized", 1e-7);
    golden.within(&vqgan.decode(&golden.code_tensor("codes")).unwrap(), "decoded", bar.tolerance);
}

pub fn vae(golden: &Golden, bar: &Bar, path: &Path) {
    let vae = bar.on.vae(path).unwrap();
    let moments = vae.moments(&image(golden)).unwrap();
    golden.within(&moments, "moments", bar.tolerance);
    golden.within(&vae.mean(&moments).unwrap(), "latent_scaled", bar.tolerance);
    golden.within(&vae.decode(&golden.f32("latent_scaled")).unwrap(), "decoded", bar.tolerance);
}

pub fn mimi(golden: &Golden, bar: &Bar, path: &Path) {
    let mimi = bar.on.mimi(path).unwrap();
    let audio = golden.f32("audio");
    golden.within(&mimi.latents(&audio).unwrap(), "latent", bar.tolerance);
    codes(bar, golden, &mimi.encode(&audio, mimi.n_codebooks()).unwrap(), "codes");
    if golden.has("codes_padded_audio") {
        let padded = mimi.pad(&audio).unwrap();
        golden.within(&mimi.latents(&padded).unwrap(), "latent_padded_audio", bar.tolerance);
        codes(bar, golden, &mimi.encode(&padded, mimi.n_codebooks()).unwrap(), "codes_padded_audio");
    }
    golden.within(&mimi.embed(&golden.code_tensor("codes")).unwrap(), "quantized", TOLERANCE);
    golden.within(&mimi.decode(&golden.code_tensor("codes")).unwrap(), "decoded", bar.tolerance);
}

/// Centroids alone, as safetensors.
fn centroids(golden: &Golden, folder: &Path) -> std::path::PathBuf {
    let stored = Stored {
        dtype: safetensors::Dtype::F32,
        shape: golden.shape("centroids").to_vec(),
        bytes: golden.bytes("centroids").to_vec(),
    };
    let folder = folder.join("units");
    std::fs::create_dir(&folder).unwrap();
    safetensors(&folder, &Tensors::from([("centroids".to_owned(), stored)]), &serde_json::Value::Null)
}

fn hubert(golden: &Golden, bar: &Bar, folder: &Path) {
    let hubert = bar.on.hubert(&safetensors(folder, &golden.weights, &golden.config)).unwrap();
    let layer = golden.config["feature_layer"].as_u64().unwrap() as usize;
    let audio = golden.f32("audio_raw").unsqueeze(0).unwrap();
    golden.within(
        &hubert.convolved(&audio).unwrap().to_dtype(candle_core::DType::F32).unwrap(),
        "conv_features",
        bar.tolerance,
    );
    let features = hubert.layer(&audio, layer).unwrap();
    golden.within(&features, &format!("features_{layer}"), bar.tolerance);
    golden.within(&hubert.last(&audio).unwrap(), "last_hidden_state", bar.tolerance);
    let quantizer = bar.on.quantizer(&centroids(golden, folder)).unwrap();
    units(golden, bar, &hubert.units(&golden.samples("audio_raw"), layer, &quantizer).unwrap());
}

fn spiritlm(golden: &Golden, bar: &Bar, folder: &Path) {
    let (network, quantizer) = spiritlm_parts(golden);
    let hubert = bar.on.hubert(&safetensors(folder, &network, &golden.config)).unwrap();
    let layer = golden.config["feature_layer"].as_u64().unwrap() as usize;
    let audio = golden.f32("audio").unsqueeze(0).unwrap();
    golden.within(&hubert.convolved(&audio).unwrap(), "conv_features", bar.tolerance);
    let features = hubert.layer(&audio, layer).unwrap();
    golden.within(&features, &format!("features_{layer}"), bar.tolerance);
    let path = folder.join("quantizer");
    std::fs::create_dir(&path).unwrap();
    let quantizer = bar.on.quantizer(&safetensors(&path, &quantizer, &serde_json::Value::Null)).unwrap();
    let Quantizer::Linear(linear) = &quantizer else { panic!("{}: {quantizer:?}", golden.name) };
    let logits = linear.logits(&features.squeeze(0).unwrap()).unwrap();
    golden.within(&logits, "logits", bar.tolerance);
    codes(bar, golden, &logits.argmax(1).unwrap(), "units_with_blank");
    units(golden, bar, &hubert.units(&golden.samples("audio"), layer, &quantizer).unwrap());
}

/// The weights of HuBERT and of the quantizer, which are two files.
pub fn spiritlm_parts(golden: &Golden) -> (Tensors, Tensors) {
    let part = |prefix: &str| {
        let inside = |(name, stored): (&String, &Stored)| Some((name.strip_prefix(prefix)?.to_owned(), stored.clone()));
        golden.weights.iter().filter_map(inside).collect()
    };
    (part("hubert."), part("quantizer."))
}

fn units(golden: &Golden, bar: &Bar, got: &[u32]) {
    if bar.codes {
        golden.equal(got, "units");
        let (units, durations) = deduplicated(got);
        golden.equal(&units, "units_dedup");
        golden.equal(&durations, "durations");
    }
}
