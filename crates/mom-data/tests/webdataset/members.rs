//! Every kind of member that programs write is read: long names, links, folders, sparse files, several archives end to end.

use std::fs;

use mom_data::readers::SkipReason;

use crate::archive::{archive, count_members, end, header, member};
use crate::formats::cases;
use crate::given::{media, read, read_bytes};
use crate::outcomes::text;

#[test]
fn gnu_tar_with_links_folders_and_long_names() {
    for name in ["gnu-tar-gnu.tar", "gnu-tar-posix.tar"] {
        let path = cases("webdataset").join(name);
        let given = read(&path);
        assert_eq!(given.errors, [""; 0], "{name}");
        assert_eq!(given.items(), count_members(&fs::read(&path).unwrap()), "{name}");
        let long = format!("{}/{}", "folder-".repeat(20), "x".repeat(120));
        assert_eq!(text(given.sample(&long)), Some("A long way."));
        for (key, words) in [("plain/a", "A first one."), ("plain/b", "A hard link."), ("other/c", "A soft link.")] {
            let sample = given.sample(key);
            assert_eq!(text(sample), Some(words));
            assert_eq!(media(sample)["image"], ("jpg", &b"jpeg-a"[..]), "{name} {key}");
        }
        let lost: Vec<&str> = given.skipped().iter().map(|(key, ..)| *key).collect();
        assert_eq!(lost, ["other/d", "other/e", "other/f", "other/g"]);
        let words = ["not in the archive", "out of the archive", "in a circle", "in a circle"];
        for ((key, reason, detail, items), words) in given.skipped().into_iter().zip(words) {
            assert_eq!(reason, SkipReason::UnreadableMember);
            assert!(detail.contains(words), "{detail}");
            assert_eq!(items.len(), if key == "other/g" { 1 } else { 2 });
        }
        let ignored = given.ignored();
        let count = |ending| ignored.iter().filter(|this| **this == ending).count();
        assert_eq!((count("(folder)"), count("(special)"), count("(hidden)"), count("(none)")), (4, 1, 1, 1));
    }
    for (name, n_items) in [("gnu-tar-ustar.tar", 7), ("gnu-tar-v7.tar", 5), ("gnu-tar-label.tar", 6)] {
        let path = cases("webdataset").join(name);
        let given = read(&path);
        assert_eq!((given.samples().len(), given.errors.len()), (2, 0), "{name}");
        assert!(given.samples().iter().all(|sample| sample.parts.len() == 2));
        assert_eq!(given.items(), n_items, "{name}");
    }
}

#[test]
fn python_tarfile_with_names_of_all_kinds() {
    for name in ["python-pax.tar", "python-gnu.tar", "python-ustar.tar"] {
        let path = cases("webdataset").join(name);
        let given = read(&path);
        assert_eq!((given.skipped().len(), given.errors.len()), (0, 0), "{name} {given:#?}");
        assert_eq!(given.items(), count_members(&fs::read(&path).unwrap()), "{name}");
        assert_eq!(text(given.sample("café")), Some("Café in UTF-8."));
        assert_eq!(text(given.sample("caf\\xe9")), Some("Acute in Latin-1."));
        assert_eq!(text(given.sample("caf\\xe8")), Some("Grave in Latin-1."));
        assert_eq!(media(given.sample("photo"))["image"], ("v2.jpg", &b"jpeg-photo"[..]));
        assert_eq!(media(given.sample("hard"))["image"], ("jpg", &b"jpeg-photo"[..]));
        assert_eq!(media(given.sample("late"))["image"], ("jpg", &b"jpeg-late"[..]));
        if name != "python-ustar.tar" {
            assert_eq!(text(given.sample(&"x".repeat(150))), Some("A long name."));
            assert_eq!(media(given.sample("z"))["image"], ("jpg", &b"jpeg-z"[..]));
        }
        let mut ignored = given.ignored();
        ignored.sort_unstable();
        assert_eq!(ignored, ["(folder)", "(special)", "(special)"]);
    }
}

