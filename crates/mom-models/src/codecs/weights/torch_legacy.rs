//! PyTorch's files from before 1.6: five pickles, and the storages behind them.
//!
//! A number that tells the format, the protocol's version, the machine's sizes and byte order, the object that was saved, and the keys of
//! its storages in their order; then each storage, its number of elements (64 bits) before them. `_legacy_save` of
//! `torch/serialization.py`, which `torch.save(.., _use_new_zipfile_serialization=False)` still takes.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use super::pickle::{Pickle, Value, parse_first};
use super::torch::{Archive, MAX_PICKLE_BYTES, Place, refused, storage_of, stored};
use super::{Weights, file_len, format, open_file};
use crate::Result;
use crate::codecs::CodecError;

/// The first pickle: a number of PyTorch's own.
const MAGIC: &[u8] = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.";

/// The version of the format.
const PROTOCOL: i64 = 1001;

/// Bytes that are read first; more where the pickles are longer.
const HEAD: u64 = 1 << 20;

pub(super) fn open(path: &Path) -> Result<Weights> {
    let (len, mut file) = (file_len(path)?, open_file(path)?);
    let mut most = HEAD;
    let (pickle, keys, end) = loop {
        let mut head = Vec::new();
        let failed = |source| CodecError::Io { path: path.to_owned(), source };
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
        (&mut file).take(most).read_to_end(&mut head).map_err(failed)?;
        match pickles(path, &head) {
            Err(error) if most >= len.min(MAX_PICKLE_BYTES) => return Err(error),
            Err(_) => most *= 4,
            Ok(read) => break read,
        }
    };
    let places = places(path, &mut file, len, &pickle, &keys, end)?;
    let archive = Archive { path, folder: String::new(), places };
    let (tensors, settings) = archive.rooms(&pickle)?;
    Ok(Weights::new(path, vec![path.to_owned()], tensors, settings))
}

/// What was saved, the keys of its storages in their order, and where the pickles end.
fn pickles(path: &Path, bytes: &[u8]) -> Result<(Pickle, Vec<String>, u64)> {
    let mut at = MAGIC.len();
    let mut next = || {
        let (pickle, len) = parse_first(bytes.get(at..).unwrap_or_default()).map_err(|mut fault| {
            fault.offset += at;
            refused(path, fault)
        })?;
        at += len;
        Ok::<_, crate::Error>(pickle)
    };
    let (version, machine, saved, keys) = (next()?, next()?, next()?, next()?);
    if version.int(version.root()) != Some(PROTOCOL) {
        return Err(format(
            path,
            Some(MAGIC.len() as u64),
            format!("version {PROTOCOL} of PyTorch's format"),
            "another",
        ));
    }
    let order = machine.field(machine.root(), "little_endian").map(|id| machine.get(id));
    if !matches!(order, Some(Value::Bool(true))) {
        return Err(format(path, None, "little-endian numbers", "big-endian ones"));
    }
    let texts = keys.sequence(keys.root()).map(|ids| ids.iter().map(|&id| keys.text(id).map(str::to_owned)).collect());
    let texts: Option<Option<Vec<String>>> = texts;
    let texts = texts.flatten().ok_or_else(|| format(path, None, "the keys of storages", "something else"))?;
    Ok((saved, texts, at as u64))
}

/// Where each storage lies.
fn places(
    path: &Path,
    file: &mut File,
    len: u64,
    pickle: &Pickle,
    keys: &[String],
    mut at: u64,
) -> Result<HashMap<String, Place>> {
    let mut sizes = HashMap::new();
    for id in pickle.ids() {
        let Some((class, key)) = storage_of(pickle, id) else { continue };
        if is_view(pickle, id) {
            return Err(format(path, None, "whole storages", format!("a view of storage {key}")));
        }
        sizes.insert(key, stored(class).map(|stored| stored.size_bytes() as u64));
    }
    let mut places = HashMap::new();
    for key in keys {
        let size = sizes.get(key.as_str()).copied().flatten();
        let size =
            size.ok_or_else(|| format(path, Some(at), format!("numbers of 8 to 64 bits in storage {key}"), "others"))?;
        let mut count = [0; 8];
        let read = file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(&mut count));
        read.map_err(|error| format(path, Some(at), format!("storage {key}"), error))?;
        let len_bytes = u64::from_le_bytes(count).checked_mul(size);
        let end = len_bytes.and_then(|bytes| bytes.checked_add(at + 8)).filter(|&end| end <= len);
        let (Some(len_bytes), Some(end)) = (len_bytes, end) else {
            return Err(format(path, Some(at), format!("all of storage {key}"), format!("a file of {len} bytes")));
        };
        places.insert(format!("data/{key}"), Place { offset: at + 8, len_bytes });
        at = end;
    }
    Ok(places)
}

/// Whether `("storage", class, key, device, n, view)` is a part of a storage.
fn is_view(pickle: &Pickle, id: usize) -> bool {
    let Value::Persistent(id) = pickle.get(id) else { return false };
    let view = pickle.sequence(*id).and_then(|items| items.get(5));
    view.is_some_and(|&view| !matches!(pickle.get(view), Value::None))
}

/// Whether a file is one of these, by its first bytes.
pub(super) fn is_one(head: &[u8]) -> bool {
    head.starts_with(MAGIC)
}
