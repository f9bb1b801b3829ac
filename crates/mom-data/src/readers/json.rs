//! Fields of JSON records: sidecars, lines, columns.

use serde_json::{Map, Value};

use super::ReadOptions;

/// Fields that usually hold the text.
pub(super) const TEXT_FIELDS: [&str; 6] = ["text", "caption", "txt", "transcription", "transcript", "sentence"];

/// The text of a record: the first field that is there, of those that are named or of the usual ones. A number counts as
/// its digits; `null` as no text.
pub(super) fn text(record: &Map<String, Value>, options: &ReadOptions) -> Option<String> {
    let named: Vec<&str> = options.text_fields.iter().map(String::as_str).collect();
    let fields = if named.is_empty() { &TEXT_FIELDS[..] } else { &named[..] };
    fields.iter().find_map(|field| scalar(record.get(*field)?))
}

/// The value of the `group` field, where one is named and there.
pub(super) fn group(record: &Map<String, Value>, options: &ReadOptions) -> Option<String> {
    scalar(record.get(options.group_field.as_deref()?)?)
}

/// A string, number or truth value as a string.
pub(super) fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}
