//! `key=value` behind a command, and defaults that depend on other keys, laid into TOML before it is read.
//!
//! figment has dotted keys too, but none into an array, as `data.sources.0.path` is.

use std::path::{Path, PathBuf};

use mom_data::{CodeKind, TextConfig, TokenizerConfig, Tokenizers};
use mom_models::{Scale, Setting};

use super::needs;
use crate::error::config;
use crate::{Error, Result};

/// Puts a size in the place of `d_model` and `n_layers`, which may stand beside the name of another or alone.
pub(super) fn fill_in_scale(table: &mut toml::Table) -> Result<()> {
    let Some(model) = table.get_mut("model").and_then(toml::Value::as_table_mut) else { return Ok(()) };
    let mut own = [None, None];
    for (field, value) in ["model.d_model", "model.n_layers"].into_iter().zip(&mut own) {
        if let Some(given) = model.remove(&field["model.".len()..]) {
            let number = given.as_integer().and_then(|number| usize::try_from(number).ok()).filter(|&n| n > 0);
            *value = Some(number.ok_or_else(|| config(field, "a whole number, at least 1", &given))?);
        }
    }
    let [d_model, n_layers] = own;
    if d_model.is_none() && n_layers.is_none() {
        return Ok(());
    }
    let named = match model.get("scale").and_then(toml::Value::as_str) {
        Some(name) => Some(name.parse::<Scale>()?),
        None => None,
    };
    let missing = |field| config(field, "given, or model.scale", "neither");
    let d_model = d_model.or(named.map(|scale| scale.d_model)).ok_or_else(|| missing("model.d_model"))?;
    let n_layers = n_layers.or(named.map(|scale| scale.n_layers)).ok_or_else(|| missing("model.n_layers"))?;
    let same = named.filter(|scale| (scale.d_model, scale.n_layers) == (d_model, n_layers));
    let scale = same.unwrap_or(Scale::own(d_model, n_layers));
    model.insert("scale".to_owned(), toml::Value::String(scale.to_string()));
    Ok(())
}

/// Tokenizers at the size that the scale asks for, or those of the model that a run starts from, under what the user says of
/// them.
///
/// `own`: the folder of a run that may have begun: the tokenizers it has are those it started with, wherever that model is now.
pub(super) fn fill_in_tokenizers(table: &mut toml::Table, own: Option<&Path>) -> Result<()> {
    // What is missing or wrong here is told when the whole is read.
    let word = |section: &str, key: &str| table.get(section)?.as_table()?.get(key)?.as_str().map(str::to_owned);
    let scale = word("model", "scale").and_then(|name| name.parse::<Scale>().ok());
    let setting = word("model", "setting").and_then(|name| name.parse::<Setting>().ok());
    let (Some(scale), Some(setting)) = (scale, setting) else { return Ok(()) };
    let origin = word("train", "init_from").and_then(|path| {
        let own = own.map(|folder| folder.join("tokenizers")).filter(|folder| folder.join("tokenizers.json").is_file());
        own.or_else(|| tokenizers_of(Path::new(&path)))
    });
    let own_kinds = kinds_of(table);
    let defaults = match origin {
        Some(folder) => Tokenizers::load(folder)?.config().clone(),
        None if scale.is_small() => of_kinds(TokenizerConfig::default(), own_kinds),
        None => {
            let paper = of_kinds(TokenizerConfig::paper(needs(setting)), own_kinds);
            // A vocabulary of the paper's size all the same.
            let text =
                TextConfig { vocab_size: TokenizerConfig::paper_text(needs(setting), &paper), ..paper.text.clone() };
            TokenizerConfig { text, ..paper }
        }
    };
    let (Ok(mut filled), Some(data)) =
        (toml::Table::try_from(defaults), table.get_mut("data").and_then(toml::Value::as_table_mut))
    else {
        return Ok(());
    };
    match data.get("tokenizers") {
        Some(toml::Value::Table(given)) => merge(&mut filled, given),
        Some(_) => return Ok(()),
        None => {}
    }
    data.insert("tokenizers".to_owned(), toml::Value::Table(filled));
    Ok(())
}

/// The kinds of image and speech tokenizers that a configuration names; a wrong name is told when the whole is read.
fn kinds_of(table: &toml::Table) -> [Option<CodeKind>; 2] {
    let tokenizers = table.get("data").and_then(|data| data.get("tokenizers"));
    ["image", "speech"].map(|modality| tokenizers?.get(modality)?.get("kind")?.clone().try_into().ok())
}

/// Tokenizers at the published sizes of these kinds.
fn of_kinds(config: TokenizerConfig, [image, speech]: [Option<CodeKind>; 2]) -> TokenizerConfig {
    TokenizerConfig {
        image: image.map_or(config.image.clone(), |kind| config.image.clone().of_kind(kind)),
        speech: speech.map_or(config.speech.clone(), |kind| config.speech.clone().of_kind(kind)),
        ..config
    }
}

