//! Media files that are damaged at random decode or are refused, and nothing panics.

use mom_data::media::audio::{self, Recording, resample};
use mom_data::media::image as picture;

use crate::files::{crc32, read};
use crate::formats::formats;
use crate::random::{Random, n_mutations};

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
    let n = n_mutations();
    let mut files = Vec::new();
    for folder in ["images", "audio"] {
        let mut paths: Vec<_> = std::fs::read_dir(formats("media-oddities").join(folder))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        paths.sort();
        files.extend(paths.into_iter().map(|path| (path.to_str().unwrap().to_owned(), read(&path))));
    }
    let mut random = Random(7);
    let mut below = |n: usize| random.below(n);
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
