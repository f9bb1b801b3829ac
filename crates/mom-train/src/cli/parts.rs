//! Parts of documents as a user names them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use mom_data::Modality;

/// The modality of a name.
pub fn modality(name: &str) -> Result<Modality> {
    let of_name = Modality::ALL.into_iter().find(|modality| modality.name() == name);
    of_name.with_context(|| format!("{name} is no part: expected text, image or speech"))
}

/// How files of a modality end.
pub fn ending(modality: Modality) -> &'static str {
    match modality {
        Modality::Text => "txt",
        Modality::Image => "png",
        Modality::Speech => "wav",
    }
}

/// Where units go that were asked for as sound and cannot be heard.
pub fn units_file(path: &Path) -> PathBuf {
    path.with_extension("units.txt")
}

/// Units on a line, as a vocoder's program reads them.
pub fn units_text(units: &[u32]) -> String {
    let mut text = units.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
    text.push('\n');
    text
}
