//! What readers give, counted and taken apart.
#![allow(dead_code, reason = "each test binary uses its own part")]

use mom_data::readers::{Outcome, Part, Sample, Tally};

/// Counts an outcome.
pub fn count(tally: &mut Tally, outcome: &Outcome) {
    match outcome {
        Outcome::Sample(sample) => tally.used(&sample.items),
        Outcome::Skipped { key, place, items, skip } => tally.skipped(&place.file, key, items, skip),
        Outcome::Ignored { ending, name } => tally.ignored(ending, name),
    }
}

/// The first text of a sample.
pub fn text(sample: &Sample) -> Option<&str> {
    sample.parts.iter().find_map(|part| if let Part::Text(text) = part { Some(text.as_str()) } else { None })
}
