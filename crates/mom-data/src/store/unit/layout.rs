//! What stands where in the file of a unit.

use bytemuck::{Pod, Zeroable};
use serde::{Deserialize, Serialize};

use crate::Modality;

/// Raised whenever the same samples and tokenizers would give another file.
pub(crate) const FORMAT_VERSION: u32 = 3;
pub(super) const MAGIC: &[u8; 8] = b"MOMUNIT3";
pub(super) const HEAD_BYTES: usize = 8;
pub(super) const PART_BYTES: usize = 8;
/// Length of the foot, its CRC-32C, and the magic.
pub(super) const TAIL_BYTES: usize = 8 + 4 + 8;
/// More parts than any document has that is worth training on; also bounds what a damaged head can ask for.
pub(crate) const MAX_PARTS: usize = 65_535;

/// What packing needs to know of a document, and where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Record {
    pub hash: u64,
    /// Of its first byte in the file.
    pub offset: u64,
    pub len_bytes: u32,
    /// CRC-32C of its bytes and of this record's other fields, see [`Record::sum`].
    pub checksum: u32,
    /// Text tokens.
    pub text: u32,
    /// Image codes or continuous patches, without markers.
    pub image: u32,
    /// Speech units, without markers.
    pub speech: u32,
    /// Images and utterances, each of which has two markers.
    pub n_media: u16,
    /// 1 where the order of parts is fixed.
    pub fixed: u16,
}

pub(super) const RECORD_BYTES: usize = size_of::<Record>();

impl Record {
    /// CRC-32C of a document's bytes and of what its record says beside the place: a flipped bit in either is found.
    pub(super) fn sum(&self, bytes: &[u8]) -> u32 {
        let fields = Self { offset: 0, checksum: 0, ..*self };
        crc32c::crc32c_append(crc32c::crc32c(bytes), bytemuck::bytes_of(&fields))
    }

    /// Positions of the document with all of its parts: begin-of-document, tokens, markers.
    pub fn n_positions(&self) -> u64 {
        1 + u64::from(self.text) + u64::from(self.image) + u64::from(self.speech) + 2 * u64::from(self.n_media)
    }

    /// Values of a modality.
    pub fn len_of(&self, modality: Modality) -> u32 {
        match modality {
            Modality::Text => self.text,
            Modality::Image => self.image,
            Modality::Speech => self.speech,
        }
    }
}

/// What is in a unit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UnitSums {
    pub n_documents: u64,
    pub text: u64,
    /// Text tokens of documents whose text was tokenised here, and the bytes of that text.
    pub text_of_bytes: u64,
    pub text_bytes: u64,
    pub image: u64,
    pub speech: u64,
    pub n_media: u64,
}

impl UnitSums {
    pub fn append(&mut self, other: &Self) {
        self.n_documents += other.n_documents;
        self.text += other.text;
        self.text_of_bytes += other.text_of_bytes;
        self.text_bytes += other.text_bytes;
        self.image += other.image;
        self.speech += other.speech;
        self.n_media += other.n_media;
    }

    /// Positions of all documents with all of their parts.
    pub fn n_positions(&self) -> u64 {
        self.n_documents + self.text + self.image + self.speech + 2 * self.n_media
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::store) struct Foot {
    pub format_version: u32,
    pub records_offset: u64,
    pub records_checksum: u32,
    /// Values of one patch: pixels are counted in patches by it.
    pub patch_dim: usize,
    pub sums: UnitSums,
}

pub(super) const TEXT: u8 = 0;
pub(super) const IMAGE_CODES: u8 = 1;
pub(super) const SPEECH: u8 = 2;
pub(super) const PIXELS: u8 = 3;
pub(super) const PATCHES: u8 = 4;
