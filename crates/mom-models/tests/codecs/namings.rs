//! One network in every file that it is published in: the golden values stay.

use std::io::Write;
use std::path::Path;

use candle_core::Device;
use mom_models::codecs::{KMeans, Weights};
use safetensors::Dtype;
use serde_json::{Value as Json, json};

use crate::files::{self, F32, Tensors};
use crate::golden::{Golden, Stored};
use crate::kinds::{self, Bar};

/// Tensors under other names.
fn renamed(tensors: &Tensors, name: impl Fn(&str) -> String) -> Tensors {
    tensors.iter().map(|(old, stored)| (name(old), stored.clone())).collect()
}

/// With something beside them that is none of the network's.
fn with(mut tensors: Tensors, name: &str) -> Tensors {
    let stored = Stored { dtype: Dtype::F32, shape: vec![2], bytes: vec![0; 8] };
    tensors.insert(name.to_owned(), stored);
    tensors
}

#[test]
fn metas_checkpoint_holds_the_vqgan() {
    let golden = Golden::own("chameleon_vqgan");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vqgan.ckpt");
    files::torch(&path, &with(golden.weights.clone(), "loss.discriminator.main.0.weight"), "state_dict", &Json::Null);
    kinds::vqgan(&golden, &Bar::exact(), &path);
}

#[test]
fn shards_of_the_whole_model_hold_the_vqgans_encoder() {
    let golden = Golden::own("chameleon_vqgan");
    let folder = tempfile::tempdir().unwrap();
    let encoder = golden.weights.iter().filter(|(name, _)| !name.starts_with("decoder."));
    let encoder: Tensors = encoder.map(|(name, stored)| (format!("model.vqmodel.{name}"), stored.clone())).collect();
    let encoder = with(encoder, "model.embed_tokens.weight");
    // Every other tensor in the second shard.
    let (mut shards, mut map) = ([Tensors::new(), Tensors::new()], serde_json::Map::new());
    for (i, (name, stored)) in encoder.into_iter().enumerate() {
        map.insert(name.clone(), json!(format!("model-0000{}-of-00002.safetensors", i % 2 + 1)));
        shards[i % 2].insert(name, stored);
    }
    for (i, shard) in shards.iter().enumerate() {
        let path = files::safetensors(folder.path(), shard, &json!({}));
        std::fs::rename(path, folder.path().join(format!("model-0000{}-of-00002.safetensors", i + 1))).unwrap();
    }
    let index = folder.path().join("model.safetensors.index.json");
    std::fs::write(&index, json!({ "weight_map": map }).to_string()).unwrap();
    let vqgan = F32.vqgan(&index).unwrap();
    golden.equal(&vqgan.encode(&golden.f32("image")).unwrap().flatten_all().unwrap().to_vec1().unwrap(), "codes");
    let error = vqgan.decode(&golden.code_tensor("codes")).unwrap_err().to_string();
    assert!(error.contains("no decoder"), "{error}");
}

/// latent-diffusion's names for diffusers' four levels.
fn latent_diffusion(name: &str) -> String {
    let mut name = name.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2");
    for (new, old) in [("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")] {
        name = name.replace(&format!("mid_block.attentions.0.{new}"), &format!("mid.attn_1.{old}"));
    }
    for level in 0..4 {
        name = name.replace(&format!("down_blocks.{level}."), &format!("down.{level}."));
        name = name.replace(&format!("up_blocks.{level}."), &format!("up.{}.", 3 - level));
    }
    name.replace("resnets.", "block.")
        .replace("downsamplers.0.", "downsample.")
        .replace("upsamplers.0.", "upsample.")
        .replace("conv_norm_out", "norm_out")
        .replace("conv_shortcut", "nin_shortcut")
}

#[test]
fn stable_diffusion_comes_in_many_files() {
    let golden = Golden::own("sd_vae");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), golden.config.to_string()).unwrap();
    let bar = Bar::exact();
    // diffusers' .bin: the tensors alone.
    let path = folder.path().join("diffusion_pytorch_model.bin");
    files::torch(&path, &golden.weights, "", &Json::Null);
    kinds::vae(&golden, &bar, &path);
    // Single files: 1x1 convolutions have their two axes, and everything else is beside them.
    let mut single = renamed(&golden.weights, latent_diffusion);
    for (name, stored) in &mut single {
        if name.contains("attn_1") && stored.shape.len() == 2 {
            stored.shape.extend([1, 1]);
        }
    }
    for prefix in ["first_stage_model.", "vae.", ""] {
        let tensors = with(renamed(&single, |name| format!("{prefix}{name}")), "model_ema.decay");
        let path = folder.path().join("v1-5.ckpt");
        files::torch(&path, &tensors, "state_dict", &Json::Null);
        kinds::vae(&golden, &bar, &path);
    }
    // As PyTorch wrote it before 1.6.
    files::torch_legacy(&path, &with(single, "model_ema.decay"), "state_dict", &Json::Null);
    kinds::vae(&golden, &bar, &path);
    // Attention as it was called before.
    let old = renamed(&golden.weights, |name| {
        let pairs = [("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")];
        pairs.iter().fold(name.to_owned(), |name, (new, old)| name.replace(new, old))
    });
    kinds::vae(&golden, &bar, &files::safetensors(folder.path(), &old, &golden.config));
}

