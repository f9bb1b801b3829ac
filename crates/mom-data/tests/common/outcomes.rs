//! What readers give, taken apart.

use mom_data::readers::{Part, Sample};

/// The first text of a sample.
pub fn text(sample: &Sample) -> Option<&str> {
    sample.parts.iter().find_map(|part| if let Part::Text(text) = part { Some(text.as_str()) } else { None })
}
