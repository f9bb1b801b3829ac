//! Weights files as publishers write them, made of golden weights: safetensors, PyTorch's zip files around a pickle, and its files from
//! before 1.6.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use mom_models::codecs::{Hubert, Mimi, Quantizer, Settings, Vae, Vqgan, Weights};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::Value as Json;

use crate::golden::Stored;

pub type Tensors = HashMap<String, Stored>;

/// A safetensors file with `config.json` beside it.
pub fn safetensors(folder: &Path, tensors: &Tensors, config: &Json) -> PathBuf {
    let path = folder.join("model.safetensors");
    let views = tensors.iter().map(|(name, stored)| {
        (name.as_str(), TensorView::new(stored.dtype, stored.shape.clone(), &stored.bytes).unwrap())
    });
    std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    path
}

/// A file of `torch.save`: the tensors in a dictionary, inside of the key `room` of another one where it is not empty, with
/// `settings` beside it.
pub fn torch(path: &Path, tensors: &Tensors, room: &str, settings: &Json) {
    let tensors: BTreeMap<_, _> = tensors.iter().collect();
    let pickle = pickle_of(&tensors, room, settings, false);
    let members: Vec<(String, &[u8])> =
        tensors.values().enumerate().map(|(i, stored)| (format!("archive/data/{i}"), &stored.bytes[..])).collect();
    zip(path, &pickle, &members);
}

/// The same as PyTorch wrote it before 1.6.
pub fn torch_legacy(path: &Path, tensors: &Tensors, room: &str, settings: &Json) {
    let tensors: BTreeMap<_, _> = tensors.iter().collect();
    let mut file = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.".to_vec();
    let sizes = serde_json::json!({ "short": 2, "int": 4, "long": 4 });
    let machine = serde_json::json!({ "protocol_version": 1001, "little_endian": true, "type_sizes": sizes });
    file.extend(b"\x80\x02");
    json(&mut file, &machine);
    file.push(b'.');
    file.extend(pickle_of(&tensors, room, settings, true));
    // Keys are sorted as text: storage 10 comes before 2.
    let mut keys: Vec<(String, &Stored)> = tensors.values().enumerate().map(|(i, &it)| (i.to_string(), it)).collect();
    keys.sort_by(|a, b| a.0.cmp(&b.0));
    file.extend(b"\x80\x02](");
    keys.iter().for_each(|(key, _)| text(&mut file, key));
    file.extend(b"e.");
    for (_, stored) in keys {
        file.extend((stored.shape.iter().product::<usize>() as u64).to_le_bytes());
        file.extend(&stored.bytes);
    }
    std::fs::write(path, file).unwrap();
}

/// The pickle that names tensors, whose storages are numbered; of a `legacy` file with what they are views of.
fn pickle_of(tensors: &BTreeMap<&String, &Stored>, room: &str, settings: &Json, legacy: bool) -> Vec<u8> {
    let mut pickle = b"\x80\x02".to_vec();
    if !room.is_empty() {
        pickle.extend(b"}(");
        text(&mut pickle, "settings");
        json(&mut pickle, settings);
        for (key, value) in settings.as_object().into_iter().flatten() {
            text(&mut pickle, key);
            json(&mut pickle, value);
        }
        text(&mut pickle, room);
    }
    pickle.extend(b"ccollections\nOrderedDict\n)R(");
    for (i, (name, stored)) in tensors.iter().enumerate() {
        text(&mut pickle, name);
        pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut pickle, "storage");
        let class = match stored.dtype {
            Dtype::F32 => "FloatStorage",
            Dtype::F16 => "HalfStorage",
            Dtype::BF16 => "BFloat16Storage",
            _ => panic!("{:?}", stored.dtype),
        };
        pickle.extend(format!("ctorch\n{class}\n").bytes());
        text(&mut pickle, &i.to_string());
        text(&mut pickle, "cpu");
        int(&mut pickle, stored.shape.iter().product());
        pickle.extend(if legacy { &b"NtQ"[..] } else { b"tQ" });
        int(&mut pickle, 0);
        sizes(&mut pickle, &stored.shape);
        let strides: Vec<usize> =
            (0..stored.shape.len()).map(|axis| stored.shape[axis + 1..].iter().product()).collect();
        sizes(&mut pickle, &strides);
        pickle.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    }
    pickle.push(b'u');
    if !room.is_empty() {
        pickle.push(b'u');
    }
    pickle.push(b'.');
    pickle
}

/// A zip file with a pickle and its storages, not compressed, as PyTorch writes it.
pub fn zip(path: &Path, pickle: &[u8], members: &[(String, &[u8])]) {
    let mut writer = zip::ZipWriter::new(std::fs::File::create(path).unwrap());
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let mut add = |name: &str, bytes: &[u8]| {
        writer.start_file(name, options).unwrap();
        writer.write_all(bytes).unwrap();
    };
    add("archive/data.pkl", pickle);
    for (name, bytes) in members {
        add(name, bytes);
    }
    writer.finish().unwrap();
}

fn text(pickle: &mut Vec<u8>, text: &str) {
    pickle.push(b'X');
    pickle.extend((text.len() as u32).to_le_bytes());
    pickle.extend(text.bytes());
}

fn int(pickle: &mut Vec<u8>, value: usize) {
    pickle.push(b'J');
    pickle.extend((value as i32).to_le_bytes());
}

fn sizes(pickle: &mut Vec<u8>, values: &[usize]) {
    pickle.push(b'(');
    for &value in values {
        int(pickle, value);
    }
    pickle.push(b't');
}

fn json(pickle: &mut Vec<u8>, value: &Json) {
    match value {
        Json::Bool(true) => pickle.push(0x88),
        Json::Bool(false) => pickle.push(0x89),
        Json::Number(number) => {
            pickle.push(b'G');
            pickle.extend(number.as_f64().unwrap().to_be_bytes());
            if let Some(whole) = number.as_u64() {
                pickle.truncate(pickle.len() - 9);
                int(pickle, whole as usize);
            }
        }
        Json::String(string) => text(pickle, string),
        Json::Object(map) => {
            pickle.extend(b"}(");
            for (key, value) in map {
                text(pickle, key);
                json(pickle, value);
            }
            pickle.push(b'u');
        }
        _ => pickle.push(b'N'),
    }
}

pub struct On {
    pub dtype: DType,
    pub device: Device,
}

pub const F32: On = On { dtype: DType::F32, device: Device::Cpu };
pub const BF16: On = On { dtype: DType::BF16, device: Device::Cpu };

impl On {
    pub fn vqgan(&self, path: &Path) -> mom_models::Result<Vqgan> {
        Vqgan::new(&Weights::open(path)?, self.dtype, &self.device)
    }

    pub fn vae(&self, path: &Path) -> mom_models::Result<Vae> {
        let weights = Weights::open(path)?;
        Vae::new(&weights, &Settings::of(&weights)?, self.dtype, &self.device)
    }

    pub fn mimi(&self, path: &Path) -> mom_models::Result<Mimi> {
        let weights = Weights::open(path)?;
        Mimi::new(&weights, &Settings::of(&weights)?, self.dtype, &self.device)
    }

    pub fn hubert(&self, path: &Path) -> mom_models::Result<Hubert> {
        let weights = Weights::open(path)?;
        Hubert::new(&weights, &Settings::of(&weights)?, self.dtype, &self.device)
    }

    pub fn quantizer(&self, path: &Path) -> mom_models::Result<Quantizer> {
        Quantizer::new(&Weights::open(path)?, &self.device)
    }
}
