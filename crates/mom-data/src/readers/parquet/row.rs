//! A row becomes a sample.

use bytes::Bytes;
use parquet::data_type::ByteArray;
use serde_json::Value;

use super::super::listing::{ending, is_audio, is_image};
use super::super::{Outcome, Part, PartOrder, Picture, Place, Sample, Skip, SkipReason, Sound, escaped};
use super::column::Cell;
use super::plan::{Documents, Kind, Media, Plan};

/// Ending of a row as an item.
const ENDING: &str = "parquet";

impl Plan {
    /// What a row of `cells`, in the order of [`Plan::leaves`], is.
    pub fn outcome(&self, file: &str, row: u64, cells: &[Cell]) -> Outcome {
        let place = Place { file: file.to_owned(), row: Some(row) };
        let key = self.key(cells).unwrap_or_else(|| format!("{file}#{row}"));
        let items = vec![ENDING.to_owned()];
        let (order, parts) = match &self.documents {
            Some(documents) => (PartOrder::Fixed, documents.parts(cells)),
            None => (PartOrder::Free, self.parts(cells)),
        };
        match parts {
            Ok(parts) => {
                let group = self.group.and_then(|slot| words(&cells[slot]));
                Outcome::Sample(Sample { key, place, group, order, parts, items })
            }
            Err(skip) => Outcome::Skipped { key, place, items, skip },
        }
    }

    fn key(&self, cells: &[Cell]) -> Option<String> {
        let filled = |key: &String| !key.is_empty();
        let key = self.keys.iter().find_map(|&slot| words(&cells[slot]).filter(filled));
        key.or_else(|| {
            let about: Value = serde_json::from_str(&words(&cells[self.documents.as_ref()?.about?])?).ok()?;
            about.get("url")?.as_str().map(str::to_owned).filter(filled)
        })
    }

    fn parts(&self, cells: &[Cell]) -> Result<Vec<Part>, Skip> {
        let mut parts = Vec::new();
        for &slot in &self.texts {
            if let Some(text) = text(&cells[slot])? {
                parts.push(Part::Text(text));
                break;
            }
        }
        let mut found: Vec<(Kind, &str)> = Vec::new();
        for media in &self.media {
            for medium in media.cells(cells) {
                let Some((kind, part)) = media.part(medium)? else { continue };
                if let Some((_, before)) = found.iter().find(|(there, _)| *there == kind) {
                    let what = if kind == Kind::Image { "images" } else { "recordings" };
                    let detail = format!("{what} in the columns {before} and {}", media.name);
                    return Err(Skip::new(SkipReason::DuplicatePart, detail));
                }
                found.push((kind, &media.name));
                parts.push(part);
            }
        }
        if parts.is_empty() {
            return Err(Skip::new(SkipReason::NoPart, "all columns of the row are null"));
        }
        Ok(parts)
    }
}

impl Documents {
    /// The parts in their order: at each place an image or a text.
    fn parts(&self, cells: &[Cell]) -> Result<Vec<Part>, Skip> {
        let images = self.images.cells(cells);
        let texts = elements(&cells[self.texts]);
        if images.len() != texts.len() {
            let detail = format!("{} images beside {} texts", images.len(), texts.len());
            return Err(Skip::new(SkipReason::BrokenRecord, detail));
        }
        let mut parts = Vec::with_capacity(texts.len());
        for (index, (medium, cell)) in images.into_iter().zip(texts).enumerate() {
            parts.push(match (self.images.part(medium)?, text(cell)?) {
                (Some((_, image)), None) => image,
                (None, Some(text)) => Part::Text(text),
                (None, None) => {
                    let detail = format!("neither image nor text at place {index}");
                    return Err(Skip::new(SkipReason::MissingFile, detail));
                }
                (Some(_), Some(_)) => {
                    let detail = format!("both image and text at place {index}");
                    return Err(Skip::new(SkipReason::BrokenRecord, detail));
                }
            });
        }
        if parts.is_empty() {
            return Err(Skip::new(SkipReason::NoPart, "its lists are empty"));
        }
        Ok(parts)
    }
}

/// Bytes and path of a medium in a row.
type Medium<'a> = (&'a Cell, &'a Cell);

