//! A weights file, whatever wrote it: names, shapes and places of its tensors, each read when it is asked for.
//!
//! Told by its bytes: safetensors (one file, or shards by their `*.index.json`), PyTorch's zip files (`.ckpt`, `.pth`,
//! `.pt`, `.bin`) and those from before 1.6, joblib's pickles of scikit-learn. Source: the safetensors format's README; `torch/_utils.py`
//! (`_rebuild_tensor_v2`) and `torch/serialization.py`; `joblib/numpy_pickle.py`.

mod joblib;
pub(super) mod pickle;
mod safetensors;
mod stored;
mod torch;
mod torch_legacy;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde_json::Value as Json;
use stored::Entry;

use crate::Result;
use crate::codecs::CodecError;

/// The tensors of a weights file, by name.
#[derive(Debug)]
pub struct Weights {
    path: PathBuf,
    /// The file, or its shards.
    files: Vec<PathBuf>,
    entries: BTreeMap<String, Entry>,
    /// Settings that lie in the same file: a trainer's `cfg`, `model_cfg`, ...; null where there are none.
    settings: Json,
}

impl Weights {
    /// The tensors of a file, told by its bytes; `NAME.index.json` stands for the shards that it lists.
    ///
    /// # Errors
    /// A file that cannot be read, is damaged, cut off or of another format; a pickle that asks for code.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if path.to_string_lossy().ends_with(".index.json") {
            return safetensors::open_shards(path);
        }
        let mut head = [0; 16];
        let mut file = open_file(path)?;
        let n = read_up_to(&mut file, &mut head, path)?;
        let head = &head[..n];
        if head.starts_with(b"PK\x03\x04") {
            return torch::open(path);
        }
        if head.starts_with(b"version https://") {
            return Err(format(path, None, "weights", "a Git LFS pointer: the file itself was not downloaded"));
        }
        if head.len() > 8 && head[8] == b'{' {
            return safetensors::open(path);
        }
        if head.first() == Some(&0x80) {
            if torch_legacy::is_one(head) {
                return torch_legacy::open(path);
            }
            return joblib::open(path);
        }
        if matches!(head, [0x78, 0x01 | 0x5e | 0x9c | 0xda, ..]) {
            let expected = "a pickle of joblib without compression (load it and dump it again with compress=0)";
            return Err(format(path, Some(0), expected, "what looks like one with zlib's"));
        }
        let got = if n == 0 { "an empty file".to_owned() } else { format!("a file that begins with {head:02x?}") };
        Err(format(path, Some(0), "safetensors, or a pickle of PyTorch or joblib", got))
    }

    fn new(path: &Path, files: Vec<PathBuf>, entries: BTreeMap<String, Entry>, settings: Json) -> Self {
        Self { path: path.to_owned(), files, entries, settings }
    }

    /// The path that it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Settings that lie in the same file; null where there are none.
    pub fn settings(&self) -> &Json {
        &self.settings
    }

    /// Names and shapes of all tensors, by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &[usize])> {
        self.entries.iter().map(|(name, entry)| (name.as_str(), &entry.shape[..]))
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The shape of a tensor; none if there is no such tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.entries.get(name).map(|entry| &entry.shape[..])
    }

    /// A tensor in an element type on a device.
    ///
    /// # Errors
    /// A name that is not in the file, an element type that no weights have, a file that changed.
    pub fn tensor(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let missing = || CodecError::MissingTensor { path: self.path.clone(), name: name.to_owned() };
        let entry = self.entries.get(name).ok_or_else(missing)?;
        let path = &self.files[entry.file];
        let stored = entry.stored.ok_or_else(|| {
            let expected = "numbers of 8 to 64 bits";
            format(path, Some(entry.offset), expected, format!("another element type, in tensor {name}"))
        })?;
        let mut file = open_file(path)?;
        let mut bytes = vec![0; entry.len_bytes(stored)];
        let read = file.seek(SeekFrom::Start(entry.offset)).and_then(|_| file.read_exact(&mut bytes));
        read.map_err(|source| CodecError::Io { path: path.clone(), source })?;
        let tensor = stored.tensor(entry.contiguous(bytes, stored), &entry.shape)?;
        // NaN in a weight would make the same code of everything.
        let is_finite = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?.iter().all(|x| x.is_finite());
        if !is_finite {
            return Err(format(
                path,
                Some(entry.offset),
                "finite numbers",
                format!("NaN or infinity, in tensor {name}"),
            ));
        }
        Ok(tensor.to_dtype(dtype)?.to_device(device)?)
    }

    /// BLAKE3 of the file's bytes (of its shards' one after the other), in hexadecimal.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn hash(&self) -> Result<String> {
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; 1 << 20];
        for path in &self.files {
            let mut file = open_file(path)?;
            loop {
                let n = read_up_to(&mut file, &mut buffer, path)?;
                if n == 0 {
                    break;
                }
                hasher.update(&buffer[..n]);
            }
        }
        Ok(hasher.finalize().to_hex().to_string())
    }
}

fn open_file(path: &Path) -> Result<File> {
    let file = File::open(path).map_err(|source| CodecError::Io { path: path.to_owned(), source })?;
    Ok(file)
}

fn file_len(path: &Path) -> Result<u64> {
    let metadata = std::fs::metadata(path).map_err(|source| CodecError::Io { path: path.to_owned(), source })?;
    Ok(metadata.len())
}

/// Fills a buffer as far as the file reaches.
fn read_up_to(file: &mut File, buffer: &mut [u8], path: &Path) -> Result<usize> {
    let mut n = 0;
    while n < buffer.len() {
        match file.read(&mut buffer[n..]) {
            Ok(0) => break,
            Ok(more) => n += more,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(source) => return Err(CodecError::Io { path: path.to_owned(), source }.into()),
        }
    }
    Ok(n)
}

/// A [`CodecError::Format`].
fn format(path: &Path, offset: Option<u64>, expected: impl ToString, got: impl ToString) -> crate::Error {
    let (expected, got) = (expected.to_string(), got.to_string());
    CodecError::Format { path: path.to_owned(), offset, expected, got }.into()
}
