//! How a JSON sidecar interleaves the parts of its sample.
//!
//! Three forms: a list of strings, of which those that name a part are that part; lists `images` and `texts` of equal
//! length, one of the two set at each place; a list of `{"type": "text", "text": ...}` and `{"type": "image", "image": ...}`.

use serde_json::{Map, Value};

use crate::readers::listing::{is_audio, is_image};
use crate::readers::{Skip, SkipReason, printable};

/// One place of an interleaved sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Text(String),
    /// Ending of the part, in lower case.
    Member(String),
}

/// The order that a sidecar gives, if it gives one. `has`: whether the sample has a part of that ending; `alone`: whether
/// the sidecar is the only member of its sample that is read.
pub(super) fn sequence(sidecar: &Value, has: &dyn Fn(&str) -> bool, alone: bool) -> Result<Option<Vec<Step>>, Skip> {
    let steps = match sidecar {
        Value::Array(items) if items.is_empty() => None,
        Value::Array(items) => match items.iter().map(Value::as_str).collect::<Option<Vec<_>>>() {
            Some(strings) => strings_form(&strings, has, alone),
            None if items.iter().all(is_typed) => Some(items.iter().map(typed_step).collect::<Result<_, _>>()?),
            None => None,
        },
        Value::Object(record) => parallel_form(record)?,
        _ => None,
    };
    Ok(steps.filter(|steps| !steps.is_empty()))
}

/// A list of strings is a document if it names a part; otherwise it may as well be a list of tags.
fn strings_form(strings: &[&str], has: &dyn Fn(&str) -> bool, alone: bool) -> Option<Vec<Step>> {
    let step = |&text: &&str| {
        let name = text.to_lowercase();
        if has(&name) || names_media(&name) { Step::Member(name) } else { Step::Text(text.to_owned()) }
    };
    let steps: Vec<Step> = strings.iter().map(step).collect();
    (alone || steps.iter().any(|step| matches!(step, Step::Member(_)))).then_some(steps)
}

/// Whether a string can only be the name of a part: `img1.jpg`, though it is not there.
fn names_media(name: &str) -> bool {
    let Some((stem, last)) = name.rsplit_once('.') else { return false };
    let plain = !stem.is_empty() && name.len() < 256 && !name.contains(|c: char| c.is_whitespace() || c == '/');
    plain && (is_image(last) || is_audio(last))
}

fn is_typed(item: &Value) -> bool {
    matches!(item.get("type").and_then(Value::as_str), Some("text" | "image" | "audio" | "speech"))
}

fn typed_step(item: &Value) -> Result<Step, Skip> {
    let kind = item.get("type").and_then(Value::as_str).unwrap_or_default();
    let value = item.get(kind).and_then(Value::as_str);
    let value = value.ok_or_else(|| broken(&format!("an item of type {kind} without {kind}")))?;
    Ok(if kind == "text" { Step::Text(value.to_owned()) } else { Step::Member(value.to_lowercase()) })
}

fn parallel_form(record: &Map<String, Value>) -> Result<Option<Vec<Step>>, Skip> {
    let list = |field: &str| record.get(field).and_then(Value::as_array);
    let (Some(images), Some(texts)) = (list("images"), list("texts")) else { return Ok(None) };
    if images.len() != texts.len() {
        return Err(broken(&format!("{} images beside {} texts", images.len(), texts.len())));
    }
    let mut steps = Vec::new();
    for (place, (image, text)) in images.iter().zip(texts).enumerate() {
        match (image, text) {
            (Value::String(image), Value::Null) => steps.push(Step::Member(image.to_lowercase())),
            (Value::Null, Value::String(text)) => steps.push(Step::Text(text.clone())),
            (Value::Null, Value::Null) => {}
            _ => {
                let what = format!("not exactly one string of images[{place}] and texts[{place}]");
                return Err(broken(&what));
            }
        }
    }
    Ok(Some(steps))
}

fn broken(what: &str) -> Skip {
    Skip::new(SkipReason::BrokenRecord, printable(what, 160))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn steps(sidecar: Value) -> Result<Option<Vec<Step>>, Skip> {
        sequence(&sidecar, &|name| name == "jpg" || name == "img1.jpg", false)
    }

    fn text(text: &str) -> Step {
        Step::Text(text.to_owned())
    }

    fn member(name: &str) -> Step {
        Step::Member(name.to_owned())
    }

    #[test]
    fn three_forms_are_one_sequence() {
        let expected = vec![text("A cat."), member("img1.jpg")];
        let forms = [
            json!(["A cat.", "IMG1.jpg"]),
            json!({"images": [null, "img1.jpg"], "texts": ["A cat.", null], "more": 1}),
            json!([{"type": "text", "text": "A cat."}, {"type": "image", "image": "img1.jpg", "alt": ""}]),
        ];
        for form in forms {
            assert_eq!(steps(form.clone()).unwrap().as_ref(), Some(&expected), "{form}");
        }
    }

    #[test]
    fn tags_and_boxes_are_no_sequence() {
        for other in
            [json!(["cat", "animal"]), json!([]), json!([[1, 2]]), json!([{"type": "box"}]), json!({"images": 3})]
        {
            assert_eq!(steps(other.clone()).unwrap(), None, "{other}");
        }
        assert_eq!(sequence(&json!(["cat"]), &|_| false, true).unwrap(), Some(vec![text("cat")]));
    }

    #[test]
    fn a_name_that_is_not_there_stays_a_name() {
        assert_eq!(steps(json!(["img7.png"])).unwrap(), Some(vec![member("img7.png")]));
        assert_eq!(steps(json!(["see img7.png", "jpg"])).unwrap(), Some(vec![text("see img7.png"), member("jpg")]));
    }

    #[test]
    fn lists_that_do_not_fit_are_broken() {
        for bad in [
            json!({"images": [null], "texts": []}),
            json!({"images": ["a.jpg"], "texts": ["b"]}),
            json!([{"type": "image"}]),
        ] {
            assert_eq!(steps(bad.clone()).unwrap_err().reason, SkipReason::BrokenRecord, "{bad}");
        }
    }
}
