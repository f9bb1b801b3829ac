//! Reads pictures back to facts: what stands before which background, by its pixels alone.
//!
//! ```text
//! pixels  ->  canvas (32 x 32)  ->  background: the wall or landscape that fits best
//!                                      ->  objects: outlines that cover what does not fit it
//!                                      ->  colours: one or two of each  ->  groups  ->  facts
//! ```
//!
//! Analysis by synthesis: backgrounds and outlines are those of the generator, of every kind, place, size and turn, and the ones
//! that explain the pixels best are taken. Thresholds are soft, so that the blur of a codebook and the noise of a sampler move
//! what is seen a little and do not break it. A reader errs all the same: how often is measured in
//! `crates/mom-data/tests/scene_truth.rs`, and stands beside every figure that is made with it.

mod background;
mod canvas;
mod colours;
mod groups;
mod objects;
mod templates;

use super::facts::Facts;
use crate::RgbImage;

/// What a picture shows. It is complete: what was not seen is not there.
///
/// Pictures of any size are brought to 32 x 32 pixels first.
pub fn read_picture(image: &RgbImage) -> Facts {
    let canvas = canvas::Canvas::of(image);
    // Objects hide a part of the background, and what is taken for background hides a part of the objects: twice around.
    let first = background::fit(&canvas, &[]);
    let seen = objects::find(&canvas, &first.pixels);
    let second = background::fit(&canvas, &objects::covered(&seen));
    let seen = objects::find(&canvas, &second.pixels);
    groups::facts(&canvas, seen, second.facts)
}
