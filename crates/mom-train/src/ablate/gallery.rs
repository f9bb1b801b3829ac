//! Samples of finished runs, side by side.

use std::fs;
use std::path::Path;

use super::report::{Exhibit, Gallery, GalleryRow};
use crate::Result;
use crate::files::At;
use crate::samples::{Samples, Shown};

/// A finished run whose samples are shown.
pub(super) struct Shelf<'a> {
    pub setting: &'a str,
    pub variant: &'a str,
    pub seed: u64,
    /// Its folder.
    pub run: &'a Path,
}

/// The newest samples of runs, by setting; of each setting those of one seed.
///
/// # Errors
/// Samples that cannot be read.
pub(super) fn galleries(shelves: &[Shelf<'_>]) -> Result<Vec<Gallery>> {
    let mut galleries: Vec<Gallery> = Vec::new();
    for Shelf { setting, variant, seed, run } in shelves {
        let Some((folder, samples)) = Samples::newest(run)? else { continue };
        let at = galleries.iter().position(|gallery| gallery.setting == *setting).unwrap_or_else(|| {
            galleries.push(Gallery {
                setting: (*setting).to_owned(),
                seed: *seed,
                variants: Vec::new(),
                rows: Vec::new(),
            });
            galleries.len() - 1
        });
        let gallery = &mut galleries[at];
        if gallery.seed != *seed {
            continue;
        }
        gallery.variants.push((*variant).to_owned());
        for sample in &samples.samples {
            let (prompt, truth) = (exhibit(&folder, &sample.prompt)?, exhibit(&folder, &sample.truth)?);
            let same = |row: &GalleryRow| row.prompt == prompt && row.truth == truth;
            let row = gallery.rows.iter().position(same).unwrap_or_else(|| {
                gallery.rows.push(GalleryRow { prompt, truth, drawn: Vec::new() });
                gallery.rows.len() - 1
            });
            let drawn = &mut gallery.rows[row].drawn;
            drawn.resize(gallery.variants.len() - 1, None);
            drawn.push(Some(exhibit(&folder, &sample.drawn)?));
        }
        for row in &mut gallery.rows {
            row.drawn.resize(gallery.variants.len(), None);
        }
    }
    Ok(galleries)
}

fn exhibit(folder: &Path, shown: &Shown) -> Result<Exhibit> {
    let read = |name: &Path| fs::read(folder.join(name)).at("read", &folder.join(name));
    Ok(match shown {
        Shown::Text(text) => Exhibit::Text(text.clone()),
        Shown::Image(name) => Exhibit::Image(read(name)?),
        Shown::Speech(name) => Exhibit::Speech(read(name)?),
    })
}
