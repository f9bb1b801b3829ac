//! What a table's columns are: keys, texts, media, documents.

use std::collections::HashMap;

use parquet::basic::{ConvertedType, Type};
use parquet::file::metadata::FileMetaData;
use parquet::schema::types::ColumnDescriptor;
use serde_json::Value;

use super::super::ReadOptions;
use super::super::json::TEXT_FIELDS;
use super::super::listing::{is_audio, is_image};
use super::column;

/// Columns that name a row, the first that holds something is taken.
const KEY_FIELDS: [&str; 4] = ["key", "id", "__key__", "url"];

/// Column of an interleaved document whose JSON holds its `url`.
const DOCUMENT_FIELD: &str = "general_metadata";

/// Columns that are named in words when none is of use.
const MAX_NAMED: usize = 12;

/// What a medium is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Image,
    Audio,
}

/// A column of media. Columns are named by their place among [`Plan::leaves`].
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Media {
    /// Name of the column.
    pub name: String,
    /// By the features that Hugging Face's `datasets` writes into the schema.
    pub declared: Option<Kind>,
    /// By the name of the column.
    pub named: Option<Kind>,
    pub bytes: Option<usize>,
    pub path: Option<usize>,
    /// A column of bytes alone may hold anything: what is not told as a medium is none.
    pub is_bare: bool,
}

/// Parallel lists, in each place either an image or a text.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Documents {
    pub images: Media,
    pub texts: usize,
    /// Column of JSON with the document's `url`.
    pub about: Option<usize>,
}

/// How rows become samples.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Plan {
    /// The columns that are read, by their number in the file.
    pub leaves: Vec<usize>,
    pub keys: Vec<usize>,
    pub texts: Vec<usize>,
    pub group: Option<usize>,
    pub media: Vec<Media>,
    pub documents: Option<Documents>,
}

impl Plan {
    /// The plan of a table. The error says that nothing in it is text or medium.
    pub fn of(file: &FileMetaData, options: &ReadOptions) -> Result<Self, String> {
        let columns = file.schema_descr().columns();
        let find =
            |wanted: &dyn Fn(&ColumnDescriptor) -> bool| columns.iter().position(|c| column::is_read(c) && wanted(c));
        let scalar = |name: &str| find(&|c| c.max_rep_level() == 0 && c.path().string() == name);
        let features = features(file);

        let mut plan = Self::default();
        let mut media = media(columns.iter().map(|c| &**c).enumerate(), &features);
        let texts_wanted = options.text_fields.is_empty() || options.text_fields.iter().any(|field| field == "texts");
        let lists = || {
            let mut texts =
                columns.iter().enumerate().filter(|(_, c)| c.path().parts().first().is_some_and(|p| p == "texts"));
            let (texts, only) = (texts.next()?, texts.next().is_none());
            let is_texts = only && is_list(texts.1) && texts.1.physical_type() == Type::BYTE_ARRAY;
            (is_texts && column::is_read(texts.1)).then_some(texts.0)
        };
        let images = media.iter().position(|(m, is_list)| *is_list && m.name == "images");
        if let (true, Some(texts), Some(images)) = (texts_wanted, lists(), images) {
            let about = scalar(DOCUMENT_FIELD).map(|leaf| plan.slot(leaf));
            let texts = plan.slot(texts);
            let images = plan.place(media.swap_remove(images).0);
            plan.documents = Some(Documents { images, texts, about });
        } else {
            let named: Vec<&str> = options.text_fields.iter().map(String::as_str).collect();
            let fields = if named.is_empty() { &TEXT_FIELDS[..] } else { &named[..] };
            for leaf in fields.iter().filter_map(|field| scalar(field)) {
                let slot = plan.slot(leaf);
                plan.texts.push(slot);
            }
            // A column of bytes that is the text is no medium.
            let texts: Vec<usize> = plan.leaves.clone();
            media.retain(|(m, _)| m.bytes.is_none_or(|leaf| !texts.contains(&leaf)));
            for (m, _) in media {
                let m = plan.place(m);
                plan.media.push(m);
            }
        }
        if plan.leaves.is_empty() {
            let mut names: Vec<String> = columns.iter().take(MAX_NAMED).map(|c| c.path().string()).collect();
            if columns.len() > MAX_NAMED {
                names.push("...".to_owned());
            }
            return Err(format!("no column is read as text, image or sound, of {}", names.join(", ")));
        }
        for leaf in KEY_FIELDS.iter().filter_map(|field| scalar(field)) {
            let slot = plan.slot(leaf);
            plan.keys.push(slot);
        }
        plan.group = options.group_field.as_deref().and_then(scalar).map(|leaf| plan.slot(leaf));
        Ok(plan)
    }