#[test]
fn hubert_has_both_namings_of_weight_norm_and_a_prefix() {
    let golden = Golden::own("hubert_base");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), golden.config.to_string()).unwrap();
    let tensors = renamed(&golden.weights, |name| {
        let name = name.replace("conv.weight_g", "conv.parametrizations.weight.original0");
        format!("hubert.{}", name.replace("conv.weight_v", "conv.parametrizations.weight.original1"))
    });
    let path = folder.path().join("pytorch_model.bin");
    files::torch(&path, &with(tensors, "lm_head.weight"), "", &Json::Null);
    let hubert = F32.hubert(&path).unwrap();
    let features = hubert.layer(&golden.f32("audio_raw").unsqueeze(0).unwrap(), 3).unwrap();
    golden.within(&features, "features_3", crate::golden::TOLERANCE);
}

#[test]
fn fairseqs_checkpoints_tell_their_settings() {
    let golden = Golden::own("hubert_spiritlm_25hz");
    let (network, _) = kinds::spiritlm_parts(&golden);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mhubert_base_25hz.pt");
    let network = with(with(network, "label_embs_concat"), "final_proj.weight");
    files::torch(&path, &network, "model_weight", &golden.config);
    let hubert = F32.hubert(&path).unwrap();
    assert_eq!(hubert.settings().n_heads, Some(4));
    let features = hubert.layer(&golden.f32("audio").unsqueeze(0).unwrap(), 3).unwrap();
    golden.within(&features, "features_3", crate::golden::TOLERANCE);
    assert_eq!((hubert.hop(), hubert.reach()), (640, 720));
}

#[test]
fn half_precision_files_are_widened() {
    let golden = Golden::own("sd_vae");
    let folder = tempfile::tempdir().unwrap();
    let narrow = |stored: &Stored| {
        let values = stored.bytes.as_chunks().0.iter().map(|&bytes| half::f16::from_f32(f32::from_le_bytes(bytes)));
        Stored {
            dtype: Dtype::F16,
            shape: stored.shape.clone(),
            bytes: values.flat_map(half::f16::to_le_bytes).collect(),
        }
    };
    let tensors: Tensors = golden.weights.iter().map(|(name, stored)| (name.clone(), narrow(stored))).collect();
    let bar = Bar { tolerance: 5e-3, ..Bar::exact() };
    kinds::vae(&golden, &bar, &files::safetensors(folder.path(), &tensors, &golden.config));
    files::torch(&folder.path().join("model.fp16.bin"), &tensors, "", &Json::Null);
    kinds::vae(&golden, &bar, &folder.path().join("model.fp16.bin"));
}

/// k-means of scikit-learn as `joblib.dump` writes it: the array's bytes stand in the stream.
fn joblib(path: &Path, shape: &[usize], centroids: &[u8], aligned: bool) {
    let mut file = std::fs::File::create(path).unwrap();
    let mut pickle =
        b"\x80\x04\x8c\x17sklearn.cluster._kmeans\x94\x8c\x0fMiniBatchKMeans\x94\x93\x94)\x81\x94}\x94(".to_vec();
    pickle.extend(b"\x8c\x0an_clusters\x94K\x18\x8c\x10cluster_centers_\x94");
    pickle.extend(b"\x8c\x13joblib.numpy_pickle\x94\x8c\x11NumpyArrayWrapper\x94\x93\x94)\x81\x94}\x94(");
    pickle.extend(b"\x8c\x08subclass\x94\x8c\x05numpy\x94\x8c\x07ndarray\x94\x93\x94\x8c\x05shape\x94");
    pickle.extend([b'K', shape[0] as u8, b'K', shape[1] as u8, 0x86, 0x94]);
    pickle.extend(b"\x8c\x05order\x94\x8c\x01C\x94\x8c\x05dtype\x94cnumpy\ndtype\n\x8c\x02f4\x94\x89\x88\x87\x94R\x94");
    pickle.extend(b"(K\x03\x8c\x01<\x94NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t\x94b");
    if aligned {
        pickle.extend(b"\x8c\x1bnumpy_array_alignment_bytes\x94K\x10");
    }
    pickle.extend(b"\x8c\x0aallow_mmap\x94\x88ub");
    if aligned {
        pickle.extend([3, 255, 255, 255]);
    }
    file.write_all(&pickle).unwrap();
    file.write_all(centroids).unwrap();
    file.write_all(b"\x8c\x08inertia_\x94G\x3f\xf0\x00\x00\x00\x00\x00\x00ub.").unwrap();
}

#[test]
fn joblibs_k_means_is_read() {
    let golden = Golden::own("hubert_base");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("km.bin");
    for aligned in [false, true] {
        joblib(&path, golden.shape("centroids"), golden.bytes("centroids"), aligned);
        let kmeans = KMeans::new(&Weights::open(&path).unwrap(), &Device::Cpu).unwrap();
        assert_eq!(kmeans.n_units(), 24);
        golden.equal(&kmeans.units(&golden.f32("features_3").squeeze(0).unwrap()).unwrap(), "units");
    }
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let error = Weights::open(&path).unwrap_err().to_string();
    assert!(error.contains("km.bin") && error.contains("a whole pickle"), "{error}");
}
