//! Archives that are damaged at random: nothing panics, and all members are counted.

use std::fs;

use mom_data::readers::Outcome;

use crate::archive::{archive, gzip};
use crate::formats::{cases, formats};
use crate::given::read;
use crate::random::{Random, n_mutations};

/// Changes some bytes: anywhere, within headers with their checksums made right again, by a cut, or by a stretch repeated.
fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..1 + random.below(4) {
        if bytes.is_empty() {
            return;
        }
        let at = random.below(bytes.len());
        match random.below(8) {
            0 | 1 => bytes[at] ^= 1 << random.below(8),
            2 => bytes[at] = random.below(256) as u8,
            3 => bytes.truncate(at),
            4 => {
                let from = random.below(bytes.len());
                let len = random.below(2000).min(bytes.len() - from);
                let stretch = bytes[from..from + len].to_vec();
                bytes.splice(at..at, stretch);
            }
            _ => {
                let blocks = bytes.len() / 512;
                let is_header = |block: &usize| &bytes[block * 512 + 257..][..5] == b"ustar";
                let headers: Vec<usize> = (0..blocks).filter(is_header).collect();
                if headers.is_empty() {
                    continue;
                }
                let from = headers[random.below(headers.len())] * 512;
                let field = [0..100, 124..136, 156..157, 157..257, 345..500][random.below(5)].clone();
                let place = from + field.start + random.below(field.len());
                let kinds = b"01234567xgLKSDMVX\x00\xff/.";
                bytes[place] =
                    if random.below(3) > 0 { kinds[random.below(kinds.len())] } else { random.below(256) as u8 };
                let mut header = tar::Header::from_byte_slice(&bytes[from..from + 512]).clone();
                header.set_cksum();
                bytes[from..from + 512].copy_from_slice(header.as_bytes());
            }
        }
    }
}

#[test]
fn mutated_archives_never_panic_and_lose_nothing() {
    let n_mutations = n_mutations();
    let mut seeds: Vec<Vec<u8>> = Vec::new();
    for entry in fs::read_dir(cases("webdataset")).unwrap() {
        seeds.push(fs::read(entry.unwrap().path()).unwrap());
    }
    for name in
        ["webdataset-writer/packed.tar.gz", "webdataset-writer/packed.tar.zst", "megatron/codes/codes-000000.tar"]
    {
        seeds.push(fs::read(formats(name)).unwrap());
    }
    seeds.push(fs::read(formats("webdataset-multipart/shards/typed-000.tar")).unwrap());
    let small =
        archive(&[("a.json", br#"["text", "1.jpg", "2.jpg"]"#), ("a.1.jpg", b"j"), ("a.2.jpg", b"k"), ("b.txt", b"t")]);
    seeds.extend([gzip(&small), [&small[..], &small].concat()]);
    seeds.sort();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tar");
    let mut random = Random(20_240_601);
    let mut n_damaged = 0;
    for round in 0..n_mutations {
        let mut bytes = seeds[random.below(seeds.len())].clone();
        mutate(&mut bytes, &mut random);
        fs::write(&path, &bytes).unwrap();
        let given = read(&path);
        n_damaged += given.errors.len();
        let tally = given.tally();
        for (ending, counts) in &tally.items {
            assert_eq!(counts.found, counts.used + counts.skipped + counts.ignored, "round {round}: {ending}");
        }
        for outcome in &given.outcomes {
            match outcome {
                Outcome::Sample(sample) => {
                    assert!(!sample.items.is_empty() && !sample.parts.is_empty(), "round {round}")
                }
                Outcome::Skipped { items, .. } => assert!(!items.is_empty(), "round {round}"),
                Outcome::Ignored { ending, .. } => assert!(!ending.is_empty(), "round {round}"),
            }
        }
        // Another reader that comes to the end finds as many members.
        if given.errors.is_empty() && !bytes.starts_with(&[0x1f, 0x8b]) && !bytes.starts_with(&[0x28, 0xb5]) {
            let mut archive = tar::Archive::new(&bytes[..]);
            archive.set_ignore_zeros(true);
            let theirs: Option<Vec<_>> = archive.entries().unwrap().map(Result::ok).collect();
            if let Some(theirs) = theirs
                && theirs.iter().all(|entry| matches!(entry.header().as_old().linkflag[0], 0 | b'0' | b'S'))
            {
                assert_eq!(given.items(), theirs.len() as u64, "round {round}");
            }
        }
        assert_eq!(read(&path), given, "round {round}");
    }
    assert!(n_damaged > 0 && n_damaged < n_mutations);
}
