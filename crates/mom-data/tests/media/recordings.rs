//! Recordings of every kind of WAV and with tags around them are read; empty, damaged and cut ones are refused.

use mom_data::media::audio;
use mom_data::readers::SkipReason;

use crate::files::{case, read, reason};
use crate::formats::formats;

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
