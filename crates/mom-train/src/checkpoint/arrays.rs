//! The arrays of a checkpoint, where they lie in its files. They are read one by one: what is in memory is what was asked for, whatever the
//! size of the model and the number of ranks on a host.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::kind::Kind;
use super::sealed::{Broken, Check, Sealed, safetensors_bytes};
use super::shares::{self, RANKS};
use super::{EMA, OPTIMIZER, WEIGHTS};
use crate::files::At;
use crate::{Error, Result};

/// The arrays of a checkpoint, whose files were found whole and are held open: a run that goes on may remove them meanwhile.
#[derive(Debug)]
pub(super) struct Arrays {
    files: Vec<Opened>,
    /// By kind, and by the parameter's name.
    of: [BTreeMap<String, Array>; Kind::ALL.len()],
    /// A file holds a stretch of each, by rank.
    is_shared: bool,
}

#[derive(Debug)]
struct Opened {
    path: PathBuf,
    file: File,
}

#[derive(Debug)]
pub(super) struct Array {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pieces: Vec<Piece>,
}

/// Elements from `start` on, at a place of a file.
#[derive(Debug)]
struct Piece {
    start: usize,
    len: usize,
    file: usize,
    at: u64,
}

impl Arrays {
    /// Finds the arrays of a checkpoint of one process, or of several ranks.
    ///
    /// # Errors
    /// A file that is missing, or not what was written; stretches that leave gaps.
    pub fn open(folder: &Path, sealed: &Sealed<'_>, check: Check) -> Result<Self, Broken> {
        let mut arrays = Self { files: Vec::new(), of: Default::default(), is_shared: sealed.has(RANKS) };
        if arrays.is_shared {
            arrays.of_ranks(folder, sealed, check)?;
            return Ok(arrays);
        }
        let ema = sealed.has(EMA).then_some(EMA);
        for name in [WEIGHTS, OPTIMIZER].into_iter().chain(ema) {
            for (key, info, file, at) in arrays.add(folder, sealed, name, check)? {
                let (kind, key) = match name {
                    WEIGHTS => (Kind::Weights, key),
                    EMA => (Kind::Ema, key),
                    _ => match key.split_once('.') {
                        Some(("first", rest)) => (Kind::First, rest.to_owned()),
                        Some(("second", rest)) => (Kind::Second, rest.to_owned()),
                        _ => return Err(Broken::Damaged(format!("{name}: {key} is no moment"))),
                    },
                };
                let pieces = vec![Piece { start: 0, len: info.shape.iter().product(), file, at }];
                let array = Array { dtype: info.dtype, shape: info.shape, pieces };
                arrays.of[kind as usize].insert(key, array);
            }
        }
        Ok(arrays)
    }

    fn of_ranks(&mut self, folder: &Path, sealed: &Sealed<'_>, check: Check) -> Result<(), Broken> {
        let damaged = |what: String| Broken::Damaged(what);
        let ranks: shares::Ranks = serde_json::from_slice(&sealed.read(RANKS)?)
            .map_err(|error| damaged(format!("{RANKS} is of another version: {error}")))?;
        let len = |shape: &[usize]| shape.iter().product::<usize>();
        for rank in 0..ranks.ranks {
            let name = shares::file_of(rank, ranks.ranks);
            for (key, info, file, at) in self.add(folder, sealed, &name, check)? {
                let place = || {
                    let (kind, parameter, start) = shares::place_of(&key)?;
                    let shape = ranks.shapes.get(parameter)?;
                    let n = len(&info.shape);
                    let fits = start.checked_add(n).is_some_and(|end| end <= len(shape)) && info.dtype == Dtype::F32;
                    fits.then(|| (kind, parameter.to_owned(), shape.clone(), Piece { start, len: n, file, at }))
                };
                let (kind, parameter, shape, piece) =
                    place().ok_or_else(|| damaged(format!("{name}: {key} has no place")))?;
                let of = self.of[kind as usize].entry(parameter);
                of.or_insert_with(|| Array { dtype: Dtype::F32, shape, pieces: Vec::new() }).pieces.push(piece);
            }
        }
        for kind in Kind::ALL {
            let arrays = &mut self.of[kind as usize];
            if kind == Kind::Ema && arrays.is_empty() {
                continue;
            }
            for (name, shape) in &ranks.shapes {
                let n = len(shape);
                let mut end = 0;
                let mut none = Vec::new();
                let pieces = arrays.get_mut(name).map_or(&mut none, |array| &mut array.pieces);
                pieces.sort_by_key(|piece| piece.start);
                for piece in pieces.iter().filter(|piece| piece.len > 0) {
                    if piece.start != end {
                        let what = format!(
                            "{} of {name}: elements {end}..{} are in no file, or in two",
                            kind.name(),
                            piece.start
                        );
                        return Err(damaged(what));
                    }
                    end += piece.len;
                }
                if end != n {
                    return Err(damaged(format!("{} of {name} has {end} elements, expected {n}", kind.name())));
                }
            }
        }
        Ok(())
    }

