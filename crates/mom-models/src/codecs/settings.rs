//! Settings of a network that its weights do not tell: heads, groups, factors.

use std::path::Path;

use serde_json::Value as Json;

use super::{CodecError, Weights};
use crate::Result;

/// Settings as their publisher writes them (`config.json`, a checkpoint's own `cfg`), with the file that they are from.
///
/// Keys that no network asks for are passed over: publishers write many.
#[derive(Debug, Clone)]
pub struct Settings {
    place: String,
    json: Json,
}

impl Settings {
    /// Settings that are there already; `place` is named where one is wrong.
    pub fn new(place: impl Into<String>, json: Json) -> Self {
        Self { place: place.into(), json }
    }

    /// Those of `config.json` and `preprocessor_config.json` in the weights' folder, and of the weights' own file. Where two
    /// state the same key, the first one named here wins.
    ///
    /// # Errors
    /// One of the two files cannot be read or is no JSON.
    pub fn of(weights: &Weights) -> Result<Self> {
        Self::of_file(weights, None)
    }

    /// As [`Self::of`], with a file in the place of `config.json`: `preprocessor_config.json` is then looked for beside that.
    ///
    /// # Errors
    /// A file that cannot be read or is no JSON; the file that is given is not there.
    pub fn of_file(weights: &Weights, config: Option<&Path>) -> Result<Self> {
        let mut merged = Self::new(weights.path().display().to_string(), Json::Null);
        let own = Self::new(weights.path().display().to_string(), weights.settings().clone());
        let beside = |name: &str| Self::file(&config.unwrap_or(weights.path()).with_file_name(name));
        let config = match config {
            Some(path) => Some(Self::file(path)?.ok_or_else(|| CodecError::Io {
                path: path.to_owned(),
                source: std::io::Error::from(std::io::ErrorKind::NotFound),
            })?),
            None => beside("config.json")?,
        };
        for more in [config, beside("preprocessor_config.json")?, Some(own)].into_iter().flatten() {
            match (&mut merged.json, more.json) {
                (Json::Object(have), Json::Object(more)) => {
                    for (key, value) in more {
                        have.entry(key).or_insert(value);
                    }
                }
                (Json::Object(_), _) => {}
                (_, json) => merged = Self { place: more.place, json },
            }
        }
        Ok(merged)
    }

    /// A file of JSON; none if there is no such file.
    fn file(path: &Path) -> Result<Option<Self>> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(CodecError::Io { path: path.to_owned(), source }.into()),
        };
        let json = serde_json::from_str(&text).map_err(|error| CodecError::Format {
            path: path.to_owned(),
            offset: None,
            expected: "JSON".to_owned(),
            got: error.to_string(),
        })?;
        Ok(Some(Self::new(path.display().to_string(), json)))
    }

    /// A value by its keys from the outermost inwards; none where it is missing or null.
    fn at(&self, keys: &[&str]) -> Option<&Json> {
        keys.iter().try_fold(&self.json, |json, key| json.get(key)).filter(|json| !json.is_null())
    }

    fn wrong(&self, keys: &[&str], expected: &str, got: &Json) -> crate::Error {
        let (place, field, got) = (self.place.clone(), keys.join("."), got.to_string());
        CodecError::Setting { place, field, expected: expected.to_owned(), got }.into()
    }

    /// A count from 1 up.
    pub(super) fn count(&self, keys: &[&str]) -> Result<Option<usize>> {
        let Some(json) = self.at(keys) else { return Ok(None) };
        let count = json.as_u64().and_then(|count| usize::try_from(count).ok()).filter(|&count| count > 0);
        Ok(Some(count.ok_or_else(|| self.wrong(keys, "a whole number above 0", json))?))
    }

    /// A finite number.
    pub(super) fn number(&self, keys: &[&str]) -> Result<Option<f64>> {
        let Some(json) = self.at(keys) else { return Ok(None) };
        Ok(Some(json.as_f64().ok_or_else(|| self.wrong(keys, "a number", json))?))
    }

    /// True or false.
    pub(super) fn flag(&self, keys: &[&str]) -> Result<Option<bool>> {
        let Some(json) = self.at(keys) else { return Ok(None) };
        Ok(Some(json.as_bool().ok_or_else(|| self.wrong(keys, "true or false", json))?))
    }

    /// A text.
    pub(super) fn text(&self, keys: &[&str]) -> Result<Option<&str>> {
        let Some(json) = self.at(keys) else { return Ok(None) };
        Ok(Some(json.as_str().ok_or_else(|| self.wrong(keys, "a text", json))?))
    }

    /// Counts, one for each layer.
    pub(super) fn counts(&self, keys: &[&str]) -> Result<Option<Vec<usize>>> {
        let Some(json) = self.at(keys) else { return Ok(None) };
        let count = |json: &Json| json.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|&n| n > 0);
        let counts = json.as_array().and_then(|items| items.iter().map(count).collect());
        Ok(Some(counts.ok_or_else(|| self.wrong(keys, "a list of whole numbers above 0", json))?))
    }

    /// An error of a setting that came from here, or stands for one that did not.
    pub(super) fn error(&self, field: &str, expected: impl ToString, got: impl ToString) -> crate::Error {
        let (expected, got) = (expected.to_string(), got.to_string());
        CodecError::Setting { place: self.place.clone(), field: field.to_owned(), expected, got }.into()
    }
}
