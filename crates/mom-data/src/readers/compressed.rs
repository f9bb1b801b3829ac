//! Files that may be compressed: gzip with one or more members, zstd with one or more frames.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use crate::error::IoContext;
use crate::{DataError, Result};

/// Opens a file for reading from its start; `.gz` and `.zst` (by their first bytes) are decompressed on the way.
pub(super) fn open(path: &Path) -> Result<Box<dyn Read + Send>> {
    let mut file = BufReader::with_capacity(1 << 16, File::open(path).at("open", path)?);
    let head = file.fill_buf().at("read", path)?;
    let is_named = path.extension().is_some_and(|it| it == "gz" || it == "zst" || it == "dz");
    if head.is_empty() && is_named {
        let reason = "it is empty, which no compressed file is".to_owned();
        return Err(DataError::Damaged { path: path.into(), place: "at byte 0".to_owned(), reason });
    }
    Ok(match head {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        // A frame, or one of those that hold no data (as pzstd and seekable files begin).
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            Box::new(ZstdFrames { file, frame: None })
        }
        _ => Box::new(file),
    })
}

/// zstd frames, one behind the other; frames that hold no data are passed over, checksums are compared.
struct ZstdFrames {
    file: BufReader<File>,
    /// `None` between two frames.
    frame: Option<FrameDecoder>,
}

impl Read for ZstdFrames {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(frame) = &mut self.frame {
                while frame.can_collect() == 0 && !frame.is_finished() {
                    frame.decode_blocks(&mut self.file, BlockDecodingStrategy::UptoBlocks(1)).map_err(damaged)?;
                }
                let n = frame.read(out)?;
                if n > 0 || out.is_empty() {
                    return Ok(n);
                }
                if frame.get_checksum_from_data().is_some_and(|sum| frame.get_calculated_checksum() != Some(sum)) {
                    return Err(damaged("the checksum of a zstd frame does not fit its data"));
                }
                self.frame = None;
            }
            if self.file.fill_buf()?.is_empty() {
                return Ok(0);
            }
            let mut frame = FrameDecoder::new();
            match frame.init(&mut self.file) {
                Ok(()) => self.frame = Some(frame),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    let skipped = io::copy(&mut Read::by_ref(&mut self.file).take(length.into()), &mut io::sink())?;
                    if skipped < u64::from(length) {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(damaged(error)),
            }
        }
    }
}

fn damaged(reason: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.to_string())
}
