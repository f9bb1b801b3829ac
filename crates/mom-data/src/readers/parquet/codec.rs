//! Decompression of pages: never more bytes than the page's header says, and no memory for what cannot come.

use std::io::Read;

use parquet::basic::Compression;
use ruzstd::decoding::{DEFAULT_MAX_WINDOW_SIZE, StreamingDecoder};

/// Most that a byte of snappy, LZ4 and deflate can become.
const SNAPPY_RATIO: usize = 32;
const LZ4_RATIO: usize = 256;
const DEFLATE_RATIO: usize = 1_040;

/// Room that is reserved where a codec has no such bound; it grows with what comes.
const FIRST_ROOM: usize = 1 << 20;

/// Decompresses `from` behind what `out` holds, to `len` bytes more.
pub(super) fn decompress(codec: Compression, from: &[u8], len: usize, out: &mut Vec<u8>) -> Result<(), String> {
    let start = out.len();
    match codec {
        Compression::UNCOMPRESSED => out.extend_from_slice(from),
        Compression::SNAPPY => {
            let said = snap::raw::decompress_len(from).map_err(|error| error.to_string())?;
            if said != len {
                return Err(format!("snappy data of {said} bytes where {len} are said to be"));
            }
            let n = snap::raw::Decoder::new()
                .decompress(from, room(out, from, len, SNAPPY_RATIO)?)
                .map_err(|error| error.to_string())?;
            out.truncate(start + n);
        }
        Compression::LZ4_RAW => lz4_block(from, len, out)?,
        Compression::LZ4 => lz4(from, len, out)?,
        Compression::GZIP(_) => {
            expandable(from, len, DEFLATE_RATIO)?;
            read(flate2::read::MultiGzDecoder::new(from), len, out)?;
        }
        Compression::BROTLI(_) => read(brotli_decompressor::Decompressor::new(from, 4096), len, out)?,
        Compression::ZSTD(_) => zstd(from, len, out)?,
        Compression::LZO => return Err("its codec LZO is not read".to_owned()),
    }
    match out.len() - start {
        n if n == len => Ok(()),
        n => Err(format!("{n} bytes come out where {len} are said to be")),
    }
}

/// Reads at most one byte more than there must be, so that more is seen.
fn read(from: impl Read, len: usize, out: &mut Vec<u8>) -> Result<(), String> {
    out.reserve(len.min(FIRST_ROOM));
    from.take(len as u64 + 1).read_to_end(out).map(|_| ()).map_err(|error| error.to_string())
}

/// Frames of zstd, one behind the other.
fn zstd(mut from: &[u8], len: usize, out: &mut Vec<u8>) -> Result<(), String> {
    let end = out.len() + len;
    let window = DEFAULT_MAX_WINDOW_SIZE.max(len as u64);
    while !from.is_empty() && out.len() <= end {
        let mut frame =
            StreamingDecoder::new_with_max_window_size(&mut from, window).map_err(|error| error.to_string())?;
        let left = end - out.len();
        read(&mut frame, left, out)?;
    }
    Ok(())
}

fn expandable(from: &[u8], len: usize, ratio: usize) -> Result<(), String> {
    if len / ratio > from.len() {
        return Err(format!("{} bytes cannot become {len}", from.len()));
    }
    Ok(())
}

/// `len` zeros behind `out`, where `from` can become as much.
fn room<'a>(out: &'a mut Vec<u8>, from: &[u8], len: usize, ratio: usize) -> Result<&'a mut [u8], String> {
    expandable(from, len, ratio)?;
    let start = out.len();
    out.resize(start + len, 0);
    Ok(&mut out[start..])
}

fn lz4_block(from: &[u8], len: usize, out: &mut Vec<u8>) -> Result<(), String> {
    let start = out.len();
    let n = lz4_flex::block::decompress_into(from, room(out, from, len, LZ4_RATIO)?).map_err(|e| e.to_string())?;
    out.truncate(start + n);
    Ok(())
}

