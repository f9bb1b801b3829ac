//! PyTorch's zip files: a pickle that names tensors, and a file for each storage.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufReader, Read};
use std::path::Path;

use serde_json::{Map, Value as Json};
use zip::ZipArchive;
use zip::result::ZipError;

use super::pickle::{Fault, Id, Kind, Pickle, Value, parse};
use super::stored::{Entry, Stored, extent};
use super::{Weights, format, open_file};
use crate::Result;
use crate::codecs::CodecError;

/// Bytes of the largest pickle that is read; those of published models have a few hundred kilobytes.
pub(super) const MAX_PICKLE_BYTES: u64 = 1 << 28;

/// Where trainers keep a network's weights in what they save; otherwise they are saved alone.
const ROOMS: [&str; 4] = ["state_dict", "model_weight", "model", "generator"];

/// Where a storage lies in the file.
pub(super) struct Place {
    pub offset: u64,
    pub len_bytes: u64,
}

pub(super) fn open(path: &Path) -> Result<Weights> {
    let damaged = |error: ZipError| format(path, None, "a whole zip file of PyTorch", error);
    let mut zip = ZipArchive::new(BufReader::new(open_file(path)?)).map_err(damaged)?;
    let (mut places, mut pickle_name) = (HashMap::new(), None);
    for index in 0..zip.len() {
        let member = zip.by_index_raw(index).map_err(damaged)?;
        let name = member.name().map_err(damaged)?.into_owned();
        if name.ends_with("/data.pkl") || name == "data.pkl" {
            pickle_name = Some(name);
        } else if let Some(offset) = member.data_start()
            && member.compression() == zip::CompressionMethod::Stored
        {
            places.insert(name, Place { offset, len_bytes: member.size() });
        }
    }
    let pickle_name = pickle_name.ok_or_else(|| format(path, None, "a zip file of PyTorch", "one without data.pkl"))?;
    let folder = pickle_name.strip_suffix("data.pkl").unwrap_or_default().to_owned();
    let mut bytes = Vec::new();
    let member = zip.by_name(&pickle_name).map_err(damaged)?;
    member
        .take(MAX_PICKLE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| format(path, None, "a whole zip file of PyTorch", error))?;
    if bytes.len() as u64 > MAX_PICKLE_BYTES {
        return Err(format(path, None, format!("a pickle of up to {MAX_PICKLE_BYTES} bytes"), "a larger one"));
    }
    if let Ok(mut member) = zip.by_name(&format!("{folder}byteorder")) {
        let mut order = String::new();
        if member.read_to_string(&mut order).is_ok() && order.trim() == "big" {
            return Err(format(path, None, "little-endian numbers", "big-endian ones"));
        }
    }
    let pickle = parse(&bytes).map_err(|fault| refused(path, fault))?;
    let file = Archive { path, folder, places };
    let (tensors, settings) = file.rooms(&pickle)?;
    Ok(Weights::new(path, vec![path.to_owned()], tensors, settings))
}

/// A fault of a pickle as an error of its file.
pub(super) fn refused(path: &Path, fault: Fault) -> crate::Error {
    let (path, offset) = (path.to_owned(), fault.offset as u64);
    match fault.kind {
        Kind::Code(function) => CodecError::Code { path, offset, function },
        Kind::Damaged { expected, got } => {
            CodecError::Format { path, offset: Some(offset), expected: expected.to_owned(), got }
        }
    }
    .into()
}

/// Where the storages of a file lie: by `FOLDERdata/KEY`.
pub(super) struct Archive<'a> {
    pub path: &'a Path,
    pub folder: String,
    pub places: HashMap<String, Place>,
}

