//! The plots: validation-loss curves, matching steps and gains. One SVG file per panel, so that a page can set panels
//! side by side on a wide screen and below each other on a narrow one without shrinking their text.

mod canvas;
mod curves;
mod frame;
mod gains;
mod horizons;
mod lines;
mod matching;
mod palette;
mod rates;

pub(super) use curves::curves;
pub(super) use gains::gains;
pub(super) use horizons::horizons;
pub(super) use matching::matching;
pub(super) use palette::dark_colours;
pub(super) use rates::rates;

use super::group::{Group, file_name};

/// One drawn panel.
pub(super) struct Panel {
    /// File name, ending in `.svg`.
    pub(super) file: String,
    /// What the panel shows, for those who cannot see it.
    pub(super) alt: String,
    /// The SVG document.
    pub(super) svg: String,
}

/// The file name of a panel.
fn panel_file(group: &Group, kind: &str, modality: &str) -> String {
    format!("{}-{kind}-{}.svg", group.stem, file_name(modality))
}

/// What stands below a title; what stands on one seed says so.
fn subtitle(group: &Group, text: &str) -> String {
    if group.is_one_seed() { format!("{text}; one seed") } else { text.to_owned() }
}
