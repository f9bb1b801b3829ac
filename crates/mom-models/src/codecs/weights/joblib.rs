//! joblib's pickles: a scikit-learn estimator, whose arrays lie in the stream.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value as Json;

use super::pickle::{Array, Pickle, Value, parse};
use super::stored::{Entry, Stored};
use super::torch::refused;
use super::{Weights, file_len, format};
use crate::Result;
use crate::codecs::CodecError;

/// Bytes of the largest file that is read: it is held in memory.
const MAX_BYTES: u64 = 1 << 30;

/// The arrays among an estimator's attributes, or the one array that was saved alone, which is then called `array`.
pub(super) fn open(path: &Path) -> Result<Weights> {
    let len = file_len(path)?;
    if len > MAX_BYTES {
        return Err(format(path, None, format!("a pickle of up to {MAX_BYTES} bytes"), format!("{len} bytes")));
    }
    let bytes = std::fs::read(path).map_err(|source| CodecError::Io { path: path.to_owned(), source })?;
    let pickle = parse(&bytes).map_err(|fault| refused(path, fault))?;
    let mut entries = BTreeMap::new();
    for (name, array) in arrays(&pickle) {
        if let Some(entry) = entry(array) {
            entries.insert(name.to_owned(), entry);
        }
    }
    if entries.is_empty() {
        return Err(format(path, None, "an estimator of scikit-learn, or an array", "a pickle without arrays"));
    }
    Ok(Weights::new(path, vec![path.to_owned()], entries, Json::Null))
}

fn arrays(pickle: &Pickle) -> Vec<(&str, &Array)> {
    let state = match pickle.get(pickle.root()) {
        Value::Array(array) => return vec![("array", array)],
        Value::Made { state: Some(state), .. } => *state,
        _ => pickle.root(),
    };
    let of = |&(key, value): &(usize, usize)| match pickle.get(value) {
        Value::Array(array) => Some((pickle.text(key)?, array)),
        _ => None,
    };
    pickle.dict(state).unwrap_or_default().iter().filter_map(of).collect()
}

fn entry(array: &Array) -> Option<Entry> {
    let stored = match array.dtype.as_str() {
        "<f8" => Some(Stored::F64),
        "<f4" => Some(Stored::F32),
        "<f2" => Some(Stored::F16),
        "<i8" => Some(Stored::I64),
        "<i4" => Some(Stored::I32),
        "<i2" => Some(Stored::I16),
        "<i1" => Some(Stored::I8),
        "<u1" | "<b1" => Some(Stored::U8),
        _ => None,
    };
    let stride = array.fortran.then(|| {
        let mut step = 1usize;
        let steps = array.shape.iter().map(|&side| {
            let next = step.saturating_mul(side);
            std::mem::replace(&mut step, next)
        });
        steps.collect()
    });
    (array.len_bytes > 0).then(|| Entry {
        file: 0,
        offset: array.offset as u64,
        stored,
        shape: array.shape.clone(),
        stride,
    })
}
