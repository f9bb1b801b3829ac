//! What a reader sees in a source: sample by sample, and in sum.

use std::io::{self, Write};

use rayon::prelude::*;
use serde_json::{Map, Value, json};

use crate::media::{audio, image};
use crate::readers::{Chunk, Outcome, Part, PartOrder, Picture, Sample, Skip, SkipReason, Sound, Tally, read_units};
use crate::readers::{Format, printable};
use crate::source::SourceConfig;
use crate::{DataError, Modality, Result};

/// One sample, or what stands in its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Inspection {
    json: Map<String, Value>,
}

/// A source in sum.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    format: Format,
    tally: Tally,
    /// Files that are damaged, in words.
    damaged: Vec<String>,
    /// Whether everything was read.
    complete: bool,
}

/// Reads and decodes up to `limit` samples of a source; `each` is given every one in reading order.
///
/// A sample that does not decode has a field `error`. Damaged files do not end the inspection: they are part of the report.
///
/// # Errors
/// As [`SourceConfig::open`], and [`DataError::Io`].
pub fn inspect(source: &SourceConfig, limit: u64, mut each: impl FnMut(Inspection)) -> Result<Report> {
    let reader = source.open()?;
    let mut report = Report { format: reader.format(), tally: Tally::default(), damaged: Vec::new(), complete: true };
    // A folder is told by its own name where the format calls its pieces so; here all are files.
    let units: Vec<usize> = (0..reader.units().len()).collect();
    let per_unit = usize::try_from(limit).unwrap_or(usize::MAX).saturating_add(1);
    let mut left = limit;
    read_units(&*reader, &units, per_unit, |loads| {
        for chunk in loads.into_iter().flatten() {
            let outcomes = match chunk {
                Chunk::Outcomes(outcomes) => outcomes,
                Chunk::End(_, Ok(())) => continue,
                Chunk::End(_, Err(error @ DataError::Damaged { .. })) => {
                    report.damaged.push(error.to_string());
                    continue;
                }
                Chunk::End(_, Err(error)) => return Err(error),
            };
            let seen: Vec<_> = outcomes.par_iter().map(see).collect();
            for (outcome, seen) in outcomes.iter().zip(seen) {
                let Some((json, error)) = seen else {
                    report.tally.count(outcome);
                    continue;
                };
                if left == 0 {
                    report.complete = false;
                    return Ok(());
                }
                left -= 1;
                match (outcome, error) {
                    (Outcome::Sample(sample), Some(skip)) => {
                        report.tally.skipped(&sample.place.file, &sample.key, &sample.items, &skip);
                    }
                    _ => report.tally.count_grouped(outcome, source.group.is_some()),
                }
                each(Inspection { json });
            }
        }
        Ok(())
    })?;
    reader.ignored().iter().for_each(|outcome| report.tally.count(outcome));
    Ok(report)
}

fn place(json: &mut Map<String, Value>, place: &crate::readers::Place, key: &str) {
    let is_archive = [".tar", ".tgz", ".tar.gz", ".tar.zst"].iter().any(|end| place.file.to_lowercase().ends_with(end));
    json.insert(if is_archive { "shard" } else { "file" }.to_owned(), place.file.clone().into());
    if let Some(row) = place.row {
        json.insert("row".to_owned(), row.into());
    }
    json.insert("key".to_owned(), key.into());
}

/// An outcome as JSON, and why it cannot be used; `None` for what belongs to no sample.
fn see(outcome: &Outcome) -> Option<(Map<String, Value>, Option<Skip>)> {
    let mut json = Map::new();
    match outcome {
        Outcome::Ignored { .. } => None,
        Outcome::Skipped { key, place: at, skip, .. } => {
            place(&mut json, at, key);
            json.insert("error".to_owned(), skip.to_string().into());
            Some((json, Some(skip.clone())))
        }
        Outcome::Sample(sample) => {
            place(&mut json, &sample.place, &sample.key);
            let error = see_parts(sample, &mut json).err();
            if let Some(skip) = &error {
                json.insert("error".to_owned(), skip.to_string().into());
            }
            Some((json, error))
        }
    }
}

fn see_parts(sample: &Sample, json: &mut Map<String, Value>) -> std::result::Result<(), Skip> {
    if let Some(group) = &sample.group {
        json.insert("group".to_owned(), group.clone().into());
    }
    let mut error = None;
    let mut seen = |part: &Part| match see_part(part) {
        Ok(value) => value,
        Err(skip) => {
            let told = json!({ "error": skip.to_string() });
            error.get_or_insert(skip);
            told
        }
    };
    if sample.order == PartOrder::Fixed {
        let item = |part: &Part| json!({ field(part): seen(part) });
        json.insert("sequence".to_owned(), sample.parts.iter().map(item).collect());
    } else {
        for name in ["text", "image", "audio"] {
            json.insert(name.to_owned(), Value::Null);
        }
        for part in &sample.parts {
            let value = seen(part);
            json.insert(field(part).to_owned(), value);
        }
    }
    if sample.parts.is_empty() {
        error = Some(Skip::new(SkipReason::NoPart, ""));
    }
    error.map_or(Ok(()), Err)
}

fn field(part: &Part) -> &'static str {
    match part {
        Part::Text(_) => "text",
        Part::Image(_) | Part::Latents { .. } => "image",
        Part::Audio(_) => "audio",
        Part::Codes { modality: Modality::Text, .. } => "tokens",
        Part::Codes { modality: Modality::Image, .. } => "image",
        Part::Codes { modality: Modality::Speech, .. } => "speech",
    }
}