    /// The place of a column among those that are read.
    fn slot(&mut self, leaf: usize) -> usize {
        self.leaves.iter().position(|&there| there == leaf).unwrap_or_else(|| {
            self.leaves.push(leaf);
            self.leaves.len() - 1
        })
    }

    /// The same media, their columns by place instead of number.
    fn place(&mut self, media: Media) -> Media {
        let bytes = media.bytes.map(|leaf| self.slot(leaf));
        let path = media.path.map(|leaf| self.slot(leaf));
        Media { bytes, path, ..media }
    }
}

/// All columns of media with their numbers, and whether each is of lists.
fn media<'a>(
    columns: impl Iterator<Item = (usize, &'a ColumnDescriptor)> + Clone,
    features: &HashMap<String, Kind>,
) -> Vec<(Media, bool)> {
    let mut found: Vec<(Media, bool)> = Vec::new();
    for (leaf, descr) in columns.clone() {
        if !column::is_read(descr) || descr.physical_type() != Type::BYTE_ARRAY {
            continue;
        }
        let parts = descr.path().parts();
        let Some((last, around)) = parts.split_last() else { continue };
        let root = parts.first().map_or("", String::as_str);
        let declared = features.get(root).copied();
        // Elements of a list are several levels below its name.
        let name = if is_list(descr) { root.to_owned() } else { around.join(".") };
        let medium = |name: String, bytes, path, is_bare| {
            let named = named(name.rsplit('.').next().unwrap_or(&name));
            (Media { declared: declared.filter(|_| name == root), named, name, bytes, path, is_bare }, is_list(descr))
        };
        let is_member = parts.len() > 1 && (last == "bytes" || last == "path");
        let is_simple = parts.len() == 1 || (is_list(descr) && !is_member);
        if is_member && last == "bytes" && !is_text(descr) {
            let path = columns.clone().find(|(_, c)| {
                let beside = c.path().parts().split_last();
                beside.is_some_and(|(last, there)| last == "path" && there == around)
                    && c.physical_type() == Type::BYTE_ARRAY
            });
            found.push(medium(name, Some(leaf), path.map(|(leaf, _)| leaf), false));
        } else if is_simple && !is_text(descr) {
            found.push(medium(root.to_owned(), Some(leaf), None, !(is_list(descr) && root == "images")));
        } else if is_simple && is_text(descr) && (declared.is_some() || (is_list(descr) && root == "images")) {
            // Names without bytes: addresses of what was not fetched.
            found.push(medium(root.to_owned(), None, Some(leaf), false));
        }
    }
    found
}

fn is_list(descr: &ColumnDescriptor) -> bool {
    descr.max_rep_level() > 0
}

/// Whether a column of bytes says that it holds something else than bare bytes.
fn is_text(descr: &ColumnDescriptor) -> bool {
    descr.converted_type() != ConvertedType::NONE || descr.logical_type_ref().is_some()
}

/// What a column's name says of its media.
fn named(name: &str) -> Option<Kind> {
    let name = name.to_lowercase();
    if is_image(&name) || matches!(name.as_str(), "image" | "images" | "img" | "picture" | "photo") {
        Some(Kind::Image)
    } else if is_audio(&name) || matches!(name.as_str(), "audio" | "audios" | "speech" | "sound" | "recording") {
        Some(Kind::Audio)
    } else {
        None
    }
}

/// Columns that the `huggingface` entry of the schema declares as media, in lists too.
fn features(file: &FileMetaData) -> HashMap<String, Kind> {
    let entries = file.key_value_metadata().map_or(&[][..], Vec::as_slice);
    let json = entries.iter().find(|entry| entry.key == "huggingface").and_then(|entry| entry.value.as_deref());
    let json: Option<Value> = json.and_then(|json| serde_json::from_str(json).ok());
    let Some(Value::Object(features)) = json.as_ref().and_then(|json| json.pointer("/info/features")) else {
        return HashMap::new();
    };
    let kind = |mut feature: &Value| {
        // A list is an object with its element as `feature`, or once was an array of it.
        for _ in 0..4 {
            match feature.get("_type").and_then(Value::as_str) {
                Some("Image") => return Some(Kind::Image),
                Some("Audio") => return Some(Kind::Audio),
                _ => feature = feature.get("feature").or_else(|| feature.get(0))?,
            }
        }
        None
    };
    features.iter().filter_map(|(name, feature)| Some((name.clone(), kind(feature)?))).collect()
}