#[test]
fn sparse_members_are_filled() {
    let mut wanted = vec![0; 12 * 65536 + 100];
    for piece in 0..12 {
        let at = piece * 65536;
        (at..at + 4096).for_each(|i| wanted[i] = format!("{piece:02}").as_bytes()[i % 2]);
    }
    for name in ["sparse-gnu.tar", "sparse-posix-0.0.tar", "sparse-posix-0.1.tar", "sparse-posix-1.0.tar"] {
        let given = read(&cases("webdataset").join(name));
        assert_eq!(given.errors, [""; 0], "{name}");
        assert_eq!(given.samples().len(), 2, "{name} {:?}", given.skipped());
        assert!(media(given.sample("a"))["audio"].1 == wanted, "{name}");
        assert_eq!(given.ignored(), ["(folder)"], "{name}");
        assert_eq!(given.items(), 5, "{name}");
    }
    // A hole of a terabyte is no reason to allocate one.
    let mut pax = b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n37 GNU.sparse.realsize=1099511627776\n".to_vec();
    let mut bytes = header(b"x", b'x', pax.len() as u64, "");
    pax.resize(512, 0);
    bytes.extend(pax);
    bytes.extend(archive(&[("a.jpg", b"0\n"), ("b.txt", b"There.")]));
    let given = read_bytes(&bytes);
    assert_eq!(given.skipped()[0].1, SkipReason::UnreadableMember);
    assert_eq!(given.skipped()[0].2, "sparse member a.jpg");
    assert_eq!(given.samples().len(), 1);
}

#[test]
fn the_tar_crate_with_long_names_and_links() {
    let mut builder = tar::Builder::new(Vec::new());
    let long = format!("{}/{}.jpg", "d".repeat(120), "n".repeat(120));
    let mut add = |name: &str, data: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, data).unwrap();
    };
    add(&long, b"jpeg-long");
    add("k.txt", b"Linked.");
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Link);
    header.set_size(0);
    builder.append_link(&mut header, "k.jpg", &long).unwrap();
    let bytes = builder.into_inner().unwrap();
    let given = read_bytes(&bytes);
    assert_eq!(given.items(), count_members(&bytes));
    assert_eq!(media(given.sample("k"))["image"].1, b"jpeg-long");
    assert_eq!(media(given.sample(long.trim_end_matches(".jpg")))["image"].1, b"jpeg-long");
}

#[test]
fn hard_links_that_state_a_size_have_data_or_have_none() {
    let first = [member("a.jpg", b"jpeg-a"), header(b"b.jpg", b'1', 6, "a.jpg")].concat();
    let rest = archive(&[("b.txt", b"Linked."), ("c.txt", b"Behind.")]);
    for data in [&b""[..], &[&b"jpeg-a"[..], &[0; 506]].concat()] {
        let given = read_bytes(&[&first[..], data, &rest].concat());
        assert_eq!((given.errors.len(), given.samples().len()), (0, 3), "{given:#?}");
        assert_eq!(media(given.sample("b"))["image"].1, b"jpeg-a");
    }
}

#[test]
fn archives_end_to_end_are_read_on() {
    let (a, b) = (archive(&[("a.txt", b"One."), ("a.jpg", b"jpeg")]), archive(&[("b.txt", b"Two.")]));
    for between in [0, 1, 18] {
        let bytes = [&a[..], &vec![0; between * 512], &b].concat();
        let given = read_bytes(&bytes);
        assert_eq!((given.samples().len(), given.errors.len(), given.items()), (2, 0, 3));
    }
    // One zero block in the middle of a sample.
    let bytes = [member("a.txt", b"One."), vec![0; 512], member("a.jpg", b"jpeg"), end()].concat();
    assert_eq!(read_bytes(&bytes).samples()[0].items, ["txt", "jpg"]);
}

#[test]
fn an_extended_header_is_for_a_member() {
    let pax = [&b"10 size=7\n"[..], &[0; 502]].concat();
    let bytes = [member("a.txt", b"One."), header(b"x", b'x', 10, ""), pax.clone(), end()].concat();
    let given = read_bytes(&bytes);
    assert_eq!(given.samples().len(), 1);
    assert!(given.error().contains("without the member"), "{}", given.error());
    // Its size counts, not the one in the header.
    let data = [&b"Seventy"[..], &[0; 505]].concat();
    let bytes = [header(b"x", b'x', 10, ""), pax, header(b"a.txt", b'0', 0, ""), data, end()].concat();
    assert_eq!(text(read_bytes(&bytes).sample("a")), Some("Seventy"));
    let bytes = [header(b"x", b'x', 1 << 40, ""), end()].concat();
    assert!(read_bytes(&bytes).error().contains("of a size that none has"));
}
