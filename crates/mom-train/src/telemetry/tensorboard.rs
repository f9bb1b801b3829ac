//! Scalars, pictures, sound and text as TensorBoard reads them: TFRecords of `tensorflow.Event` messages, in a file for each process of a run.
//!
//! A resumed run repeats the steps behind its checkpoint in a new file; TensorBoard then drops what older files hold of them.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::Result;
use crate::files::{self, At};

/// An event file.
#[derive(Debug)]
pub(crate) struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// A new file in `folder`, which is created where absent.
    pub fn create(folder: &Path) -> Result<Self> {
        files::create_folder(folder)?;
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let name = format!("events.out.tfevents.{}.{}.mom", since_epoch.as_nanos(), std::process::id());
        let path = folder.join(name);
        let file = OpenOptions::new().append(true).create_new(true).open(&path).at("create", &path)?;
        let mut events = Self { path, file };
        events.event(|event| field(event, 3, b"brain.Event:2"))?;
        Ok(events)
    }

    /// Values of a step by their tags; those that are not finite are left out.
    pub fn scalars<'a>(&mut self, step: u64, values: impl IntoIterator<Item = (&'a str, f64)>) -> Result<()> {
        let mut summary = Vec::new();
        for (tag, value) in values {
            if value.is_finite() {
                let mut scalar = Vec::new();
                field(&mut scalar, 1, tag.as_bytes());
                scalar.push(2 << 3 | 5);
                scalar.extend((value as f32).to_le_bytes());
                field(&mut summary, 1, &scalar);
            }
        }
        self.summary(step, &summary)
    }

    /// A picture, given as a PNG file.
    pub fn image(&mut self, step: u64, tag: &str, png: &[u8]) -> Result<()> {
        let mut image = Vec::new();
        // The header of a PNG file holds width and height at this place.
        for (number, at) in [(2, 16), (1, 20)] {
            let bytes = png.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).unwrap_or_default();
            image.push(number << 3);
            varint(&mut image, u64::from(u32::from_be_bytes(bytes)));
        }
        // RGB.
        image.extend([3 << 3, 3]);
        field(&mut image, 4, png);
        self.value(step, tag, |value| field(value, 4, &image))
    }

    /// A recording of one channel, given as a WAV file of 16 bits.
    pub fn audio(&mut self, step: u64, tag: &str, wav: &[u8], sample_rate: u32) -> Result<()> {
        const HEADER: usize = 44;
        let mut audio = vec![1 << 3 | 5];
        audio.extend((sample_rate as f32).to_le_bytes());
        audio.extend([2 << 3, 1, 3 << 3]);
        varint(&mut audio, (wav.len().saturating_sub(HEADER) / 2) as u64);
        field(&mut audio, 4, wav);
        field(&mut audio, 5, b"audio/wav");
        self.value(step, tag, |value| field(value, 6, &audio))
    }

    /// Text.
    pub fn text(&mut self, step: u64, tag: &str, text: &str) -> Result<()> {
        let (mut plugin, mut metadata, mut tensor) = (Vec::new(), Vec::new(), Vec::new());
        field(&mut plugin, 1, b"text");
        field(&mut metadata, 1, &plugin);
        // DT_STRING, and a shape of one element.
        tensor.extend([1 << 3, 7]);
        field(&mut tensor, 2, &[2 << 3 | 2, 2, 1 << 3, 1]);
        field(&mut tensor, 8, text.as_bytes());
        self.value(step, tag, |value| {
            field(value, 9, &metadata);
            field(value, 8, &tensor);
        })
    }

    /// A summary of a single value.
    fn value(&mut self, step: u64, tag: &str, content: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
        let (mut value, mut summary) = (Vec::new(), Vec::new());
        field(&mut value, 1, tag.as_bytes());
        content(&mut value);
        field(&mut summary, 1, &value);
        self.summary(step, &summary)
    }

    fn summary(&mut self, step: u64, summary: &[u8]) -> Result<()> {
        self.event(|event| {
            event.push(2 << 3);
            varint(event, step);
            field(event, 5, summary);
        })
    }

    /// An `Event` with its time, framed as a TFRecord: length, its checksum, the message, its checksum.
    fn event(&mut self, rest: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
        let secs = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let mut event = vec![1 << 3 | 1];
        event.extend(secs.to_le_bytes());
        rest(&mut event);
        let length = (event.len() as u64).to_le_bytes();
        let mut record = length.to_vec();
        record.extend(masked_crc(&length).to_le_bytes());
        record.extend(&event);
        record.extend(masked_crc(&event).to_le_bytes());
        Ok(self.file.write_all(&record).at("write", &self.path)?)
    }
}

/// A length-delimited field of a protocol buffer.
fn field(to: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    to.push(number << 3 | 2);
    varint(to, bytes.len() as u64);
    to.extend(bytes);
}

fn varint(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

/// The checksum of TFRecords: CRC-32C, rotated and offset, since a checksum of data that holds its own is weak.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records of a file, their checksums checked.
    fn records(mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut records = Vec::new();
        while !bytes.is_empty() {
            let (length, rest) = bytes.split_at(8);
            let n = u64::from_le_bytes(length.try_into().unwrap()) as usize;
            assert_eq!(rest[..4], masked_crc(length).to_le_bytes());
            let (event, rest) = rest[4..].split_at(n);
            assert_eq!(rest[..4], masked_crc(event).to_le_bytes());
            records.push(event.to_vec());
            bytes = &rest[4..];
        }
        records
    }

    #[test]
    fn the_checksum_is_that_of_the_format() {
        // CRC-32C's check value (RFC 3720: "123456789"), masked as in the TFRecord format.
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(masked_crc(b"123456789"), 0xe306_9283u32.rotate_right(15).wrapping_add(0xa282_ead8));
    }

    #[test]
    fn a_file_holds_its_version_and_each_step() {
        let folder = tempfile::tempdir().unwrap();
        let mut events = EventFile::create(folder.path()).unwrap();
        events.scalars(300, [("loss/text", 1.5), ("grad_norm", f64::NAN)]).unwrap();
        let path = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
        assert!(path.to_string_lossy().contains("tfevents"));
        let records = records(&std::fs::read(path).unwrap());
        assert_eq!(records.len(), 2);
        assert_eq!(records[0][9..], *b"\x1a\x0dbrain.Event:2");
        // step = 300 as a varint; summary { value { tag, simple_value = 1.5 } }, and nothing for what is no number.
        let mut want = vec![0x10, 0xac, 0x02, 0x2a, 18, 0x0a, 16, 0x0a, 9];
        want.extend(b"loss/text");
        want.extend([0x15, 0, 0, 0xc0, 0x3f]);
        assert_eq!(records[1][9..], want);
    }
}