/// The older `LZ4` is any of three things: Hadoop's blocks, LZ4's frames, or a bare block.
fn lz4(from: &[u8], len: usize, out: &mut Vec<u8>) -> Result<(), String> {
    let start = out.len();
    if lz4_hadoop(from, len, out).is_some() && out.len() - start == len {
        return Ok(());
    }
    out.truncate(start);
    if from.starts_with(&[0x04, 0x22, 0x4d, 0x18]) {
        return read(lz4_flex::frame::FrameDecoder::new(from), len, out);
    }
    lz4_block(from, len, out)
}

/// Blocks with their sizes before them, decompressed and compressed, both big-endian.
fn lz4_hadoop(mut from: &[u8], len: usize, out: &mut Vec<u8>) -> Option<()> {
    let end = out.len() + len;
    while !from.is_empty() {
        let (head, rest) = from.split_first_chunk::<8>()?;
        let [a, b, c, d, e, f, g, h] = *head;
        let block_len = u32::from_be_bytes([a, b, c, d]) as usize;
        let (block, rest) = rest.split_at_checked(u32::from_be_bytes([e, f, g, h]) as usize)?;
        if block_len > end - out.len() {
            return None;
        }
        let before = out.len();
        lz4_block(block, block_len, out).ok()?;
        if out.len() - before != block_len {
            return None;
        }
        from = rest;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"pages, pages, pages, pages, pages, pages, pages, pages";

    fn decompressed(codec: Compression, from: &[u8], len: usize) -> Result<Vec<u8>, String> {
        let mut out = b"levels".to_vec();
        decompress(codec, from, len, &mut out)?;
        assert!(out.starts_with(b"levels"));
        Ok(out.split_off(6))
    }

    #[test]
    fn the_old_lz4_is_any_of_three_framings() {
        let block = lz4_flex::block::compress(TEXT);
        let mut hadoop = Vec::new();
        for _ in 0..2 {
            hadoop.extend_from_slice(&(TEXT.len() as u32).to_be_bytes());
            hadoop.extend_from_slice(&(block.len() as u32).to_be_bytes());
            hadoop.extend_from_slice(&block);
        }
        let mut frame = lz4_flex::frame::FrameEncoder::new(Vec::new());
        std::io::Write::write_all(&mut frame, TEXT).unwrap();
        let frame = frame.finish().unwrap();
        assert_eq!(decompressed(Compression::LZ4, &hadoop, 2 * TEXT.len()).unwrap(), [TEXT, TEXT].concat());
        assert_eq!(decompressed(Compression::LZ4, &frame, TEXT.len()).unwrap(), TEXT);
        assert_eq!(decompressed(Compression::LZ4, &block, TEXT.len()).unwrap(), TEXT);
        assert!(decompressed(Compression::LZ4, &hadoop, TEXT.len()).is_err());
    }

    #[test]
    fn frames_of_zstd_follow_each_other() {
        use ruzstd::encoding::{CompressionLevel, compress_to_vec};
        let frame = compress_to_vec(TEXT, CompressionLevel::Fastest);
        let two = [frame.clone(), frame].concat();
        let zstd = Compression::ZSTD(Default::default());
        assert_eq!(decompressed(zstd, &two, 2 * TEXT.len()).unwrap(), [TEXT, TEXT].concat());
        // More than is said is not decompressed.
        let zeros = compress_to_vec(&vec![0; 1 << 24][..], CompressionLevel::Fastest);
        assert_eq!(decompressed(zstd, &zeros, 10).unwrap_err(), "11 bytes come out where 10 are said to be");
    }

    #[test]
    fn room_is_not_taken_for_what_cannot_come() {
        let gzip = Compression::GZIP(Default::default());
        for codec in [Compression::SNAPPY, Compression::LZ4, Compression::LZ4_RAW, gzip] {
            // A snappy length of 2^29, and nothing behind it.
            assert!(decompressed(codec, &[0x80, 0x80, 0x80, 0x80, 0x02, 0x00], 1 << 29).is_err());
        }
    }
}
