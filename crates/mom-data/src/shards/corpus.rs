//! A folder of shards as one list of samples, each read when it is asked for.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::archive::{self, Member, Span};
use super::{SkipReason, media};
use crate::error::IoContext;
use crate::pixels::RgbImage;
use crate::recipe::{ImageNeed, Needs, SpeechNeed};
use crate::tokenizers::TokenizerConfig;
use crate::{DataError, Result};

/// An opened folder of WebDataset shards: the names of all samples and where their members lie.
///
/// Shards are all `*.tar` files in the folder and its subfolders, in the order of their relative paths; gaps in their
/// numbering do not matter. Members of a sample may stand anywhere in one shard.
#[derive(Debug, Clone)]
pub struct Corpus {
    dir: PathBuf,
    shards: Vec<PathBuf>,
    entries: Vec<Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    shard: u32,
    key: String,
    slots: [Slot; 3],
}

#[derive(Debug, Clone, Copy)]
enum Slot {
    Absent,
    At(Span),
    Twice,
}

const CAPTION: usize = 0;
const IMAGE: usize = 1;
const SPEECH: usize = 2;

/// A sample with its members decoded; the image and the waveform only if they were asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The caption, without white space around it.
    pub caption: String,
    /// The image, cut and resized to the configured size.
    pub image: Option<RgbImage>,
    /// The waveform, mono at the configured rate.
    pub speech: Option<Vec<f32>>,
}

impl Corpus {
    /// Reads the tables of contents of all shards in a folder.
    ///
    /// # Errors
    /// [`DataError::Io`] if the folder or a shard cannot be read; [`DataError::NoShards`] if there is none;
    /// [`DataError::MissingShards`] if there are others than the manifest of generated shards counts;
    /// [`DataError::Truncated`] and [`DataError::BadArchive`], naming the shard and the byte, if a shard is damaged.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let mut shards = Vec::new();
        find_shards(dir, &mut shards)?;
        shards.sort();
        if shards.is_empty() {
            return Err(DataError::NoShards { dir: dir.to_path_buf() });
        }
        if let Some(expected) = crate::scenes::shards_by_manifest(dir)
            && expected != shards.len()
        {
            return Err(DataError::MissingShards { dir: dir.to_path_buf(), expected, got: shards.len() });
        }
        let per_shard: Vec<Vec<Entry>> = shards
            .par_iter()
            .enumerate()
            .map(|(shard, path)| Ok(group(shard as u32, archive::members(path)?)))
            .collect::<Result<_>>()?;
        Ok(Self { dir: dir.to_path_buf(), shards, entries: per_shard.into_iter().flatten().collect() })
    }

    /// A hash of keys and member sizes of all samples, in their order, without reading the members: a corpus that was
    /// exchanged or extended has another one, one that was moved or cut into other shards the same.
    pub fn fingerprint(&self) -> u64 {
        let mut bytes = Vec::new();
        for entry in &self.entries {
            bytes.extend_from_slice(entry.key.as_bytes());
            for slot in entry.slots {
                let len = match slot {
                    Slot::Absent => u64::MAX,
                    Slot::Twice => u64::MAX - 1,
                    Slot::At(span) => span.len_bytes,
                };
                bytes.extend_from_slice(&len.to_le_bytes());
            }
        }
        crate::rng::stable_hash(&bytes)
    }

    /// Number of samples, usable or not.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True if the shards hold no sample at all.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The shards, in reading order.
    pub fn shards(&self) -> &[PathBuf] {
        &self.shards
    }

    /// Key of a sample, unique within its shard.
    ///
    /// # Panics
    /// If `index` is not below [`Self::len`].
    pub fn key(&self, index: usize) -> &str {
        &self.entries[index].key
    }

    /// Path of a sample's shard, relative to the folder.
    pub(crate) fn shard_name(&self, index: usize) -> std::path::Display<'_> {
        let path = &self.shards[self.entries[index].shard as usize];
        path.strip_prefix(&self.dir).unwrap_or(path).display()
    }

    /// Reads and decodes a sample: the caption, and what `needs` asks for.
    ///
    /// Images come out as `config.image.size` squares, waveforms at `config.speech.sample_rate`. The inner error says why
    /// the sample cannot be used.
    ///
    /// # Errors
    /// [`DataError::Io`] if the shard cannot be read.
    ///
    /// # Panics
    /// If `index` is not below [`Self::len`].
    pub fn sample(&self, index: usize, config: &TokenizerConfig, needs: Needs) -> Result<Result<Sample, SkipReason>> {
        let entry = &self.entries[index];
        let path = &self.shards[entry.shard as usize];
        let mut file = File::open(path).at("open", path)?;
        let mut fetch = |kind: usize, missing| -> Result<Result<Vec<u8>, SkipReason>> {
            match entry.slots[kind] {
                Slot::Absent => Ok(Err(missing)),
                Slot::Twice => Ok(Err(SkipReason::DuplicateMember)),
                Slot::At(span) => read_span(&mut file, path, span).map(Ok),
            }
        };
        let caption = match fetch(CAPTION, SkipReason::MissingCaption)?.and_then(decode_caption) {
            Ok(caption) => caption,
            Err(reason) => return Ok(Err(reason)),
        };
        let image = match needs.image {
            ImageNeed::None => None,
            ImageNeed::Patches | ImageNeed::Codes => {
                let decode = |bytes: Vec<u8>| media::decode_image(&bytes, config.image.size);
                match fetch(IMAGE, SkipReason::MissingImage)?.and_then(decode) {
                    Ok(image) => Some(image),
                    Err(reason) => return Ok(Err(reason)),
                }
            }
        };
        let speech = match needs.speech {
            SpeechNeed::None => None,
            SpeechNeed::Units => {
                let decode = |bytes: Vec<u8>| media::decode_wav(&bytes, config.speech.sample_rate);
                match fetch(SPEECH, SkipReason::MissingSpeech)?.and_then(decode) {
                    Ok(speech) => Some(speech),
                    Err(reason) => return Ok(Err(reason)),
                }
            }
        };
        Ok(Ok(Sample { caption, image, speech }))
    }
}

