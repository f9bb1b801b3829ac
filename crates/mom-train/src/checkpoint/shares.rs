//! A checkpoint of several ranks: each wrote what it owns.
//!
//! `rank-00001-of-00004.safetensors` holds stretches of parameters as arrays of one dimension, `weights.NAME@START` with `first.`, `second.`
//! and, where there is an average, `ema.` beside it; START counts elements. `ranks.json` has the shapes. Any number of ranks reads it: put
//! together it is what one process would have written.

use std::collections::BTreeMap;
use std::ops::Range;

use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};

use super::sealed::{Broken, Sealed, safetensors_bytes};

/// Shapes of all parameters, and how many ranks wrote.
pub(super) const RANKS: &str = "ranks.json";

/// Kinds of arrays, in the order of a snapshot.
pub(super) const KINDS: [&str; 4] = ["weights", "first", "second", "ema"];

/// Contents of `ranks.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ranks {
    pub ranks: usize,
    pub shapes: BTreeMap<String, Vec<usize>>,
}

/// The file of a rank.
pub(super) fn file_of(rank: usize, ranks: usize) -> String {
    format!("rank-{rank:05}-of-{ranks:05}.safetensors")
}

/// The name of a stretch, without its kind.
pub(super) fn name_of(parameter: &str, range: &Range<usize>) -> String {
    format!("{parameter}@{}", range.start)
}

/// What one process would have written.
pub(super) struct Whole {
    pub weights: Vec<u8>,
    pub optimizer: Vec<u8>,
    pub ema: Option<Vec<u8>>,
}

/// Puts the files of all ranks together.
pub(super) fn read(sealed: &Sealed<'_>) -> Result<Whole, Broken> {
    let damaged = |what: String| Broken::Damaged(what);
    let ranks: Ranks = serde_json::from_slice(&sealed.read(RANKS)?)
        .map_err(|error| damaged(format!("{RANKS} is of another version: {error}")))?;
    let len = |shape: &[usize]| shape.iter().product::<usize>();
    // By kind and name: all values, and how many have come.
    let mut values: [BTreeMap<&str, (Vec<f32>, usize)>; KINDS.len()] = Default::default();
    for rank in 0..ranks.ranks {
        let file = file_of(rank, ranks.ranks);
        let bytes = sealed.read(&file)?;
        let stored = SafeTensors::deserialize(&bytes).map_err(|error| damaged(format!("{file}: {error}")))?;
        for (key, view) in stored.iter() {
            let place = || {
                let (kind, rest) = key.split_once('.')?;
                let (name, start) = rest.rsplit_once('@')?;
                let kind = KINDS.iter().position(|known| *known == kind)?;
                let (name, shape) = ranks.shapes.get_key_value(name)?;
                let start: usize = start.parse().ok()?;
                let end = start.checked_add(view.data().len() / 4).filter(|end| *end <= len(shape))?;
                Some((kind, name.as_str(), shape, start..end))
            };
            let (kind, name, shape, range) = place().ok_or_else(|| damaged(format!("{file}: {key} has no place")))?;
            let (all, come) = values[kind].entry(name).or_insert_with(|| (vec![0.0; len(shape)], 0));
            *come += range.len();
            for (to, from) in all[range].iter_mut().zip(view.data().chunks_exact(4)) {
                *to = f32::from_le_bytes([from[0], from[1], from[2], from[3]]);
            }
        }
    }
    let has_ema = !values[3].is_empty();
    for (kind, values) in KINDS.iter().zip(&values).take(if has_ema { 4 } else { 3 }) {
        for (name, shape) in &ranks.shapes {
            let come = values.get(name.as_str()).map_or(0, |(_, come)| *come);
            if come != len(shape) {
                return Err(damaged(format!("{kind} of {name} has {come} elements, expected {}", len(shape))));
            }
        }
    }
    let bytes = |tensors: Vec<(String, &[usize], &[f32])>| {
        safetensors_bytes(&tensors).map_err(|reason| damaged(format!("it cannot be put together: {reason}")))
    };
    let of = |kind: usize, prefix: &str, flat: bool| {
        let shapes = ranks.shapes.iter();
        let tensor = |(name, shape): (&String, &Vec<usize>)| {
            let values = values[kind].get(name.as_str()).map_or(&[][..], |(values, _)| values);
            (format!("{prefix}{name}"), shape.clone(), flat, values)
        };
        shapes.map(tensor).collect::<Vec<_>>()
    };
    let write = |tensors: Vec<(String, Vec<usize>, bool, &[f32])>| {
        let shapes: Vec<Vec<usize>> =
            tensors.iter().map(|(_, shape, flat, _)| if *flat { vec![len(shape)] } else { shape.clone() }).collect();
        let tensors = tensors.iter().zip(&shapes);
        bytes(tensors.map(|((name, .., values), shape)| (name.clone(), &shape[..], *values)).collect())
    };
    Ok(Whole {
        weights: write(of(0, "", false))?,
        optimizer: write([of(1, "first.", true), of(2, "second.", true)].concat())?,
        ema: if has_ema { Some(write(of(3, "", false))?) } else { None },
    })
}