/// The tokenizers of a trained model: of a run, of one of its checkpoints, or of an export; `None` for a file of weights alone.
pub(crate) fn tokenizers_of(model: &Path) -> Option<PathBuf> {
    if model.is_file() {
        return None;
    }
    // A checkpoint named from inside of its folder has its run above all the same.
    let model = std::path::absolute(model).ok()?;
    let folders = [Some(model.as_path()), model.parent().and_then(Path::parent)];
    folders
        .into_iter()
        .flatten()
        .map(|folder| folder.join("tokenizers"))
        .find(|path| path.join("tokenizers.json").is_file())
}

/// Lays one table over another.
fn merge(under: &mut toml::Table, over: &toml::Table) {
    for (key, value) in over {
        match (under.get_mut(key), value) {
            (Some(toml::Value::Table(under)), toml::Value::Table(over)) => merge(under, over),
            _ => {
                under.insert(key.clone(), value.clone());
            }
        }
    }
}

/// Lays an override into a table.
pub(super) fn apply_override(table: &mut toml::Table, text: &str) -> Result<()> {
    let wrong = |reason: String| Error::Override { text: text.to_owned(), reason };
    let (key, value) = text.split_once('=').ok_or_else(|| wrong("there is no =".to_owned()))?;
    let mut parts: Vec<&str> = key.trim().split('.').collect();
    let last = parts.pop().unwrap_or_default();
    if last.is_empty() || parts.contains(&"") {
        return Err(wrong("a part of the key is empty".to_owned()));
    }
    let parsed = toml::from_str::<toml::Table>(&format!("value = {value}"));
    let value = match parsed.ok().and_then(|mut table| table.remove("value")) {
        Some(value) => value,
        None => toml::Value::String(value.trim().to_owned()),
    };
    let mut at = toml::Value::Table(std::mem::take(table));
    let set = set_at(&mut at, &parts, last, value);
    if let toml::Value::Table(filled) = at {
        *table = filled;
    }
    set.map_err(wrong)
}

/// Sets a value behind a path of keys; the parts of an array have their numbers, from 0, for keys.
fn set_at(at: &mut toml::Value, parts: &[&str], last: &str, value: toml::Value) -> Result<(), String> {
    let mut at = at;
    let mut name = "the configuration";
    for &part in parts {
        at = match at {
            toml::Value::Table(table) => table.entry(part).or_insert_with(|| toml::Value::Table(toml::Table::new())),
            toml::Value::Array(array) => {
                let n = array.len();
                let found = part.parse().ok().and_then(|index: usize| array.get_mut(index));
                found.ok_or_else(|| format!("{name} has no {part}, only 0 to {}", n.saturating_sub(1)))?
            }
            _ => return Err(format!("{name} is no table")),
        };
        name = part;
    }
    match at {
        toml::Value::Table(table) => {
            table.insert(last.to_owned(), value);
            Ok(())
        }
        _ => Err(format!("{name} is no table")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RunConfig;

    #[test]
    fn a_kind_has_its_published_sizes_unless_others_are_given() {
        let read = |scale: &str, more: &[&str]| {
            let text = format!(
                r#"
                model = {{ setting = "three-modality", variant = "mom", scale = "{scale}" }}
                data = {{ shards = "shards", batch = 4, seqlen = 128 }}
                train = {{ steps = 10 }}
                "#
            );
            let kinds = [
                "data.tokenizers.image.kind=vqgan",
                "data.tokenizers.image.weights=vqgan.ckpt",
                "data.tokenizers.speech.kind=mimi",
                "data.tokenizers.speech.weights=model.safetensors",
            ];
            let overrides: Vec<String> = kinds.iter().chain(more).map(|&text| text.to_owned()).collect();
            RunConfig::from_toml(&text, &overrides).unwrap()
        };
        for (scale, n_text) in [("nano", 512), ("94M", 65_536 - 6 - 8192 - 2048)] {
            let config = read(scale, &[]);
            let tokenizers = &config.data.tokenizers;
            assert_eq!((tokenizers.image.size, tokenizers.image.patch, tokenizers.image.codes), (512, 16, 8192));
            assert_eq!((tokenizers.speech.sample_rate, tokenizers.speech.units), (24_000, 2048));
            assert_eq!(tokenizers.text.vocab_size, n_text);
            let again = RunConfig::from_toml(&config.to_toml().unwrap(), &[]).unwrap();
            assert_eq!(again, config);
        }
        let own = read("94M", &["data.tokenizers.image.codes=256", "data.tokenizers.text.vocab_size=300"]);
        assert_eq!((own.data.tokenizers.image.codes, own.data.tokenizers.text.vocab_size), (256, 300));
    }

    #[test]
    fn a_file_of_weights_has_no_tokenizers_wherever_it_lies() {
        let run = tempfile::tempdir().unwrap();
        let checkpoint = run.path().join("checkpoints/step-00000001");
        let tokenizers = run.path().join("tokenizers");
        for folder in [&checkpoint, &tokenizers] {
            std::fs::create_dir_all(folder).unwrap();
        }
        std::fs::write(tokenizers.join("tokenizers.json"), "{}").unwrap();
        let file = run.path().join("checkpoints/weights.safetensors");
        std::fs::write(&file, "").unwrap();
        assert_eq!(tokenizers_of(run.path()), Some(tokenizers.clone()));
        assert_eq!(tokenizers_of(&checkpoint), Some(tokenizers));
        assert_eq!(tokenizers_of(&file), None);
    }
}
