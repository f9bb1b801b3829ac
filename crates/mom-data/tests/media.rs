//! Pictures and recordings of all kinds decode to what other decoders make of them, and damaged ones are refused.

#![allow(clippy::unwrap_used, reason = "the helpers are test code too")]

use std::path::{Path, PathBuf};

use mom_data::RgbImage;
use mom_data::media::audio::{self, Recording, resample};
use mom_data::media::image as picture;
use mom_data::readers::SkipReason;
use serde_json::Value;

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

fn formats(path: &str) -> PathBuf {
    tests().join("formats").join(path)
}

fn read(path: impl AsRef<Path>) -> Vec<u8> {
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display()))
}

fn case(name: &str) -> Vec<u8> {
    read(tests().join("cases").join(name))
}

/// Lines of the `expected.jsonl` of a folder.
fn expected(folder: &str) -> Vec<Value> {
    let lines = String::from_utf8(read(formats(folder).join("expected.jsonl"))).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

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

fn reason<T>(result: Result<T, mom_data::readers::Skip>) -> Option<SkipReason> {
    result.err().map(|skip| skip.reason)
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

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 })
    })
}

#[test]
fn wav_cases_are_read() {
    let decode = |name: &str| audio::decode(&case(name), name).unwrap_or_else(|skip| panic!("{name}: {skip}"));
    let twin = decode("p16.wav");
    // 24 bits in 32 stand in the upper ones.
    for (a, b) in decode("left.wav").mono.iter().zip(&twin.mono) {
        assert!((a - b).abs() <= 2.0 / 32_768.0, "{a} {b}");
    }
    for (name, tolerance) in
        [("odd.wav", 0.0), ("float64.wav", 6e-5), ("mulaw.wav", 0.02), ("alaw.wav", 0.02), ("rf64.wav", 6.2e-5)]
    {
        let got = decode(name);
        assert_eq!((got.facts.sample_rate, got.facts.frames), (8000, 8000), "{name}");
        let apart = got.mono.iter().zip(&twin.mono).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(apart <= tolerance, "{name}: {apart}");
    }
}

/// A WAV of 32-bit floats.
fn float_wav(channels: u16, values: &[f32]) -> Vec<u8> {
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let mut wav = b"RIFF".to_vec();
    wav.extend_from_slice(&(36 + data.len() as u32).to_le_bytes());
    wav.extend_from_slice(b"WAVEfmt \x10\0\0\0\x03\0");
    wav.extend_from_slice(&channels.to_le_bytes());
    wav.extend_from_slice(&8000u32.to_le_bytes());
    wav.extend_from_slice(&(8000 * 4 * u32::from(channels)).to_le_bytes());
    wav.extend_from_slice(&(4 * channels).to_le_bytes());
    wav.extend_from_slice(b"\x20\0data");
    wav.extend_from_slice(&(data.len() as u32).to_le_bytes());
    wav.extend_from_slice(&data);
    wav
}

#[test]
fn recordings_that_are_none_are_refused() {
    let of = |values: &[f32]| reason(audio::decode(&float_wav(1, values), "x.wav"));
    assert_eq!(of(&[0.0, 1.5, -2.0]), None);
    assert_eq!(of(&[]), Some(SkipReason::EmptyAudio));
    for value in [f32::NAN, f32::INFINITY, 1e20, -1e20, audio::MAX_LEVEL * 1.01] {
        assert_eq!(of(&[0.0, value]), Some(SkipReason::NonFiniteAudio), "{value}");
    }
    assert_eq!(reason(audio::decode(b"", "x.wav")), Some(SkipReason::BrokenAudio));
    assert_eq!(reason(audio::decode(b"RIFF\xff\xff\xff\xffWAVEfmt ", "x.wav")), Some(SkipReason::BrokenAudio));
    assert_eq!(reason(audio::decode(b"<html><body>", "x.mp3")), Some(SkipReason::BrokenAudio));
    let mut slow = float_wav(1, &[0.0; 8]);
    slow[24..28].copy_from_slice(&[1, 0, 0, 0]);
    assert_eq!(reason(audio::decode(&slow, "x.wav")), Some(SkipReason::BrokenAudio));
    let stereo = audio::decode(&float_wav(2, &[1.0, 0.0, 0.5, 0.5]), "x.wav").unwrap();
    assert_eq!((stereo.mono, stereo.facts.channels), (vec![0.5, 0.5], 2));
}