/// Collects the shards of a folder. Folders that are links are not entered, so that a loop of links does no harm.
fn find_shards(dir: &Path, shards: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).at("read folder", dir)? {
        let entry = entry.at("read folder", dir)?;
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if entry.file_type().at("read folder", dir)?.is_dir() {
            find_shards(&path, shards)?;
        } else if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("tar")) && path.is_file() {
            shards.push(path);
        }
    }
    Ok(())
}

/// Groups the members of a shard by key, in the order in which keys first appear.
fn group(shard: u32, members: Vec<Member>) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    // Only looked up, never iterated.
    let mut by_key: HashMap<String, usize> = HashMap::new();
    for member in members {
        let Some((key, extension)) = split_name(&member.name) else { continue };
        let kind = match extension.to_ascii_lowercase().as_str() {
            "txt" => CAPTION,
            "png" | "jpg" | "jpeg" => IMAGE,
            "wav" => SPEECH,
            _ => continue,
        };
        let index = *by_key.entry(key.to_owned()).or_insert_with(|| {
            entries.push(Entry { shard, key: key.to_owned(), slots: [Slot::Absent; 3] });
            entries.len() - 1
        });
        let slot = &mut entries[index].slots[kind];
        *slot = match *slot {
            Slot::Absent => Slot::At(member.span),
            Slot::At(_) | Slot::Twice => Slot::Twice,
        };
    }
    entries
}

/// Splits `folder/name.ext` into the key `folder/name` and the extension behind the first dot of the file name.
/// Hidden files (`.name`, `._name.png`) have no key.
fn split_name(name: &str) -> Option<(&str, &str)> {
    let name = name.strip_prefix("./").unwrap_or(name);
    let base = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = base + name[base..].find('.')?;
    (dot > base).then(|| (&name[..dot], &name[dot + 1..]))
}

fn read_span(file: &mut File, path: &Path, span: Span) -> Result<Vec<u8>> {
    let mut bytes = vec![0; span.len_bytes as usize];
    file.seek(SeekFrom::Start(span.offset_bytes)).at("read", path)?;
    file.read_exact(&mut bytes).at("read", path)?;
    Ok(bytes)
}

fn decode_caption(bytes: Vec<u8>) -> Result<String, SkipReason> {
    let text = String::from_utf8(bytes).map_err(|_| SkipReason::BrokenCaption)?;
    let text = text.trim_start_matches('\u{feff}').trim();
    if text.is_empty() { Err(SkipReason::EmptyCaption) } else { Ok(text.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_end_at_the_first_dot_of_the_file_name() {
        assert_eq!(split_name("a.png"), Some(("a", "png")));
        assert_eq!(split_name("./v1.2/a.b.PNG"), Some(("v1.2/a", "b.PNG")));
        assert_eq!(split_name("folder/._a.png"), None);
        assert_eq!(split_name("README"), None);
    }
}
