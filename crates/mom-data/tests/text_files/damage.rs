//! Text files, lines and documents of MMC4 that are damaged at random lose nothing else.

use std::fs;

use mom_data::DataError;
use mom_data::readers::Format;

use crate::formats::formats;
use crate::given::{copy, counts, found, read, text_of};
use crate::random::{Random, n_mutations};

/// Flips, cuts, repeats, removes or overwrites something.
fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..1 + random.below(3) {
        let at = random.below(bytes.len());
        let end = (at + 1 + random.below(40)).min(bytes.len());
        match random.below(6) {
            _ if bytes.is_empty() => bytes.push(random.below(256) as u8),
            0 | 1 => bytes[at] ^= 1 << random.below(8),
            2 => bytes[at] = random.below(256) as u8,
            3 => bytes.truncate(at),
            4 => drop(bytes.drain(at..end)),
            _ => {
                let stretch = bytes[at..end].to_vec();
                let to = random.below(bytes.len());
                drop(bytes.splice(to..to, stretch));
            }
        }
    }
}

/// Lines that are not blank.
fn n_lines(bytes: &[u8]) -> u64 {
    let lines = bytes.split(|&byte| byte == b'\n');
    lines.filter(|line| !line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line).trim_ascii().is_empty()).count() as u64
}

#[test]
fn damaged_text_files_lose_nothing_else() {
    let mut random = Random(1);
    let folder = tempfile::tempdir().unwrap();
    let book = fs::read(formats("text/books/oz.txt")).unwrap();
    let zstd = fs::read(formats("text/two-frames.jsonl.zst")).unwrap();
    let gzip = fs::read(formats("text/two-members.jsonl.gz")).unwrap();
    fs::write(folder.path().join("z.txt"), "good").unwrap();
    for _ in 0..n_mutations() {
        for (name, original) in [("a.txt", &book), ("b.txt.gz", &gzip), ("c.txt.zst", &zstd)] {
            let mut bytes = original.clone();
            mutate(&mut bytes, &mut random);
            fs::write(folder.path().join(name), &bytes).unwrap();
        }
        let read = read(folder.path(), Format::Text);
        assert!(read.errors.is_empty(), "{:?}", read.errors);
        assert_eq!(found(&read), counts(&[("txt", 2), ("txt.gz", 1), ("txt.zst", 1)]));
        assert_eq!(read.samples.last().map(text_of), Some("good"));
    }
}

#[test]
fn damaged_lines_lose_nothing_else() {
    let mut random = Random(2);
    let folder = tempfile::tempdir().unwrap();
    let plain = fs::read(formats("text/docs.jsonl")).unwrap();
    let zstd = fs::read(formats("text/two-frames.jsonl.zst")).unwrap();
    let gzip = fs::read(formats("text/two-members.jsonl.gz")).unwrap();
    for _ in 0..n_mutations() {
        let mut bytes = plain.clone();
        mutate(&mut bytes, &mut random);
        fs::write(folder.path().join("a.jsonl"), &bytes).unwrap();
        let lines = n_lines(&bytes);
        for (name, original) in [("b.jsonl.gz", &gzip), ("c.jsonl.zst", &zstd)] {
            let mut bytes = original.clone();
            mutate(&mut bytes, &mut random);
            fs::write(folder.path().join(name), &bytes).unwrap();
        }
        let read = read(folder.path(), Format::Jsonl);
        assert!(read.errors.len() <= 2 && read.errors.iter().all(|error| matches!(error, DataError::Damaged { .. })));
        assert_eq!(read.tally.items.get("jsonl").map_or(0, |counts| counts.found), lines);
        assert_eq!(read.tally.found() as usize, read.samples.len() + read.skips.len());
    }
}

#[test]
fn damaged_documents_of_mmc4_lose_nothing_else() {
    let mut random = Random(3);
    let folder = tempfile::tempdir().unwrap();
    copy(&formats("mmc4-jsonl"), folder.path());
    let path = folder.path().join("docs_shard_0_v3.jsonl");
    let original = fs::read(&path).unwrap();
    let n_pictures = fs::read_dir(folder.path().join("images")).unwrap().count() as u64;
    for _ in 0..n_mutations() {
        let mut bytes = original.clone();
        mutate(&mut bytes, &mut random);
        fs::write(&path, &bytes).unwrap();
        let read = read(folder.path(), Format::Mmc4);
        assert!(read.errors.is_empty(), "{:?}", read.errors);
        assert_eq!(read.tally.items.get("jsonl").map_or(0, |counts| counts.found), n_lines(&bytes));
        // A line that is doubled names its pictures twice.
        let pictures = read.tally.items["jpg"].found + read.tally.items["png"].found;
        assert!(pictures >= n_pictures);
    }
}