#[test]
fn truncated_and_damaged_recordings_are_refused() {
    let folder = formats("media-oddities/audio");
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let bytes = read(&path);
        // Streamed recordings do not say where they end, and NaN is met before the end is.
        if name.starts_with("streamed") || name == "nan.wav" {
            continue;
        }
        // Not at the end of a frame of MP3, where nothing tells.
        for len in [1, 40, bytes.len() / 10, bytes.len() / 2 + 11, bytes.len() * 9 / 10] {
            let got = audio::decode(&bytes[..len], &name);
            assert_eq!(reason(got), Some(SkipReason::BrokenAudio), "{name} at {len} of {}", bytes.len());
        }
        // A hole in the middle. Plain samples and tables of lengths (MP4) cannot tell.
        if !name.ends_with(".wav") && !name.ends_with(".m4a") {
            let holed = [&bytes[..bytes.len() / 2], &bytes[bytes.len() / 2 + 100..]].concat();
            assert_eq!(reason(audio::decode(&holed, &name)), Some(SkipReason::BrokenAudio), "{name} with a hole");
        }
        if name.ends_with(".flac") {
            let mut flipped = bytes.clone();
            flipped[bytes.len() / 2] ^= 16;
            assert_eq!(
                reason(audio::decode(&flipped, &name)),
                Some(SkipReason::BrokenAudio),
                "{name} with a flipped bit"
            );
        }
    }
}

#[test]
fn tags_around_an_mp3_change_nothing() {
    for name in ["mp3-cbr.mp3", "mp3-vbr-lame.mp3"] {
        let bytes = read(formats("media-oddities/audio").join(name));
        let plain = audio::decode(&bytes, name).unwrap();
        let mut id3v1 = b"TAG".to_vec();
        id3v1.resize(128, b'x');
        let mut ape = b"APETAGEX\xd0\x07\0\0\x40\0\0\0\x01\0\0\0\0\0\0\xa0".to_vec();
        ape.resize(32, 0);
        ape.extend_from_slice(&[0xff; 32]);
        ape.extend_from_slice(b"APETAGEX\xd0\x07\0\0\x40\0\0\0\x01\0\0\0\0\0\0\x80");
        ape.resize(96, 0);
        let id3v2 = b"ID3\x03\0\0\0\0\0\x04abcd".to_vec();
        for (front, end) in [
            (vec![], id3v1.clone()),
            (id3v2.clone(), [ape.clone(), id3v1].concat()),
            (id3v2, ape),
            (vec![], vec![0; 500]),
            (vec![], b"whatever this is".to_vec()),
        ] {
            let got = audio::decode(&[front, bytes.clone(), end].concat(), "named.wrongly").unwrap();
            assert_eq!(got, plain, "{name}");
        }
        assert!(audio::decode(&[bytes.clone(), bytes].concat(), name).is_err() || name == "mp3-cbr.mp3");
    }
}

fn tone(rate: u32, hertz: f64, n: usize) -> Vec<f32> {
    (0..n).map(|i| (std::f64::consts::TAU * hertz * i as f64 / f64::from(rate)).sin() as f32).collect()
}

fn rms(values: &[f32]) -> f64 {
    (values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / values.len() as f64).sqrt()
}

#[test]
fn resampling_keeps_the_wave_and_drops_what_would_alias() {
    for from in [1000, 6000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000, 192_000] {
        for to in [8000, 16_000, 22_050, 24_000] {
            let n = from as usize;
            let out = resample(&tone(from, 300.0, n), from, to);
            assert_eq!(out.len(), to as usize);
            let error: Vec<f32> = out.iter().zip(tone(to, 300.0, to as usize)).map(|(a, b)| a - b).collect();
            let middle = &error[to as usize / 8..to as usize * 7 / 8];
            assert!(rms(middle) < 0.001, "{from} to {to}: {}", rms(middle));
        }
    }
    let gone = resample(&tone(16_000, 6000.0, 16_000), 16_000, 8000);
    assert!(rms(&gone[400..7600]) < 1e-4, "{}", rms(&gone[400..7600]));
    let kept = resample(&tone(16_000, 1000.0, 16_000), 16_000, 8000);
    assert!((rms(&kept[400..7600]) / 0.5f64.sqrt() - 1.0).abs() < 0.01);
    // An impulse stays where it is.
    let mut impulse = vec![0.0; 16_000];
    impulse[8000] = 1.0;
    let out = resample(&impulse, 16_000, 44_100);
    let peak = (0..out.len()).max_by(|&a, &b| out[a].total_cmp(&out[b])).unwrap();
    assert_eq!(peak, 22_050);
}