fn see_part(part: &Part) -> std::result::Result<Value, Skip> {
    let with_name = |mut value: Value, name: &str| {
        value["name"] = name.into();
        value
    };
    let facts = |facts: serde_json::Result<Value>| facts.unwrap_or(Value::Null);
    Ok(match part {
        Part::Text(text) => text.clone().into(),
        Part::Image(Picture::File { name, bytes }) => {
            let image = image::decode(bytes)?;
            let seen = json!({ "width": image.rgb.width, "height": image.rgb.height, "mean_rgb": image.mean_rgb });
            with_name(seen, name)
        }
        Part::Image(Picture::Pixels(pixels)) => json!({ "width": pixels.width, "height": pixels.height }),
        Part::Audio(Sound::File { name, bytes }) => {
            with_name(facts(serde_json::to_value(audio::decode(bytes, name)?.facts)), name)
        }
        Part::Audio(Sound::Wave { sample_rate, values }) => {
            json!({ "sample_rate": sample_rate, "channels": 1, "frames": values.len(),
                    "seconds": values.len() as f64 / f64::from(*sample_rate) })
        }
        Part::Codes { shape, values, .. } => json!({ "shape": shape, "codes": values }),
        Part::Latents { shape, values } => {
            let mean = values.iter().map(|&value| f64::from(value)).sum::<f64>() / values.len().max(1) as f64;
            json!({ "shape": shape, "mean": mean })
        }
    })
}

impl Inspection {
    /// The sample as one line of JSON.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write_json(&self, out: &mut dyn Write) -> io::Result<()> {
        serde_json::to_writer(&mut *out, &self.json)?;
        out.write_all(b"\n")
    }

    /// The sample as a row for people.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write_row(&self, out: &mut dyn Write) -> io::Result<()> {
        let word = |name: &str| self.json.get(name).and_then(Value::as_str).unwrap_or_default();
        let key = printable(word("key"), 40);
        let parts = match self.json.get("sequence").and_then(Value::as_array) {
            Some(items) => items.iter().filter_map(Value::as_object).map(row_of).collect::<Vec<_>>().join(" | "),
            None => row_of(&self.json),
        };
        let error = self.json.get("error").and_then(Value::as_str).map(|error| format!("  SKIPPED: {error}"));
        writeln!(out, "{key:<24} {}{}", printable(&parts, 160), error.unwrap_or_default())
    }
}

/// The parts of an object in words.
fn row_of(json: &Map<String, Value>) -> String {
    let number = |value: &Value, name: &str| value.get(name).and_then(Value::as_f64).unwrap_or(0.0);
    let mut words = Vec::new();
    for (name, value) in json {
        match (name.as_str(), value) {
            ("text", Value::String(text)) => words.push(format!("{:?}", printable(text, 60))),
            ("image", value) if value.get("width").is_some() => {
                words.push(format!("image {} x {}", number(value, "width"), number(value, "height")));
            }
            ("audio", value) if value.get("seconds").is_some() => {
                words.push(format!("{:.2} s at {} Hz", number(value, "seconds"), number(value, "sample_rate")));
            }
            ("image" | "speech" | "tokens", value) if value.get("shape").is_some() => {
                words.push(format!("{name} {}", value["shape"]));
            }
            _ => {}
        }
    }
    words.join(", ")
}

impl Report {
    /// What became of everything that was found.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Files that are damaged, in words.
    pub fn damaged(&self) -> &[String] {
        &self.damaged
    }

    /// `{"summary": {...}}`.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write_json(&self, out: &mut dyn Write) -> io::Result<()> {
        let ignored: Map<String, Value> = self
            .tally
            .items
            .iter()
            .filter(|(_, counts)| counts.ignored > 0)
            .map(|(ending, counts)| (ending.clone(), counts.ignored.into()))
            .collect();
        let summary = json!({ "summary": {
            "format": self.format,
            "complete": self.complete,
            "found": self.tally.found(),
            "used": self.tally.used,
            "ungrouped": self.tally.ungrouped,
            "skipped": self.tally.skipped,
            "ignored": ignored,
            "items": self.tally.items,
            "damaged": self.damaged,
        }});
        serde_json::to_writer(&mut *out, &summary)?;
        out.write_all(b"\n")
    }

    /// A table for people.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        let tally = &self.tally;
        writeln!(out, "\nformat {}: {} samples, {} used", self.format, tally.found(), tally.used)?;
        for (reason, count) in &tally.skipped {
            writeln!(out, "{count:>8} skipped: {}", reason.describe())?;
        }
        writeln!(out, "\n{:<24} {:>8} {:>8} {:>8} {:>8}", "ending", "found", "used", "skipped", "ignored")?;
        for (ending, counts) in &tally.items {
            let [found, used, skipped, ignored] = [counts.found, counts.used, counts.skipped, counts.ignored];
            writeln!(out, "{ending:<24} {found:>8} {used:>8} {skipped:>8} {ignored:>8}")?;
        }
        if tally.ungrouped > 0 {
            writeln!(out, "{} without the field that group names: split by their own key", tally.ungrouped)?;
        }
        tally.examples.iter().try_for_each(|example| writeln!(out, "for example {example}"))?;
        self.damaged.iter().try_for_each(|damage| writeln!(out, "damaged: {damage}"))?;
        if self.complete { Ok(()) } else { writeln!(out, "(not read to the end)") }
    }
}
