//! Generated documents as WebDataset shards.
//!
//! `manifest.json` is written first, then `shard-000000.tar`, `shard-000001.tar`, ... Each file is written under a
//! temporary name, synced and renamed, so that a shard under its final name is complete, and writing can be stopped and
//! taken up at any time. The bytes depend on the options alone.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{SceneConfig, SceneDocument, Speech, document};
use crate::error::{IoContext, require};
use crate::{DataError, Result, encode, files};

pub(super) const MANIFEST: &str = "manifest.json";

/// Documents that are rendered together before they are appended to a shard.
const CHUNK: usize = 128;

/// Which documents are written, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ShardOptions {
    /// Seed of the documents.
    pub seed: u64,
    /// Number of documents: those with index 0 to `documents - 1`.
    pub documents: usize,
    /// Documents in a shard; the last one may have fewer.
    pub documents_per_shard: usize,
    /// Look and sound of the documents.
    pub scene: SceneConfig,
    /// Format of the images.
    pub image_format: ImageFormat,
}

/// Format of the images in shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ImageFormat {
    /// Lossless.
    #[default]
    Png,
    /// Lossy.
    Jpeg {
        /// 1 to 100.
        quality: u8,
    },
}

impl Default for ShardOptions {
    fn default() -> Self {
        Self {
            seed: 0,
            documents: 3000,
            documents_per_shard: 1000,
            scene: SceneConfig::default(),
            image_format: ImageFormat::Png,
        }
    }
}

impl ShardOptions {
    /// Checks every value.
    ///
    /// # Errors
    /// [`DataError::Config`], naming the field.
    pub fn validate(&self) -> Result<()> {
        self.scene.validate()?;
        require(self.documents > 0, "scenes.documents", "at least 1", self.documents)?;
        require(self.documents_per_shard > 0, "scenes.documents_per_shard", "at least 1", self.documents_per_shard)?;
        match self.image_format {
            ImageFormat::Png => Ok(()),
            ImageFormat::Jpeg { quality } => {
                require((1..=100).contains(&quality), "scenes.image_format.quality", "1 to 100", quality)
            }
        }
    }

    /// Number of shards.
    pub fn n_shards(&self) -> usize {
        self.documents.div_ceil(self.documents_per_shard)
    }
}

/// Contents of `manifest.json`.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    generator: String,
    generator_version: u32,
    n_shards: usize,
    options: ShardOptions,
}

/// What a call of [`write_shards`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct WriteSummary {
    /// Shards that were complete already.
    pub kept: usize,
    /// Shards that were written.
    pub written: usize,
}

/// Writes generated documents to a folder, and calls `progress(done, total)` documents now and then.
///
/// If the folder holds shards of the same options already, complete ones are kept and the rest is written.
///
/// # Errors
/// [`DataError::Config`] for invalid options; [`DataError::FolderInUse`] if the folder holds shards of other options or
/// anything else; [`DataError::Io`], naming the file, if it cannot be written, as on a full disk. Nothing incomplete
/// stands under a final name then.
pub fn write_shards(
    dir: impl AsRef<Path>,
    options: &ShardOptions,
    mut progress: impl FnMut(usize, usize),
) -> Result<WriteSummary> {
    options.validate()?;
    let dir = dir.as_ref();
    claim_folder(dir, options)?;
    let mut summary = WriteSummary { kept: 0, written: 0 };
    for shard in 0..options.n_shards() {
        let path = dir.join(format!("shard-{shard:06}.tar"));
        let first = shard * options.documents_per_shard;
        let last = (first + options.documents_per_shard).min(options.documents);
        if path.is_file() {
            summary.kept += 1;
        } else {
            let done = |documents| progress(documents, options.documents);
            files::write_whole(&path, |out| write_shard(out, &path, first..last, options, done))?;
            summary.written += 1;
        }
        progress(last, options.documents);
    }
    remove_leftovers(dir);
    Ok(summary)
}

/// Makes sure that the folder is new, or holds shards of these options.
fn claim_folder(dir: &Path, options: &ShardOptions) -> Result<()> {
    files::create_folder(dir)?;
    let wanted = Manifest {
        generator: "mom-data scenes".to_owned(),
        generator_version: options.scene.world.version(),
        n_shards: options.n_shards(),
        options: options.clone(),
    };
    let path = dir.join(MANIFEST);
    if path.exists() {
        let found: Manifest = files::read_json(&path)?;
        if found == wanted {
            return Ok(());
        }
        let found = "shards made with other options or by another version".to_owned();
        return Err(DataError::FolderInUse { dir: dir.to_path_buf(), found });
    }
    let foreign = visible_files(dir)?.into_iter().find(|path| !files::is_temporary(path));
    if let Some(foreign) = foreign {
        let found = format!("{} and no {MANIFEST}", foreign.display());
        return Err(DataError::FolderInUse { dir: dir.to_path_buf(), found });
    }
    files::write_json(&path, &wanted)
}

fn visible_files(dir: &Path) -> Result<Vec<PathBuf>> {
    fs::read_dir(dir).at("read folder", dir)?.map(|entry| Ok(entry.at("read folder", dir)?.path())).collect()
}

/// Removes what a killed writer left. All shards are complete, so whatever fails here does no harm.
fn remove_leftovers(dir: &Path) {
    for path in visible_files(dir).unwrap_or_default() {
        if files::is_temporary(&path) {
            let _ = fs::remove_file(path);
        }
    }
}

fn write_shard(
    out: &mut dyn Write,
    path: &Path,
    documents: std::ops::Range<usize>,
    options: &ShardOptions,
    mut progress: impl FnMut(usize),
) -> Result<()> {
    let mut archive = tar::Builder::new(out);
    for first in documents.clone().step_by(CHUNK) {
        let last = (first + CHUNK).min(documents.end);
        let encoded: Vec<Vec<(String, Vec<u8>)>> =
            (first..last).into_par_iter().map(|index| members(index, options)).collect::<Result<_>>()?;
        for (name, bytes) in encoded.into_iter().flatten() {
            append(&mut archive, &name, &bytes).at("write", path)?;
        }
        progress(last);
    }
    archive.finish().at("write", path)
}

/// Appends a member whose header depends on its name and length alone.
fn append(archive: &mut tar::Builder<&mut dyn Write>, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_entry_type(tar::EntryType::Regular);
    archive.append_data(&mut header, name, bytes)
}

/// The members of a document: names and contents.
fn members(index: usize, options: &ShardOptions) -> Result<Vec<(String, Vec<u8>)>> {
    let SceneDocument { image, caption, speech } = document(options.seed, index as u64, &options.scene);
    let (extension, bytes) = match options.image_format {
        ImageFormat::Png => ("png", encode::png(&image)?),
        ImageFormat::Jpeg { quality } => ("jpg", encode::jpeg(&image, quality)?),
    };
    let mut members =
        vec![(format!("{index:08}.{extension}"), bytes), (format!("{index:08}.txt"), caption.into_bytes())];
    if options.scene.speech == Speech::Spoken {
        members.push((format!("{index:08}.wav"), encode::wav(&speech, options.scene.sample_rate)?));
    }
    Ok(members)
}