#[test]
fn any_rates_and_lengths_resample() {
    // Rates without a common factor need the longest blocks.
    let rates = [1000, 1001, 7919, 8000, 11_025, 44_100, 48_000, 768_000];
    let pairs = rates.iter().flat_map(|&from| rates.map(|to| (from, to)));
    for (from, to) in pairs.filter(|&(from, to)| from.max(to) < 768_000 || from.min(to) % 1000 == 0) {
        {
            for n in [0usize, 1, 2, 3, 100, 1025] {
                let out = resample(&vec![0.25; n], from, to);
                assert_eq!(
                    out.len() as u64,
                    (n as u64 * u64::from(to)).div_ceil(u64::from(from)),
                    "{n}: {from} to {to}"
                );
                assert!(out.iter().all(|value| value.is_finite()));
            }
        }
    }
    assert_eq!(resample(&[0.1, 0.2], 5, 5), [0.1, 0.2]);
    for (from, to) in [(0, 8000), (8000, 0), (u32::MAX, 8000), (8000, u32::MAX), (1, u32::MAX)] {
        assert!(resample(&[0.5; 10], from, to).is_empty());
    }
}

/// Makes the checksums of PNG chunks and Ogg pages right again, so that what lies behind them is reached.
fn mend(bytes: &mut [u8], ending: &str) {
    let mut at = if ending == "png" { 8 } else { 0 };
    match ending {
        "png" => {
            while let Some(head) = bytes.get(at..at + 8) {
                let end = at + 8 + u32::from_be_bytes(head[..4].try_into().unwrap()) as usize;
                if end + 4 > bytes.len() {
                    return;
                }
                let crc = crc32(&bytes[at + 4..end]);
                bytes[end..end + 4].copy_from_slice(&crc.to_be_bytes());
                at = end + 4;
            }
        }
        "ogg" | "opus" => {
            while let Some(head) = bytes.get(at..at + 27).filter(|head| head.starts_with(b"OggS")) {
                let body = at + 27 + usize::from(head[26]);
                let Some(lacing) = bytes.get(at + 27..body) else { return };
                let end = body + lacing.iter().map(|&len| usize::from(len)).sum::<usize>();
                if end > bytes.len() {
                    return;
                }
                bytes[at + 22..at + 26].fill(0);
                let crc = bytes[at..end].iter().fold(0u32, |crc, &byte| {
                    (0..8).fold(crc ^ u32::from(byte) << 24, |crc, _| {
                        crc << 1 ^ if crc >> 31 == 1 { 0x04c1_1db7 } else { 0 }
                    })
                });
                bytes[at + 22..at + 26].copy_from_slice(&crc.to_le_bytes());
                at = end;
            }
        }
        _ => {}
    }
}

#[test]
fn mutated_files_are_decoded_or_refused() {
    let n: usize = std::env::var("MOM_MUTATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(300);
    let mut files = Vec::new();
    for folder in ["images", "audio"] {
        let mut paths: Vec<_> = std::fs::read_dir(formats("media-oddities").join(folder))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        paths.sort();
        files.extend(paths.into_iter().map(|path| (path.to_str().unwrap().to_owned(), read(&path))));
    }
    let mut random = 7u64;
    let mut below = |n: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % n.max(1)
    };
    let mut counts = std::collections::BTreeMap::new();
    for round in 0..n {
        let (name, bytes) = &files[round % files.len()];
        let mut bytes = bytes.clone();
        for _ in 0..=below(3) {
            let at = below(bytes.len());
            let stretch = at..(at + below(200)).min(bytes.len());
            match below(5) {
                // Headers are where damage does most.
                0 => bytes[below(at.min(100) + 1)] = below(256) as u8,
                1 => bytes[at] ^= 1 << below(8),
                2 => bytes.truncate(at.max(1)),
                3 => drop(bytes.splice(at..at, bytes[stretch].to_vec())),
                _ => drop(bytes.drain(stretch)),
            }
            if bytes.is_empty() {
                bytes.push(0);
            }
        }
        let kind = name.rsplit('.').next().unwrap().to_owned();
        if below(3) > 0 {
            mend(&mut bytes, &kind);
        }
        let skip = if name.contains("/images/") {
            let square = picture::decode_square(&bytes, 16);
            let whole = picture::decode(&bytes);
            assert_eq!(square.is_ok(), whole.is_ok(), "{name}, round {round}");
            whole.err()
        } else {
            let check = |got: Recording| {
                assert!(got.facts.frames > 0 && got.facts.rms.is_finite() && got.mono.len() as u64 == got.facts.frames);
                assert!(resample(&got.mono[..got.mono.len().min(50)], got.facts.sample_rate, 8000).len() < 500);
            };
            audio::decode(&bytes, name).map(check).err()
        };
        let outcome = skip.map_or("read".to_owned(), |skip| {
            assert!(skip.to_string().chars().all(|c| !c.is_control()), "{name}, round {round}: {skip}");
            if skip.detail.contains("gave up") {
                format!("PANIC in round {round}")
            } else {
                format!("{:?}", skip.reason)
            }
        });
        *counts.entry((kind, outcome)).or_insert(0) += 1;
    }
    counts.iter().for_each(|((kind, outcome), count)| println!("{kind} {outcome}: {count}"));
    assert_eq!(counts.values().sum::<usize>(), n);
}
