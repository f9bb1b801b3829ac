//! Generated documents as a source like any other: no file is written or read.

use std::ops::ControlFlow;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{SceneConfig, SceneDocument, Speech, World, document};
use crate::error::require;
use crate::readers::{Format, Outcome, Part, PartOrder, Picture, Place, Reader, Sample, Sound, Unit};
use crate::{Result, rng};

/// Documents of a unit.
const UNIT: usize = 1024;
/// Documents that are rendered together.
const CHUNK: usize = 64;

/// Which documents are generated, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SceneSource {
    /// Seed of the documents.
    pub seed: u64,
    /// Number of documents: those with index 0 to `documents - 1`.
    pub documents: usize,
    /// Side of the images in pixels.
    pub image_size: usize,
    /// Rate of the speech in Hz.
    pub sample_rate: u32,
    /// How much there is to learn.
    #[serde(skip_serializing_if = "World::is_small")]
    pub world: World,
}

impl Default for SceneSource {
    fn default() -> Self {
        let SceneConfig { image_size, sample_rate, .. } = SceneConfig::default();
        Self { seed: 0, documents: 6000, image_size, sample_rate, world: World::Small }
    }
}

impl SceneSource {
    /// Checks every value.
    ///
    /// # Errors
    /// [`crate::DataError::Config`], naming the field.
    pub fn validate(&self) -> Result<()> {
        require(
            (1..=u32::MAX as usize).contains(&self.documents),
            "scenes.documents",
            "1 to 2^32 - 1",
            self.documents,
        )?;
        self.scene(true).validate()
    }

    fn scene(&self, spoken: bool) -> SceneConfig {
        let speech = if spoken { Speech::Spoken } else { Speech::Silent };
        SceneConfig { image_size: self.image_size, sample_rate: self.sample_rate, speech, world: self.world }
    }

    /// Changes when the documents do.
    pub fn stamp(&self) -> u64 {
        let Self { seed, documents, image_size, sample_rate, world } = self;
        // What was prepared of the small world before there was another stays valid: its words are the same.
        let world = if world.is_small() { String::new() } else { format!(", world: {world:?}") };
        let version = self.world.version();
        let fields =
            format!("seed: {seed}, documents: {documents}, image_size: {image_size}, sample_rate: {sample_rate}");
        rng::stable_hash(format!("SceneSource {{ {fields}{world} }}, version {version}").as_bytes())
    }
}

/// Reads generated documents.
#[derive(Debug)]
pub struct SceneReader {
    source: SceneSource,
    scene: SceneConfig,
    units: Vec<Unit>,
}

impl SceneReader {
    /// A reader of some documents, with or without their speech.
    ///
    /// # Errors
    /// [`crate::DataError::Config`] for a value out of range.
    pub fn new(source: &SceneSource, spoken: bool) -> Result<Self> {
        source.validate()?;
        // The size of a unit's documents is part of its name, so that a source of more documents has the same units first.
        let of = SceneSource { documents: 0, ..source.clone() }.stamp();
        let unit = |first: usize| {
            let last = (first + UNIT).min(source.documents);
            Unit { name: format!("documents {first} to {last}"), len_bytes: 0, stamp: of }
        };
        let units = (0..source.documents).step_by(UNIT).map(unit).collect();
        Ok(Self { source: source.clone(), scene: source.scene(spoken), units })
    }
}

impl Reader for SceneReader {
    fn format(&self) -> Format {
        Format::Scenes
    }

    fn units(&self) -> &[Unit] {
        &self.units
    }

    fn ignored(&self) -> &[Outcome] {
        &[]
    }

    fn read(&self, unit: usize, sink: &mut dyn FnMut(Outcome) -> ControlFlow<()>) -> Result<()> {
        let first = unit * UNIT;
        let last = (first + UNIT).min(self.source.documents);
        for start in (first..last).step_by(CHUNK) {
            let end = (start + CHUNK).min(last);
            let samples: Vec<Sample> = (start..end).into_par_iter().map(|index| self.sample(index)).collect();
            for sample in samples {
                if sink(Outcome::Sample(sample)).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

impl SceneReader {
    fn sample(&self, index: usize) -> Sample {
        let SceneDocument { image, caption, speech } = document(self.source.seed, index as u64, &self.scene);
        let mut parts = vec![Part::Text(caption), Part::Image(Picture::Pixels(image))];
        if self.scene.speech == Speech::Spoken {
            parts.push(Part::Audio(Sound::Wave { sample_rate: self.scene.sample_rate, values: speech }));
        }
        Sample {
            key: format!("{index:08}"),
            place: Place { file: "scenes".to_owned(), row: Some(index as u64) },
            group: None,
            order: PartOrder::Free,
            parts,
            items: vec!["scene".to_owned()],
        }
    }
}
