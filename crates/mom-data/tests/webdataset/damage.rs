//! Damaged archives, files that are none and links that lead nowhere are told with their place, behind all that is whole.

use std::fs;
use std::ops::ControlFlow;

use mom_data::readers::{self, ReadOptions};

use crate::archive::{archive, end, gzip, header};
use crate::given::{Given, read, read_bytes, read_bytes_as};
use crate::outcomes::text;

#[test]
fn damage_is_told_behind_what_is_whole() {
    let whole = archive(&[("a.txt", b"One."), ("a.jpg", &[7; 700]), ("b.txt", b"Two."), ("b.jpg", &[8; 700])]);
    let is_whole = |given: &Given| given.sample("a").parts.len() == 2;
    // In the middle of b.jpg; its sample is not whole.
    let given = read_bytes(&whole[..4700]);
    assert!(is_whole(&given) && given.samples().len() == 1, "{given:#?}");
    assert_eq!(given.skipped()[0].2, "member b.jpg is cut off");
    assert_eq!(given.items(), 4);
    assert!(given.error().contains("a.tar, at byte 4096: member b.jpg goes on to byte 4796"), "{}", given.error());
    // In a header.
    let given = read_bytes(&whole[..3700]);
    assert!(is_whole(&given) && given.error().contains("at byte 3584: a header is cut"), "{}", given.error());
    // Without an end, and with the last padding cut.
    for cut in [whole.len() - 1024, whole.len() - 1024 - 200] {
        let given = read_bytes(&whole[..cut]);
        assert!(is_whole(&given) && given.samples().len() == 2);
        assert!(given.error().contains("no end-of-archive block"), "{}", given.error());
    }
    // One block is an end, half a block is none.
    assert_eq!(read_bytes(&whole[..whole.len() - 512]).errors, [""; 0]);
    assert!(read_bytes(&whole[..whole.len() - 1024 + 256]).error().contains("no end-of-archive block"));
    // A flipped bit in a header.
    let mut flipped = whole.clone();
    flipped[2560 + 3] ^= 1;
    let given = read_bytes(&flipped);
    assert!(is_whole(&given) && given.error().contains("at byte 2560: no header"), "{}", given.error());
    // A size that no file has.
    let mut huge = header(b"h.jpg", b'0', 0, "");
    huge[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    let mut fixed = tar::Header::from_byte_slice(&huge).clone();
    fixed.set_cksum();
    let given = read_bytes(&[&whole[..whole.len() - 1024], fixed.as_bytes(), &end()[..]].concat());
    assert!(is_whole(&given) && given.error().contains("an impossible byte"), "{}", given.error());
    // Something behind the end.
    let given = read_bytes(&[&whole[..], &b"some words".repeat(60)].concat());
    assert!(is_whole(&given) && given.error().contains("what follows the end"), "{}", given.error());
}

#[test]
fn what_is_no_archive_is_named() {
    let cases: [(&[u8], &str); 9] = [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n",
            "a Git LFS pointer, not the archive itself",
        ),
        (b"PK\x03\x04 and more", "a zip archive"),
        (b"<!DOCTYPE html><title>404", "an HTML page"),
        (b"\n<HTML>", "an HTML page"),
        (b"<?xml version='1.0'?><Error>", "an XML document"),
        (b"{\"error\": 1}", "JSON"),
        (b"\x1b[31mRED\x1b[2J", "text, not an archive: \"\\u{1b}[31mRED"),
        (b"\x01\xff\x00binary", "not a tar archive: \"\\u{1}\\xff"),
        (b"", "the file is empty"),
    ];
    for (start, words) in cases {
        for fill in [0, 2000] {
            let mut bytes = start.to_vec();
            bytes.extend(vec![b'x'; if start.is_empty() { 0 } else { fill }]);
            let given = read_bytes(&bytes);
            assert_eq!(given.items(), 0);
            assert!(given.error().contains("a.tar, at byte 0: ") && given.error().contains(words), "{}", given.error());
        }
    }
    assert!(read_bytes(&gzip(b"<html>")).error().contains("at decompressed byte 0: an HTML page"));
}

#[test]
fn compressed_archives_are_told_by_their_bytes() {
    let tar = archive(&[("a.txt", b"One."), ("b.txt", b"Two.")]);
    let options = ReadOptions::default();
    let parts = [gzip(&tar[..1500]), gzip(&tar[1500..])].concat();
    for (name, bytes) in [("a.tar", gzip(&tar)), ("a.tgz", parts), ("b.tar.gz", tar.clone())] {
        let given = read_bytes_as(name, &bytes, &options);
        assert_eq!((given.samples().len(), given.errors.len()), (2, 0), "{name}");
    }
    // Noise does not shrink, so that the cut lies in the second member.
    let noise: Vec<u8> = (0..4000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let packed = gzip(&archive(&[("a.txt", b"One."), ("b.jpg", &noise)]));
    let given = read_bytes_as("a.tar.gz", &packed[..packed.len() / 2], &options);
    assert_eq!(text(given.sample("a")), Some("One."));
    assert!(given.error().contains("does not decompress further"), "{}", given.error());
    // A damaged checksum at the very end.
    let mut broken = packed.clone();
    let last = broken.len() - 6;
    broken[last] ^= 1;
    let given = read_bytes_as("a.tar.gz", &broken, &options);
    assert_eq!(given.samples().len(), 2);
    assert!(given.error().contains("does not decompress further"), "{}", given.error());
}

#[test]
fn a_bomb_is_refused() {
    let bomb = gzip(&archive(&[("a.wav", &vec![0; 60 << 20])]));
    assert!(bomb.len() < 200_000);
    let given = read_bytes_as("a.tar.gz", &bomb, &ReadOptions::default());
    assert_eq!(given.outcomes, []);
    assert!(given.error().contains("times as much"), "{}", given.error());
}

#[test]
fn linked_shards_are_read_and_broken_links_told() {
    #[cfg(unix)]
    {
        let folder = tempfile::tempdir().unwrap();
        let (shards, elsewhere) = (folder.path().join("shards"), folder.path().join("elsewhere"));
        fs::create_dir_all(&shards).unwrap();
        fs::create_dir_all(&elsewhere).unwrap();
        fs::write(shards.join("a.tar"), archive(&[("a.txt", b"One.")])).unwrap();
        fs::write(elsewhere.join("b.tar"), archive(&[("b.txt", b"Two.")])).unwrap();
        std::os::unix::fs::symlink("../elsewhere", shards.join("part2")).unwrap();
        std::os::unix::fs::symlink("/nonexistent/gone.tar", shards.join("gone.tar")).unwrap();
        let given = read(&shards);
        assert_eq!(given.samples().len(), 2);
        assert_eq!(given.sample("b").place.file, "part2/b.tar");
        assert!(format!("{:?}", given.outside).contains("gone.tar (a link that leads nowhere)"));
    }
}

#[test]
fn a_sink_that_breaks_ends_the_reading() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tar");
    fs::write(&path, &archive(&[("a.txt", b"One."), ("b.txt", b"Two.")])[..2048]).unwrap();
    let reader = readers::open(&path, None, &ReadOptions::default()).unwrap();
    let mut n = 0;
    let mut sink = |_| {
        n += 1;
        ControlFlow::Break(())
    };
    assert!(reader.read(0, &mut sink).is_ok());
    assert_eq!(n, 1);
}
