//! The bytes of media files, and why one is refused.

use std::path::Path;

use mom_data::readers::{Skip, SkipReason};

use crate::formats::cases;

pub fn read(path: impl AsRef<Path>) -> Vec<u8> {
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display()))
}

pub fn case(name: &str) -> Vec<u8> {
    read(cases(name))
}

pub fn reason<T>(result: Result<T, Skip>) -> Option<SkipReason> {
    result.err().map(|skip| skip.reason)
}

pub fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 })
    })
}
