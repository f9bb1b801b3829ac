//! safetensors, in one file or in shards.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json};

use super::stored::{Entry, Stored, extent};
use super::{Weights, file_len, format, open_file, read_up_to};
use crate::Result;
use crate::codecs::CodecError;

/// Bytes of the largest header that is read, as in the reference.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// One file.
pub(super) fn open(path: &Path) -> Result<Weights> {
    let mut entries = BTreeMap::new();
    add(path, 0, &mut entries)?;
    Ok(Weights::new(path, vec![path.to_owned()], entries, Json::Null))
}

/// The shards that an index lists, each in the index's folder.
pub(super) fn open_shards(path: &Path) -> Result<Weights> {
    let text = std::fs::read_to_string(path).map_err(|source| CodecError::Io { path: path.to_owned(), source })?;
    let index: Json = serde_json::from_str(&text).map_err(|error| format(path, None, "JSON", error))?;
    let map = index.get("weight_map").and_then(Json::as_object);
    let map = map.ok_or_else(|| format(path, None, "a weight_map", "none"))?;
    let names: BTreeSet<&str> = map.values().filter_map(Json::as_str).collect();
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut entries = BTreeMap::new();
    let mut files: Vec<PathBuf> = Vec::new();
    for name in names {
        // A name with a folder in it would lead out of the model's own.
        if Path::new(name).file_name().is_none_or(|plain| plain != name) {
            return Err(format(path, None, "names of files beside it", name));
        }
        let shard = folder.join(name);
        add(&shard, files.len(), &mut entries)?;
        files.push(shard);
    }
    Ok(Weights::new(path, files, entries, Json::Null))
}

fn add(path: &Path, file: usize, entries: &mut BTreeMap<String, Entry>) -> Result<()> {
    let file_bytes = file_len(path)?;
    let mut reader = open_file(path)?;
    let mut len = [0; 8];
    let n = read_up_to(&mut reader, &mut len, path)?;
    let header_bytes = u64::from_le_bytes(len);
    if n < 8 || header_bytes > MAX_HEADER_BYTES || header_bytes > file_bytes - 8 {
        let got = format!("a header of {header_bytes} bytes in a file of {file_bytes}");
        return Err(format(path, Some(0), "a whole safetensors file", got));
    }
    let mut header = vec![0; header_bytes as usize];
    read_up_to(&mut reader, &mut header, path)?;
    let header: Map<String, Json> =
        serde_json::from_slice(&header).map_err(|error| format(path, Some(8), "a header of safetensors", error))?;
    let (data_start, data_bytes) = (8 + header_bytes, file_bytes - 8 - header_bytes);
    let mut reached = 0;
    for (name, told) in header {
        if name == "__metadata__" {
            continue;
        }
        let wrong = |got: String| format(path, Some(8), format!("a type, a shape and a place for tensor {name}"), got);
        let (dtype, shape, begin, end) = place(&told).ok_or_else(|| wrong(told.to_string()))?;
        let stored = stored(&dtype);
        if let Some(stored) = stored {
            let needed = extent(&shape, None).and_then(|n| n.checked_mul(stored.size_bytes()));
            if needed.map(|needed| needed as u64) != end.checked_sub(begin) {
                return Err(wrong(told.to_string()));
            }
        }
        if end > data_bytes {
            let got = format!("{data_bytes} bytes of data, and tensor {name} ends at {end}");
            return Err(format(path, None, "a whole safetensors file", got));
        }
        reached = reached.max(end);
        let entry = Entry { file, offset: data_start + begin, stored, shape, stride: None };
        if entries.insert(name.clone(), entry).is_some() {
            return Err(format(path, None, "every tensor once", format!("tensor {name} in two shards")));
        }
    }
    if reached != data_bytes {
        return Err(format(path, None, format!("{reached} bytes of data"), format!("{data_bytes}")));
    }
    Ok(())
}

fn place(told: &Json) -> Option<(String, Vec<usize>, u64, u64)> {
    let shape = told.get("shape")?.as_array()?.iter().map(|side| usize::try_from(side.as_u64()?).ok());
    let shape = shape.collect::<Option<Vec<_>>>()?;
    let offsets = told.get("data_offsets")?.as_array()?;
    let [begin, end] = &offsets[..] else { return None };
    Some((told.get("dtype")?.as_str()?.to_owned(), shape, begin.as_u64()?, end.as_u64()?))
}

fn stored(dtype: &str) -> Option<Stored> {
    Some(match dtype {
        "F64" => Stored::F64,
        "F32" => Stored::F32,
        "F16" => Stored::F16,
        "BF16" => Stored::Bf16,
        "I64" => Stored::I64,
        "I32" => Stored::I32,
        "I16" => Stored::I16,
        "I8" => Stored::I8,
        "U8" | "BOOL" => Stored::U8,
        _ => return None,
    })
}
