//! Whether an image file reaches its end.
//!
//! Decoders fill up what is missing: a JPEG that is cut is grey below the cut, an animation that is cut still shows its
//! first frame. A file that lost its end is refused instead, so the blocks of the container are walked before decoding.
//! BMP and TIFF have no end mark; their decoders fail where pixels are missing.

use image::ImageFormat;

use crate::readers::Skip;

/// Refuses a file that ends early.
pub(super) fn check(bytes: &[u8], format: ImageFormat) -> Result<(), Skip> {
    let (whole, end) = match format {
        ImageFormat::Png => (png(bytes), "the IEND chunk"),
        ImageFormat::Jpeg => (jpeg(bytes), "the EOI marker"),
        ImageFormat::Gif => (gif(bytes), "the trailer"),
        ImageFormat::WebP => (webp(bytes), "the size that its header states"),
        _ => return Ok(()),
    };
    if whole.is_some() { Ok(()) } else { Err(super::broken(format!("truncated: it ends before {end}"))) }
}

/// Chunks of length, type, body and checksum, up to IEND.
fn png(bytes: &[u8]) -> Option<()> {
    let mut at = 8;
    loop {
        let len = u32::from_be_bytes(array(bytes, at)?) as usize;
        let kind: [u8; 4] = array(bytes, at + 4)?;
        at = at.checked_add(len)?.checked_add(12)?;
        if at > bytes.len() {
            return None;
        }
        if &kind == b"IEND" {
            return Some(());
        }
    }
}

/// Segments up to EOI. Behind SOS come entropy-coded bytes, which end at the first marker that is no restart marker; in
/// them `FF 00` stands for `FF`.
fn jpeg(bytes: &[u8]) -> Option<()> {
    let mut at = 2;
    loop {
        // A marker may be preceded by any number of FF. Anything else between segments is passed over, as decoders do.
        at += bytes.get(at..)?.iter().position(|&byte| byte == 0xff)?;
        let marker = *bytes.get(at + 1)?;
        match marker {
            0xd9 => return Some(()),
            0xff => at += 1,
            0x00 | 0x01 | 0xd0..=0xd8 => at += 2,
            // Entropy-coded bytes behind the segment of SOS are passed over by the search for FF above.
            _ => at += 2 + usize::from(u16::from_be_bytes(array(bytes, at + 2)?)).max(2),
        }
    }
}

/// Blocks up to the trailer. Some writers leave the trailer out: a file that ends behind a whole image is whole.
fn gif(bytes: &[u8]) -> Option<()> {
    let colours = |flags: u8| if flags & 0x80 == 0 { 0 } else { 3usize << ((flags & 7) + 1) };
    let mut at = 13 + colours(*bytes.get(10)?);
    let mut n_images = 0;
    loop {
        match bytes.get(at) {
            Some(0x21) => at = sub_blocks(bytes, at + 2)?,
            Some(0x2c) => {
                let table = colours(*bytes.get(at + 9)?);
                at = sub_blocks(bytes, at + 11 + table)?;
                n_images += 1;
            }
            None if at == bytes.len() && n_images > 0 => return Some(()),
            None => return None,
            // The trailer, or what decoders take for the end.
            Some(_) => return Some(()),
        }
    }
}

/// Behind a row of sub-blocks, each with its length in front, that an empty one ends.
fn sub_blocks(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let len = usize::from(*bytes.get(at)?);
        at += 1 + len;
        if len == 0 {
            return Some(at);
        }
    }
}

fn webp(bytes: &[u8]) -> Option<()> {
    let stated = u32::from_le_bytes(array(bytes, 4)?) as usize;
    (bytes.len() >= stated.checked_add(8)?).then_some(())
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}