impl Media {
    /// The media of a row: one, or those of a list.
    fn cells<'a>(&self, cells: &'a [Cell]) -> Vec<Medium<'a>> {
        let of = |slot: Option<usize>| slot.map_or(&Cell::Null, |slot| &cells[slot]);
        let (bytes, path) = (of(self.bytes), of(self.path));
        if !matches!((bytes, path), (Cell::List(_), _) | (_, Cell::List(_))) {
            return vec![(bytes, path)];
        }
        let (bytes, paths) = (elements(bytes), elements(path));
        let n = bytes.len().max(paths.len());
        (0..n).map(|index| (bytes.get(index).unwrap_or(&Cell::Null), paths.get(index).unwrap_or(&Cell::Null))).collect()
    }

    /// A medium as a part; `None` where there is none.
    fn part(&self, (bytes, path): Medium<'_>) -> Result<Option<(Kind, Part)>, Skip> {
        let path = words(path);
        let Cell::Bytes(bytes) = bytes else {
            return match path {
                None => Ok(None),
                Some(path) => {
                    let detail = format!("{}: the table holds no bytes of {path}", self.name);
                    Err(Skip::new(SkipReason::MissingFile, detail))
                }
            };
        };
        let kind = self.declared.or_else(|| by_bytes(bytes.data()));
        let kind = kind.or_else(|| path.as_deref().and_then(by_path)).or(self.named);
        // The mark of MPEG audio is too short to tell it from anything.
        let kind = kind.or_else(|| (!self.is_bare && is_mpeg(bytes.data())).then_some(Kind::Audio));
        let Some(kind) = kind else {
            if self.is_bare {
                return Ok(None);
            }
            let detail = format!("{}: neither image nor recording, by bytes and path", self.name);
            return Err(Skip::new(SkipReason::BrokenRecord, detail));
        };
        let name = path.unwrap_or_else(|| self.name.clone());
        // A copy, so that a sample does not keep the page it lies in.
        let bytes = Bytes::copy_from_slice(bytes.data());
        Ok(Some(match kind {
            Kind::Image => (kind, Part::Image(Picture::File { name, bytes })),
            Kind::Audio => (kind, Part::Audio(Sound::File { name, bytes })),
        }))
    }
}

fn elements(cell: &Cell) -> &[Cell] {
    if let Cell::List(elements) = cell { elements } else { &[] }
}

/// A cell as a text, without byte order mark.
fn text(cell: &Cell) -> Result<Option<String>, Skip> {
    match cell {
        Cell::Null | Cell::List(_) => Ok(None),
        Cell::Scalar(text) => Ok(Some(text.clone())),
        Cell::Bytes(bytes) => match utf8(bytes) {
            Ok(text) => Ok(Some(text.strip_prefix('\u{feff}').unwrap_or(text).to_owned())),
            Err(error) => Err(Skip::new(SkipReason::BrokenText, error.to_string())),
        },
    }
}

fn utf8(bytes: &ByteArray) -> Result<&str, std::str::Utf8Error> {
    std::str::from_utf8(bytes.data())
}

/// A cell as a name, different ones staying different.
fn words(cell: &Cell) -> Option<String> {
    match cell {
        Cell::Null | Cell::List(_) => None,
        Cell::Scalar(text) => Some(text.clone()),
        Cell::Bytes(bytes) => Some(escaped(bytes.data())),
    }
}

fn by_path(path: &str) -> Option<Kind> {
    let ending = ending(path);
    if is_image(&ending) { Some(Kind::Image) } else { is_audio(&ending).then_some(Kind::Audio) }
}

/// What the first bytes of a file say.
fn by_bytes(bytes: &[u8]) -> Option<Kind> {
    let is_bitmap = || bytes.get(2..6).is_some_and(|len| len == (bytes.len() as u32).to_le_bytes());
    match bytes {
        [0xff, 0xd8, 0xff, ..] | [0x89, b'P', b'N', b'G', ..] | [b'G', b'I', b'F', b'8', ..] => Some(Kind::Image),
        [b'I', b'I', b'*', 0, ..] | [b'M', b'M', 0, b'*', ..] => Some(Kind::Image),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(Kind::Image),
        [b'B', b'M', ..] if is_bitmap() => Some(Kind::Image),
        [b'R', b'I', b'F', b'F' | b'X', _, _, _, _, b'W', b'A', b'V', b'E', ..] => Some(Kind::Audio),
        [b'R', b'F', b'6', b'4', _, _, _, _, b'W', b'A', b'V', b'E', ..] => Some(Kind::Audio),
        [b'F', b'O', b'R', b'M', _, _, _, _, b'A', b'I', b'F', b'F' | b'C', ..] => Some(Kind::Audio),
        [b'f', b'L', b'a', b'C', ..] | [b'O', b'g', b'g', b'S', ..] | [b'I', b'D', b'3', ..] => Some(Kind::Audio),
        [_, _, _, _, b'f', b't', b'y', b'p', brand @ ..] => {
            let is_picture = [b"avif", b"heic", b"heix", b"mif1"].iter().any(|picture| brand.starts_with(*picture));
            Some(if is_picture { Kind::Image } else { Kind::Audio })
        }
        _ => None,
    }
}

/// A frame of MPEG audio, or ADTS.
fn is_mpeg(bytes: &[u8]) -> bool {
    matches!(bytes, [0xff, second, ..] if second & 0xe0 == 0xe0)
}
