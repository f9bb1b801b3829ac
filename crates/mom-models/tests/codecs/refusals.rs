//! What is not taken, and what the errors say.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use mom_models::Error;
use mom_models::codecs::{CodecError, Network, Weights};
use serde_json::{Value as Json, json};

use crate::files::{self, F32, Tensors};
use crate::golden::{Golden, is_left_out};
use crate::kinds;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, tensors: &Tensors, config: &Json) -> PathBuf {
        files::safetensors(self.0.path(), tensors, config)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

fn codec_error<T>(result: Result<T, Error>) -> CodecError {
    match result {
        Err(Error::Codec(error)) => error,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("taken"),
    }
}

/// Opens a file as the network of a golden kind.
fn open(kind: &str, path: &Path) -> Result<(), Error> {
    match kind {
        "chameleon_vqgan" => F32.vqgan(path).map(drop),
        "autoencoder_kl" => F32.vae(path).map(drop),
        "mimi" | "mimi_kyutai" => F32.mimi(path).map(drop),
        _ => F32.hubert(path).map(drop),
    }
}

const FILES: [&str; 6] =
    ["chameleon_vqgan", "sd_vae", "mimi_odd_length", "mimi_kyutai_names", "hubert_base", "hubert_spiritlm_25hz"];

fn network(golden: &Golden) -> Tensors {
    match golden.kind.as_str() {
        "hubert_spiritlm" => kinds::spiritlm_parts(golden).0,
        _ => golden.weights.clone(),
    }
}

#[test]
fn what_is_missing_left_over_or_misshapen_is_named() {
    let folder = Folder::new();
    for name in FILES.into_iter().filter(|name| !is_left_out(name)) {
        let golden = Golden::own(name);
        let tensors = network(&golden);
        let mut names: Vec<_> = tensors.keys().collect();
        names.sort();
        // A choice that meets every part of a network: all would take as long as everything else together.
        for missing in names.iter().step_by(13) {
            if missing.ends_with("initialized") || ["masked_spec_embed", "mask_emb"].contains(&missing.as_str()) {
                continue;
            }
            let mut fewer = tensors.clone();
            let mut wrong = fewer.remove(*missing).unwrap();
            let opened = open(&golden.kind, &folder.file(&fewer, &golden.config));
            let error = opened.expect_err(missing).to_string();
            assert!(error.contains(missing.as_str()), "{name}: without {missing}: {error}");
            wrong.shape.insert(0, 1);
            wrong.shape.push(1);
            wrong.shape.push(1);
            fewer.insert((*missing).clone(), wrong);
            let error = open(&golden.kind, &folder.file(&fewer, &golden.config)).unwrap_err().to_string();
            assert!(error.contains(missing.as_str()), "{name}: {missing}: {error}");
        }
        let inside = names.iter().find(|name| name.ends_with("conv1.weight") || name.contains("layers.0.")).unwrap();
        let mut more = tensors.clone();
        more.insert(format!("{inside}.more"), tensors[*inside].clone());
        let error = codec_error(open(&golden.kind, &folder.file(&more, &golden.config)));
        assert!(matches!(error, CodecError::ExtraTensors { n: 1, .. }), "{error}");
        assert!(error.to_string().contains(&format!("{inside}.more")), "{error}");
    }
}

#[test]
fn weights_that_are_not_numbers_are_refused() {
    let folder = Folder::new();
    for name in FILES.into_iter().filter(|name| !is_left_out(name)) {
        let golden = Golden::own(name);
        let mut tensors = network(&golden);
        let broken = tensors.keys().filter(|name| name.ends_with("weight")).min().unwrap().clone();
        // The golden weights are f32.
        let bytes = &mut tensors.get_mut(&broken).unwrap().bytes;
        let at = bytes.len() - 4;
        bytes[at..].copy_from_slice(&f32::NAN.to_le_bytes());
        let error = open(&golden.kind, &folder.file(&tensors, &golden.config)).unwrap_err().to_string();
        assert!(error.contains(&broken) && error.contains("NaN"), "{name}: {error}");
    }
}

#[test]
fn weights_of_another_network_are_refused() {
    let folder = Folder::new();
    let own = |name: &str| {
        let golden = Golden::own(name);
        (network(&golden), golden.kind)
    };
    let kinds = ["chameleon_vqgan", "autoencoder_kl", "mimi", "hubert"];
    let of = |kind: &str| match kind {
        "mimi_kyutai" => 2,
        "hubert_spiritlm" => 3,
        other => kinds.iter().position(|kind| *kind == other).unwrap(),
    };
    for name in FILES.into_iter().filter(|name| !is_left_out(name)) {
        let (tensors, kind) = own(name);
        let path = folder.file(&tensors, &json!({}));
        for other in (0..kinds.len()).filter(|&other| other != of(&kind)) {
            let error = codec_error(open(kinds[other], &path));
            assert!(matches!(error, CodecError::OtherNetwork { .. }), "{name} as {}: {error}", kinds[other]);
        }
        let error = codec_error(F32.quantizer(&path));
        assert!(matches!(error, CodecError::OtherNetwork { .. }), "{error}");
    }
    let stranger = Tensors::from([("wte.weight".to_owned(), own("sd_vae").0["quant_conv.weight"].clone())]);
    let path = folder.file(&stranger, &json!({}));
    let error = codec_error(open("mimi", &path)).to_string();
    assert!(error.contains("expected the weights of Mimi") && error.contains("wte.weight"), "{error}");
    assert!(Network::of(&Weights::open(&path).unwrap()).is_none());
}

#[test]
fn a_pickle_that_asks_for_code_is_refused() {
    let folder = Folder::new();
    let path = folder.path("model.ckpt");
    let asks: [(&[u8], &str); 5] = [
        (b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.", "os.system"),
        (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.", "builtins.eval"),
        (b"\x80\x02csubprocess\nPopen\n)\x81.", "subprocess.Popen"),
        (b"\x80\x02ccopyreg\n_reconstructor\n(csocket\nsocket\ncbuiltins\nobject\nNtR.", "socket.socket"),
        (b"\x80\x02(ios\nsystem\n.", "operation 0x69"),
    ];
    for (pickle, function) in asks {
        files::zip(&path, pickle, &[]);
        let error = codec_error(Weights::open(&path));
        assert!(matches!(error, CodecError::Code { .. }), "{error}");
        assert!(error.to_string().contains(function), "{error}");
        let bare = folder.path("km.bin");
        std::fs::write(&bare, pickle).unwrap();
        assert!(matches!(codec_error(Weights::open(&bare)), CodecError::Code { .. }));
    }
}

#[test]
fn damaged_files_are_errors() {
    let folder = Folder::new();
    let golden = Golden::own("hubert_large");
    let path = folder.path("model.bin");
    files::torch(&path, &golden.weights, "model", &json!({ "cfg": { "model": { "encoder_attention_heads": 3 } } }));
    let whole = std::fs::read(&path).unwrap();
    for part in [0, 1, 3, 40, whole.len() / 3, whole.len() - 1] {
        std::fs::write(&path, &whole[..part]).unwrap();
        assert!(matches!(codec_error(Weights::open(&path)), CodecError::Format { .. }), "{part} bytes");
    }
    files::torch_legacy(&path, &golden.weights, "model", &Json::Null);
    let whole = std::fs::read(&path).unwrap();
    for part in [0, 1, 15, 40, 200, 4000, whole.len() / 3, whole.len() - 1] {
        std::fs::write(&path, &whole[..part]).unwrap();
        assert!(matches!(codec_error(Weights::open(&path)), CodecError::Format { .. }), "{part} bytes");
    }
    let big_endian = b"little_endian\x89";
    let at = whole.windows(big_endian.len()).position(|bytes| bytes[..13] == big_endian[..13]).unwrap();
    let mut other = whole;
    other[at..at + big_endian.len()].copy_from_slice(big_endian);
    std::fs::write(&path, other).unwrap();
    assert!(codec_error(Weights::open(&path)).to_string().contains("big-endian"), "another machine's");
    let path = folder.file(&golden.weights, &json!({}));
    let whole = std::fs::read(&path).unwrap();
    for part in [0, 4, 9, 100, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..part]).unwrap();
        assert!(matches!(codec_error(Weights::open(&path)), CodecError::Format { .. }), "{part} bytes");
    }
    std::fs::write(&path, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n").unwrap();
    assert!(codec_error(Weights::open(&path)).to_string().contains("Git LFS"), "a pointer");
    assert!(matches!(codec_error(Weights::open(folder.path("none"))), CodecError::Io { .. }));
}

/// Pickles with every byte changed, and cut at every length: an error or a value, no panic, no endless memory.
#[test]
fn no_pickle_is_worse_than_an_error() {
    let folder = Folder::new();
    let path = folder.path("model.bin");
    let golden = Golden::own("hubert_spiritlm_25hz");
    let (_, quantizer) = kinds::spiritlm_parts(&golden);
    let few: Tensors = quantizer.into_iter().filter(|(name, _)| name.ends_with("bias")).collect();
    files::torch(&path, &few, "model_weight", &json!({ "task_cfg": { "normalize": true, "n": 3, "x": 0.5 } }));
    let mut archive = zip::ZipArchive::new(std::fs::File::open(&path).unwrap()).unwrap();
    let mut pickle = Vec::new();
    std::io::Read::read_to_end(&mut archive.by_name("archive/data.pkl").unwrap(), &mut pickle).unwrap();
    let members: Vec<(String, &[u8])> =
        (0..few.len()).map(|i| (format!("archive/data/{i}"), &[0u8; 4096][..])).collect();
    let mut taken = 0;
    for at in 0..pickle.len() {
        for change in [1, 0x80, 0xff] {
            let mut changed = pickle.clone();
            changed[at] ^= change;
            files::zip(&path, &changed, &members);
            if let Ok(weights) = Weights::open(&path) {
                taken += 1;
                for name in weights.names() {
                    let _ = weights.tensor(name, DType::F32, &Device::Cpu);
                }
            }
        }
        files::zip(&path, &pickle[..at], &members);
        assert!(Weights::open(&path).is_err(), "{at} bytes");
    }
    assert!(taken > 0);
    files::torch_legacy(&path, &few, "model_weight", &Json::Null);
    let whole = std::fs::read(&path).unwrap();
    for at in 0..whole.len() {
        for change in [1, 0x80, 0xff] {
            let mut changed = whole.clone();
            changed[at] ^= change;
            std::fs::write(&path, changed).unwrap();
            if let Ok(weights) = Weights::open(&path) {
                for name in weights.names() {
                    let _ = weights.tensor(name, DType::F32, &Device::Cpu);
                }
            }
        }
        std::fs::write(&path, &whole[..at]).unwrap();
        assert!(Weights::open(&path).is_err(), "{at} bytes");
    }
}

#[test]
fn settings_that_do_not_fit_are_named() {
    let folder = Folder::new();
    let golden = Golden::own("hubert_base");
    for (key, value) in [
        ("num_attention_heads", json!(7)),
        ("num_attention_heads", json!("four")),
        ("conv_stride", json!([5, 2])),
        ("conv_stride", json!([5, 0, 2, 2, 2, 2, 2])),
        ("do_normalize", json!("yes")),
    ] {
        let mut config = golden.config.clone();
        config[key] = value;
        let error = codec_error(F32.hubert(&folder.file(&golden.weights, &config)));
        assert!(matches!(error, CodecError::Setting { .. }) && error.to_string().contains(key), "{error}");
    }
    let golden = Golden::own("sd_vae");
    let mut config = golden.config.clone();
    config["norm_num_groups"] = json!(5);
    let error = codec_error(F32.vae(&folder.file(&golden.weights, &config))).to_string();
    assert!(error.contains("norm_num_groups") && error.contains("got 5"), "{error}");
    std::fs::write(folder.path("config.json"), "{").unwrap();
    let error = codec_error(F32.vae(&folder.path("model.safetensors"))).to_string();
    assert!(error.contains("config.json"), "{error}");
}

#[test]
fn arguments_that_do_not_fit_are_named() {
    let folder = Folder::new();
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let says = |result: Result<Tensor, Error>, words: &str| {
        let error = codec_error(result);
        assert!(matches!(error, CodecError::Argument { .. }), "{error}");
        assert!(error.to_string().contains(words), "{error}");
    };
    let golden = Golden::own("chameleon_vqgan");
    let vqgan = F32.vqgan(&folder.file(&golden.weights, &golden.config)).unwrap();
    says(vqgan.encode(&zeros(&[1, 3, 40, 64])), "sides that 16 divides");
    says(vqgan.encode(&zeros(&[1, 1, 64, 64])), "[1, 1, 64, 64]");
    says(vqgan.encode(&zeros(&[3, 64, 64])), "[3, 64, 64]");
    let codes = |values: &[u32], shape: &[usize]| Tensor::from_slice(values, shape, &Device::Cpu).unwrap();
    says(vqgan.decode(&codes(&[0, 256], &[1, 1, 2])), "below 256, got 256");
    says(vqgan.decode(&codes(&[0, 1], &[2])), "(batch, height, width) u32");
    let golden = Golden::own("sd_vae");
    let vae = F32.vae(&folder.file(&golden.weights, &golden.config)).unwrap();
    says(vae.decode(&zeros(&[1, 8, 4, 4])), "(batch, 4, height, width)");
    says(vae.mean(&zeros(&[1, 4, 4, 4])), "(batch, 8, height, width)");
    says(vae.draw(&zeros(&[1, 8, 4, 4]), &zeros(&[1, 4, 4, 2])), "noise");
    let golden = Golden::own("mimi_odd_length");
    let mimi = F32.mimi(&folder.file(&golden.weights, &golden.config)).unwrap();
    says(mimi.encode(&zeros(&[1, 2, 4000]), 1), "(batch, 1, samples)");
    says(mimi.encode(&zeros(&[1, 1, 4000]), 6), "1 to 5");
    says(mimi.encode(&zeros(&[1, 1, 4000]), 0), "1 to 5");
    says(mimi.decode(&codes(&[0, 32], &[1, 1, 2])), "below 32");
    let golden = Golden::own("hubert_base");
    let hubert = F32.hubert(&folder.file(&golden.weights, &golden.config)).unwrap();
    says(hubert.layer(&zeros(&[1, 399]), 1), "at least 400 samples");
    says(hubert.layer(&zeros(&[1, 4000]), 5), "1 to 4");
    assert_eq!(hubert.layer(&zeros(&[2, 400]), 1).unwrap().dims(), [2, 1, 64]);
}

#[test]
fn a_pickle_that_joblib_compressed_is_told_as_one() {
    let folder = Folder::new();
    let path = folder.path("km.bin");
    std::fs::write(&path, b"\x78\x5e\xad\x7a\x79\x5c\x4d\xdd\xf7\x7f").unwrap();
    let message = Weights::open(&path).unwrap_err().to_string();
    assert!(message.contains("km.bin") && message.contains("compress=0"), "{message}");
}
