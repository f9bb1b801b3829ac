//! Files of every folder format that are damaged at random: what lies in them is used or counted.

use std::fs;

use mom_data::readers::{Format, ReadOptions, printable};

use crate::files::files_below;
use crate::formats::{cases, formats};
use crate::found::{copy, read, write};
use crate::random::{Random, n_mutations};

/// Flips bytes, cuts, repeats a stretch, or writes something that means something.
fn damage(bytes: &[u8], random: &mut Random) -> Vec<u8> {
    const MEANINGFUL: [&[u8]; 12] =
        [b"\n", b"\"", b"\\", b"../", b"\0", b"\xff\xfe", b"\r", b",", b"{", b".utf8=", b"\xef\xbb\xbf", b" "];
    let mut bytes = bytes.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        let end = at + random.below((bytes.len() - at).min(200) + 1);
        match random.below(5) {
            0 => bytes[at..end].iter_mut().take(3).for_each(|byte| *byte ^= 1 << random.below(8)),
            1 => bytes.truncate(at),
            2 => drop(bytes.drain(at..end)),
            3 => bytes.extend_from_within(at..end),
            _ => drop(bytes.splice(at..at, MEANINGFUL[random.below(MEANINGFUL.len())].iter().copied())),
        }
    }
    bytes
}

/// Folder, file within it that is damaged, format, and how many items the damaged file is.
type Target = (&'static str, &'static str, Format, fn(&[u8]) -> u64);

/// Lines that are not blank; a file without any is an item itself.
fn n_lines(bytes: &[u8]) -> u64 {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let n = bytes.split(|&byte| byte == b'\n').filter(|line| !line.trim_ascii().is_empty()).count();
    n.max(1) as u64
}

/// Rows below the header; a file without any is an item itself.
fn n_rows(bytes: &[u8]) -> u64 {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(bytes);
    reader.byte_records().count().saturating_sub(1).max(1) as u64
}

#[test]
fn damaged_files_never_cost_uncounted_data() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    copy(&formats("loose-pairs"), &root.join("loose"));
    copy(&formats("hf-folder/imagefolder/train"), &root.join("lines"));
    copy(&formats("hf-folder/audiofolder"), &root.join("csv"));
    copy(&formats("librispeech/LibriSpeech/dev-clean/1001/100101"), &root.join("speech"));
    copy(&cases("tuxpaint"), &root.join("stamps"));
    let targets: [Target; 5] = [
        ("loose", "bom and crlf.txt", Format::Loose, |_| 1),
        ("lines", "metadata.jsonl", Format::Metadata, n_lines),
        ("csv", "metadata.csv", Format::Metadata, n_rows),
        ("speech", "1001-100101.trans.txt", Format::Librispeech, n_lines),
        ("stamps", "symbols/math/0.txt", Format::Tuxpaint, |_| 1),
    ];
    let mut random = Random(7);
    for (folder, name, format, n_items) in targets {
        let folder = root.join(folder);
        let whole = fs::read(folder.join(name)).unwrap();
        let n_others = files_below(&folder).len() as u64 - 1;
        for _ in 0..n_mutations() / targets.len() {
            let damaged = damage(&whole, &mut random);
            write(&folder, name, &damaged);
            let found = read(&folder, format, &ReadOptions::default());
            let shown = || printable(&String::from_utf8_lossy(&damaged), 3000);
            assert!(found.fault.is_none(), "{:?}: {}", found.fault, shown());
            assert_eq!(found.n_items(), n_others + n_items(&damaged), "{name}: {}", shown());
            assert!(!found.tally.to_string().contains(char::is_control), "{name}: {}", shown());
        }
        write(&folder, name, &whole);
    }
}
