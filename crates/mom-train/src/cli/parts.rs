//! Parts of documents as a user names them.

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
