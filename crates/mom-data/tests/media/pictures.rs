//! Pictures become squares; cut and huge ones are refused.

use mom_data::media::image as picture;
use mom_data::readers::SkipReason;

use crate::files::{case, crc32, read, reason};
use crate::formats::formats;

/// What samples of shards were decoded to before there was `media`.
fn square_before(bytes: &[u8], size: u32) -> Vec<u8> {
    use image::imageops::{self, FilterType};
    let decoded = image::load_from_memory(bytes).unwrap();
    let mut rgb = if decoded.color().has_alpha() {
        let rgba = decoded.into_rgba8();
        image::RgbImage::from_fn(rgba.width(), rgba.height(), |x, y| {
            let [r, g, b, a] = rgba.get_pixel(x, y).0.map(u32::from);
            image::Rgb([r, g, b].map(|v| ((v * a + 255 * (255 - a) + 127) / 255) as u8))
        })
    } else {
        decoded.into_rgb8()
    };
    let (width, height) = rgb.dimensions();
    let side = width.min(height);
    rgb = imageops::crop_imm(&rgb, (width - side) / 2, (height - side) / 2, side, side).to_image();
    if side != size {
        rgb = imageops::resize(&rgb, size, size, FilterType::Triangle);
    }
    rgb.into_raw()
}

#[test]
fn squares_are_what_they_were() {
    let names = ["exif-1.jpg", "gray-alpha.png", "palette-alpha.png", "rgba.png", "rgb16.png", "strip-12000x10.jpg"];
    for name in names {
        let bytes = read(formats("media-oddities/images").join(name));
        for size in [16, 32, 64, 100] {
            let square = picture::decode_square(&bytes, size).unwrap();
            assert_eq!((square.width, square.height), (size, size));
            assert_eq!(square.pixels, square_before(&bytes, size as u32), "{name} {size}");
        }
    }
    assert!(picture::decode_square(&[], 0).is_err() && picture::decode_square(&[], usize::MAX).is_err());
}

#[test]
fn truncated_pictures_are_refused() {
    for name in ["half.jpg", "tenth.jpg"] {
        assert_eq!(reason(picture::decode(&case(name))), Some(SkipReason::BrokenImage), "{name}");
    }
    let folder = formats("media-oddities/images");
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let bytes = read(&path);
        for len in [0, 1, 7, bytes.len() / 10, bytes.len() / 2, bytes.len() * 9 / 10, bytes.len() - 3] {
            let got = picture::decode(&bytes[..len]);
            assert_eq!(reason(got), Some(SkipReason::BrokenImage), "{} at {len}", path.display());
        }
    }
    assert_eq!(reason(picture::decode(b"<html>")), Some(SkipReason::BrokenImage));
}

#[test]
fn huge_pictures_are_refused_before_they_are_read() {
    // A PNG of 60,000 by 60,000 pixels that holds none.
    let mut png = read(formats("media-oddities/images/palette.png"));
    png[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
    let crc = crc32(&png[12..29]);
    png[29..33].copy_from_slice(&crc.to_be_bytes());
    assert_eq!(reason(picture::decode(&png)), Some(SkipReason::TooLargeImage));
    assert_eq!(reason(picture::decode_square(&png, 32)), Some(SkipReason::TooLargeImage));
}
