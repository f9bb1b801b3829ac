//! From a document back to the scene that it was made of.
//!
//! Document i of a seed is a pure function of both, and its key ends in i. That it is this document is proved by its caption,
//! which has to be the one that is generated: a key alone might be anybody's.

use std::path::Path;

use serde::Deserialize;

use super::super::compose::Scene;
use super::super::write::MANIFEST;
use super::super::{SceneConfig, Speech, document, scene};
use crate::SourceConfig;
use crate::files;

/// Which scenes the documents of some sources may show.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Origin {
    seeds: Vec<u64>,
}

impl Origin {
    /// The seeds of generated sources, and of folders of shards that say in their manifest how they were made. What is
    /// neither, or cannot be read, has none.
    pub fn of_sources(sources: &[SourceConfig]) -> Self {
        let seed = |source: &SourceConfig| match (&source.scenes, &source.path) {
            (Some(scenes), _) => Some(scenes.seed),
            (None, Some(path)) => seed_of_shards(path),
            (None, None) => None,
        };
        let mut seeds: Vec<u64> = sources.iter().filter_map(seed).collect();
        seeds.sort_unstable();
        seeds.dedup();
        Self { seeds }
    }

    /// The scene of a document; `None` where it is none of these sources' generated ones.
    pub fn scene(&self, key: &str, caption: &str) -> Option<Scene> {
        let digits = key.len() - key.bytes().rev().take_while(u8::is_ascii_digit).count();
        let index: u64 = key[digits..].parse().ok()?;
        let config = SceneConfig { image_size: 8, speech: Speech::Silent, ..SceneConfig::default() };
        let is_its = |seed: &&u64| document(**seed, index, &config).caption == caption;
        self.seeds.iter().find(is_its).map(|&seed| scene(seed, index))
    }
}

fn seed_of_shards(path: &Path) -> Option<u64> {
    #[derive(Deserialize)]
    struct Manifest {
        options: Options,
    }
    #[derive(Deserialize)]
    struct Options {
        seed: u64,
    }
    let path = path.join(MANIFEST);
    if !path.is_file() {
        return None;
    }
    files::read_json::<Manifest>(&path).ok().map(|manifest| manifest.options.seed)
}