    /// Opens a file that is what was written; what it holds, and where: number of the file, and place in it.
    fn add(
        &mut self,
        folder: &Path,
        sealed: &Sealed<'_>,
        name: &str,
        check: Check,
    ) -> Result<Vec<(String, TensorInfo, usize, u64)>, Broken> {
        let damaged = |reason: &dyn std::fmt::Display| Broken::Damaged(format!("{name}: {reason}"));
        let (mut file, bytes) = sealed.open_whole(name, check)?;
        let mut head = [0; 8];
        file.read_exact(&mut head).map_err(|error| damaged(&error))?;
        let table = u64::from_le_bytes(head);
        let values = table.checked_add(8).filter(|at| *at <= bytes).ok_or_else(|| damaged(&"its table is cut"))?;
        let mut json = vec![0; table as usize];
        file.read_exact(&mut json).map_err(|error| damaged(&error))?;
        let table: Metadata = serde_json::from_slice(&json).map_err(|error| damaged(&error))?;
        let number = self.files.len();
        let mut found = Vec::new();
        for (key, info) in table.tensors() {
            let (start, end) = info.data_offsets;
            let n = info.shape.iter().try_fold(1usize, |n, &side| n.checked_mul(side));
            // Elements that cannot be counted are in no file.
            let fits = n.is_some() && start <= end && values.checked_add(end as u64).is_some_and(|end| end <= bytes);
            // Of another type it is told by who reads it.
            let whole = info.dtype != Dtype::F32 || n.and_then(|n| n.checked_mul(4)) == Some(end.wrapping_sub(start));
            if !fits || !whole {
                return Err(damaged(&format!("{key} has bytes {start}..{end}")));
            }
            found.push((key, info.clone(), number, values + start as u64));
        }
        self.files.push(Opened { path: folder.join(name), file });
        Ok(found)
    }

    /// Names, and what is there of each.
    pub fn of(&self, kind: Kind) -> &BTreeMap<String, Array> {
        &self.of[kind as usize]
    }

    /// Whether there is any of a kind.
    pub fn has(&self, kind: Kind) -> bool {
        !self.of(kind).is_empty()
    }

    /// The values of an array, which is of f32.
    ///
    /// # Errors
    /// A file that the system does not let be read.
    pub fn values(&self, array: &Array) -> Result<Vec<f32>> {
        let mut values = vec![0.0f32; array.shape.iter().product()];
        for piece in &array.pieces {
            let to = &mut values[piece.start..piece.start + piece.len];
            self.read(piece.file, piece.at, bytemuck::cast_slice_mut(to))?;
            if cfg!(target_endian = "big") {
                to.iter_mut().for_each(|value| *value = f32::from_bits(value.to_bits().swap_bytes()));
            }
        }
        Ok(values)
    }

    fn read(&self, file: usize, at: u64, to: &mut [u8]) -> Result<()> {
        let Opened { path, file } = &self.files[file];
        let mut file = file;
        let read = file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(to));
        Ok(read.at("read", path)?)
    }

    /// The file of a kind's arrays as one process writes it.
    ///
    /// # Errors
    /// As [`Self::values`].
    pub fn file(&self, kind: Kind) -> Result<Vec<u8>> {
        let name = if kind == Kind::Ema { EMA } else { WEIGHTS };
        if let Some(Opened { path, file }) =
            self.files.iter().find(|opened| !self.is_shared && opened.path.ends_with(name))
        {
            let mut bytes = Vec::new();
            let mut file = file;
            let read = file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut bytes));
            read.at("read", path)?;
            return Ok(bytes);
        }
        let arrays = self.of(kind);
        let values = arrays.values().map(|array| self.values(array)).collect::<Result<Vec<_>>>()?;
        let tensors =
            arrays.iter().zip(&values).map(|((name, array), values)| (name.clone(), &array.shape[..], &values[..]));
        let content = |reason| Error::Content { path: name.into(), reason };
        safetensors_bytes(&tensors.collect::<Vec<_>>()).map_err(content)
    }
}