impl Archive<'_> {
    /// The tensors of the room that holds them, and everything beside it as settings.
    pub fn rooms(&self, pickle: &Pickle) -> Result<(BTreeMap<String, Entry>, Json)> {
        let root = pickle.root();
        for room in ROOMS {
            let Some(inside) = pickle.field(root, room) else { continue };
            let tensors = self.tensors(pickle, inside)?;
            if tensors.is_empty() {
                continue;
            }
            let mut settings = Map::new();
            for &(key, value) in pickle.dict(root).unwrap_or_default() {
                if let Some(key) = pickle.text(key).filter(|&key| key != room) {
                    settings.insert(key.to_owned(), pickle.to_json(value));
                }
            }
            return Ok((tensors, Json::Object(settings)));
        }
        let tensors = self.tensors(pickle, root)?;
        if tensors.is_empty() {
            return Err(format(self.path, None, "a dictionary of tensors", "a pickle without one"));
        }
        Ok((tensors, Json::Null))
    }

    fn tensors(&self, pickle: &Pickle, dict: Id) -> Result<BTreeMap<String, Entry>> {
        let mut tensors = BTreeMap::new();
        for &(key, value) in pickle.dict(dict).unwrap_or_default() {
            let Some(name) = pickle.text(key) else { continue };
            if let Some(arguments) = tensor_arguments(pickle, value) {
                tensors.insert(name.to_owned(), self.tensor(pickle, name, arguments)?);
            }
        }
        Ok(tensors)
    }

    /// `_rebuild_tensor_v2(storage, offset, size, stride, ...)`.
    fn tensor(&self, pickle: &Pickle, name: &str, arguments: &[Id]) -> Result<Entry> {
        let wrong = |what: &str| {
            format(self.path, None, format!("storage, offset, size and stride of tensor {name}"), what.to_owned())
        };
        let &[storage, offset, size, stride, ..] = arguments else { return Err(wrong("fewer arguments")) };
        let numbers = |id: Id| {
            let items = pickle.sequence(id)?.iter();
            items.map(|&item| usize::try_from(pickle.int(item)?).ok()).collect::<Option<Vec<_>>>()
        };
        let shape = numbers(size).ok_or_else(|| wrong("a size that is none"))?;
        let stride = numbers(stride).filter(|stride| stride.len() == shape.len());
        let stride = stride.ok_or_else(|| wrong("a stride that is none"))?;
        let offset = pickle.int(offset).and_then(|offset| u64::try_from(offset).ok());
        let offset = offset.ok_or_else(|| wrong("an offset that is none"))?;
        let (class, key) = storage_of(pickle, storage).ok_or_else(|| wrong("a storage that is none"))?;
        let stored = stored(class);
        let member = format!("{}data/{key}", self.folder);
        let place = self.places.get(&member);
        let place = place.ok_or_else(|| wrong(&format!("a storage {member} that the file lacks")))?;
        let size_bytes = stored.map_or(1, Stored::size_bytes) as u64;
        let stride = (!is_row_major(&shape, &stride)).then_some(stride);
        let reached = extent(&shape, stride.as_deref())
            .and_then(|n| (n as u64).checked_add(offset))
            .and_then(|n| n.checked_mul(size_bytes))
            .filter(|&reached| reached <= place.len_bytes || stored.is_none());
        if reached.is_none() {
            return Err(wrong(&format!(
                "a shape {shape:?} that its storage of {} bytes does not hold",
                place.len_bytes
            )));
        }
        Ok(Entry { file: 0, offset: place.offset + offset * size_bytes, stored, shape, stride })
    }
}

/// The arguments of the innermost call that makes a tensor; none for other values.
fn tensor_arguments(pickle: &Pickle, value: Id) -> Option<&[Id]> {
    let mut value = value;
    // A parameter of a subclass of a tensor: two wrappings at most.
    for _ in 0..3 {
        let Value::Made { function, arguments, .. } = pickle.get(value) else { return None };
        let arguments = pickle.sequence(*arguments)?;
        match function.as_str() {
            "torch._utils._rebuild_tensor_v2" | "torch._utils._rebuild_tensor" => return Some(arguments),
            "torch._utils._rebuild_parameter" => value = *arguments.first()?,
            "torch._tensor._rebuild_from_type_v2" => {
                let inner = pickle.get(*arguments.first()?);
                let plain = matches!(inner, Value::Global(name) if name.starts_with("torch._utils._rebuild_tensor"));
                return plain.then(|| pickle.sequence(*arguments.get(2)?)).flatten();
            }
            _ => return None,
        }
    }
    None
}

/// `("storage", class, key, device, n)`.
pub(super) fn storage_of(pickle: &Pickle, id: Id) -> Option<(&str, &str)> {
    let Value::Persistent(id) = pickle.get(id) else { return None };
    let &[kind, class, key, ..] = pickle.sequence(*id)? else { return None };
    let (Some("storage"), Value::Global(class)) = (pickle.text(kind), pickle.get(class)) else { return None };
    Some((class, pickle.text(key)?))
}

fn is_row_major(shape: &[usize], stride: &[usize]) -> bool {
    let mut expected = 1usize;
    shape.iter().zip(stride).rev().all(|(&side, &step)| {
        let fits = side == 1 || step == expected;
        expected = expected.saturating_mul(side);
        fits
    })
}

pub(super) fn stored(class: &str) -> Option<Stored> {
    Some(match class.strip_prefix("torch.")? {
        "DoubleStorage" => Stored::F64,
        "FloatStorage" => Stored::F32,
        "HalfStorage" => Stored::F16,
        "BFloat16Storage" => Stored::Bf16,
        "LongStorage" => Stored::I64,
        "IntStorage" => Stored::I32,
        "ShortStorage" => Stored::I16,
        "CharStorage" => Stored::I8,
        "ByteStorage" | "BoolStorage" => Stored::U8,
        _ => return None,
    })
}
