//! Every file decodes to what other decoders make of it: sizes and lengths exactly, colours and loudness closely.

use mom_data::RgbImage;
use mom_data::media::audio;
use mom_data::media::image as picture;
use mom_data::readers::SkipReason;
use serde_json::Value;

use crate::files::{read, reason};
use crate::formats::{expected, formats};

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn assert_near(got: &[f64], wanted: &Value, tolerance: f64, what: &str) {
    for (got, wanted) in got.iter().zip(floats(wanted)) {
        assert!((got - wanted).abs() <= tolerance, "{what}: {got:.3}, expected {wanted}");
    }
}

/// Mean colour of a rectangle.
fn mean(image: &RgbImage, columns: std::ops::Range<usize>, rows: std::ops::Range<usize>) -> [f64; 3] {
    let n = (columns.len() * rows.len()) as f64;
    let mut sums = [0.0; 3];
    for (y, x) in rows.flat_map(|y| columns.clone().map(move |x| (y, x))) {
        sums.iter_mut().zip(image.pixel(x, y)).for_each(|(sum, value)| *sum += f64::from(value));
    }
    sums.map(|sum| sum / n)
}

fn check_image(bytes: &[u8], wanted: &Value, name: &str) {
    let image = picture::decode(bytes).unwrap_or_else(|skip| panic!("{name}: {skip}"));
    let (width, height) = (image.rgb.width, image.rgb.height);
    assert_eq!(image.rgb.pixels.len(), width * height * 3);
    assert_eq!([width, height].map(|n| n as u64), [&wanted["width"], &wanted["height"]].map(|n| n.as_u64().unwrap()));
    // How far other decoders are from one another.
    let ending = name.rsplit('.').next().unwrap().to_lowercase();
    let tolerance = match (wanted["mode"].as_str(), ending.as_str()) {
        (Some("CMYK"), _) => 1.5,
        (_, "jpg" | "jpeg") => 0.56,
        (_, "webp") => 0.23,
        _ => 0.006,
    };
    assert_near(&image.mean_rgb, &wanted["mean_rgb"], tolerance, name);
    if !wanted["mean_rgb_on_white"].is_null() {
        // Blending rounds every pixel.
        let blended = mean(&image.rgb, 0..width, 0..height);
        assert_near(&blended, &wanted["mean_rgb_on_white"], tolerance + 0.51, name);
    } else {
        // 16 bits lose up to half a step.
        assert_near(&mean(&image.rgb, 0..width, 0..height), &wanted["mean_rgb"], tolerance + 0.51, name);
    }
    if let Some(quadrants) = wanted["quadrants"].as_array() {
        // Of an odd number, the middle belongs to no quarter.
        let (x, y) = (width / 2, height / 2);
        let (right, below) = (width - x, height - y);
        let areas = [(0..x, 0..y), (right..width, 0..y), (0..x, below..height), (right..width, below..height)];
        for (area, wanted) in areas.into_iter().zip(quadrants) {
            assert_near(&mean(&image.rgb, area.0, area.1), wanted, tolerance * 2.0 + 0.51, name);
        }
    }
    for size in [1, 33, 256] {
        assert_eq!(picture::decode_square(bytes, size).unwrap().pixels.len(), size * size * 3, "{name}");
    }
}

fn check_audio(bytes: &[u8], wanted: &Value, name: &str) {
    let recording = audio::decode(bytes, name).unwrap_or_else(|skip| panic!("{name}: {skip}"));
    let facts = recording.facts;
    assert_eq!(u64::from(facts.sample_rate), wanted["sample_rate"].as_u64().unwrap(), "{name}");
    assert_eq!(u64::from(facts.channels), wanted["channels"].as_u64().unwrap(), "{name}");
    assert_eq!(facts.frames as usize, recording.mono.len(), "{name}");
    let (frames, rms) = (wanted["frames"].as_u64().unwrap(), wanted["rms"].as_f64().unwrap());
    let ending = name.rsplit('.').next().unwrap().to_lowercase();
    let rms_off = match ending.as_str() {
        "mp3" | "m4a" | "ogg" => 2e-5,
        // FFmpeg, the oracle, decodes its own way.
        "opus" => 0.0006,
        _ => 1.01e-6,
    };
    assert_eq!(facts.frames, frames, "{name}");
    assert!((facts.rms - rms).abs() <= rms_off, "{name}: rms {}, expected {rms}", facts.rms);
    assert!((facts.seconds - wanted["seconds"].as_f64().unwrap()).abs() <= 1e-6, "{name}");
}

#[test]
fn oddities_decode_as_elsewhere() {
    let mut n = 0;
    for line in expected("media-oddities") {
        let key = line["key"].as_str().unwrap();
        let bytes = read(formats("media-oddities").join(key));
        match (line["kind"].as_str().unwrap(), key) {
            ("image", "images/truncated.jpg") => {
                assert_eq!(reason(picture::decode(&bytes)), Some(SkipReason::BrokenImage));
            }
            ("audio", "audio/nan.wav") => {
                assert_eq!(reason(audio::decode(&bytes, key)), Some(SkipReason::NonFiniteAudio));
            }
            ("image", _) => check_image(&bytes, &line, key),
            #[cfg(not(feature = "opus"))]
            ("audio", key) if key.ends_with(".opus") => {
                let skip = audio::decode(&bytes, key).unwrap_err();
                assert_eq!(
                    (skip.reason, skip.detail.as_str()),
                    (SkipReason::BrokenAudio, "Opus needs the feature opus")
                );
            }
            ("audio", _) => check_audio(&bytes, &line, key),
            other => panic!("{other:?}"),
        }
        n += 1;
    }
    assert_eq!(n, 66);
}

#[test]
fn media_of_the_folder_formats_decode_as_elsewhere() {
    let (mut n_images, mut n_clips) = (0, 0);
    for folder in ["hf-folder", "loose-pairs", "librispeech"] {
        for line in expected(folder) {
            let text = |value: &Value| value.as_str().map(str::to_owned);
            let of = |kind: &str| match folder {
                "hf-folder" => {
                    text(&line["folder"]).map(|folder| format!("{folder}/{}", line["key"].as_str().unwrap()))
                }
                "loose-pairs" => text(&line["files"][kind]),
                _ => text(&line["file"]),
            };
            if !line["image"].is_null() {
                let name = of("image").unwrap();
                check_image(&read(formats(folder).join(&name)), &line["image"], &name);
                n_images += 1;
            }
            if !line["audio"].is_null() {
                let name = of("audio").unwrap();
                check_audio(&read(formats(folder).join(&name)), &line["audio"], &name);
                n_clips += 1;
            }
        }
    }
    assert!(n_images >= 25 && n_clips >= 40, "{n_images} pictures, {n_clips} clips");
}
