//! Members become samples by their keys: which texts, pictures and arrays one has, what comes twice, what is ignored.

use mom_data::Modality;
use mom_data::readers::{Part, ReadOptions, SkipReason};

use crate::archive::archive;
use crate::given::{read_bytes, read_bytes_as};
use crate::outcomes::text;

#[test]
fn a_key_that_comes_again_in_the_next_archive_is_another_sample() {
    let one = archive(&[("k.txt", b"One."), ("k.jpg", b"jpeg-1")]);
    let two = archive(&[("k.json", b"{}"), ("k.jpg", b"jpeg-2"), ("k.txt", b"Two."), ("m.txt", b"More.")]);
    let given = read_bytes(&[&one[..], &two, &one].concat());
    let told: Vec<_> =
        given.samples().iter().map(|sample| (&sample.key[..], sample.group.as_deref(), text(sample))).collect();
    let wanted = [
        ("k", None, Some("One.")),
        ("k (archive 2)", Some("k"), Some("Two.")),
        ("m", None, Some("More.")),
        ("k (archive 3)", Some("k"), Some("One.")),
    ];
    assert_eq!(told, wanted);
    // Texts in one archive, pictures in the next: one sample.
    let pictures = archive(&[("k.jpg", b"jpeg-1")]);
    let given = read_bytes(&[archive(&[("k.txt", b"One.")]), pictures].concat());
    assert_eq!(given.samples().len(), 1);
    assert_eq!(given.samples()[0].parts.len(), 2);
    // Within one archive nothing says which of the two is meant.
    let given = read_bytes(&archive(&[("k.txt", b"One."), ("k.txt", b"Two."), ("m.cls", b"1"), ("m.cls", b"1")]));
    assert_eq!(given.skipped()[0].1, SkipReason::DuplicatePart);
    assert_eq!(given.skipped()[0].3, ["txt", "txt"]);
    assert_eq!(given.ignored(), ["cls", "cls"]);
}

#[test]
fn two_pictures_need_a_sidecar() {
    let two: [(&str, &[u8]); 3] = [("x.input.jpg", b"jpeg-1"), ("x.target.jpg", b"jpeg-2"), ("x.cls", b"3")];
    let given = read_bytes(&archive(&two));
    let (key, reason, detail, items) = given.skipped()[0];
    assert_eq!((key, reason, detail), ("x", SkipReason::DuplicatePart, "input.jpg, target.jpg"));
    assert_eq!(items, ["input.jpg", "target.jpg"]);
    assert_eq!(given.ignored(), ["cls"]);
    let with = |json: &[u8]| read_bytes(&archive(&[two[0], two[1], two[2], ("x.json", json), ("x.txt", b"Aside.")]));
    let given = with(br#"["Before: ", "input.jpg"]"#);
    assert_eq!(given.samples()[0].items, ["input.jpg", "json"]);
    assert_eq!(given.ignored(), ["target.jpg", "cls", "txt"]);
    assert_eq!(given.items(), 5);
    let given = with(br#"[{"type": "image", "image": "other.jpg"}]"#);
    assert_eq!(given.skipped()[0].1, SkipReason::MissingFile);
    let given = with(br#"{"images": ["input.jpg"], "texts": []}"#);
    assert_eq!(given.skipped()[0].1, SkipReason::BrokenRecord);
    let given = with(b"{");
    assert_eq!((given.skipped()[0].1, given.skipped()[0].3.len()), (SkipReason::BrokenRecord, 4));
    let given = with(br#"["txt", "input.jpg", "txt"]"#);
    assert_eq!(given.skipped()[0].1, SkipReason::DuplicatePart);
}

#[test]
fn texts_come_from_members_and_sidecars() {
    let json = br#"{"caption": "Of the sidecar.", "long": "A long one.", "source": 17}"#;
    let bytes = archive(&[
        ("a.jpg", b"jpeg"),
        ("a.txt", b"\xef\xbb\xbfOf the member.\r\n"),
        ("a.json", json),
        ("b.jpg", b"jpeg"),
        ("b.json", json),
        ("c.txt", b"Alone."),
        ("c.json", b"{ broken"),
        ("d.jpg", b"jpeg"),
        ("d.json", b"{ broken"),
        ("e.txt", b"caf\xe9"),
        ("f.json", br#"{"status": "failed_to_download"}"#),
        ("g.TXT", b"Upper case."),
        ("h.json", br#"["cat", "dog"]"#),
        ("i.json", "[".repeat(100_000).as_bytes()),
    ]);
    let given = read_bytes(&bytes);
    assert_eq!(given.items(), 14);
    let told = |key| text(given.sample(key)).unwrap();
    assert_eq!((told("a"), told("b"), told("c")), ("Of the member.", "Of the sidecar.", "Alone."));
    assert_eq!((told("g"), told("h")), ("Upper case.", "cat"));
    assert_eq!(given.sample("a").items, ["jpg", "txt", "json"]);
    assert_eq!(given.ignored(), ["json"]);
    let reasons: Vec<_> = given.skipped().iter().map(|(key, reason, ..)| (*key, *reason)).collect();
    let wanted = [
        ("d", SkipReason::BrokenRecord),
        ("e", SkipReason::BrokenText),
        ("f", SkipReason::NoPart),
        ("i", SkipReason::BrokenRecord),
    ];
    assert_eq!(reasons, wanted);

    let options =
        ReadOptions { text_fields: vec!["long".into()], group_field: Some("source".into()), ..ReadOptions::default() };
    let given = read_bytes_as("a.tar", &bytes, &options);
    let a = given.sample("a");
    assert_eq!((text(a), a.group.as_deref()), (Some("A long one."), Some("17")));
    assert_eq!(a.items, ["jpg", "json"]);
    // The group of c is not known.
    assert!(given.skipped().iter().any(|(key, ..)| *key == "c"));
}

#[test]
fn arrays_come_before_files_and_broken_ones_are_skipped() {
    let npy = |kind: &str, data: &[u8]| {
        let head = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': (2,), }}");
        [&b"\x93NUMPY\x01\x00"[..], &(head.len() as u16).to_le_bytes(), head.as_bytes(), data].concat()
    };
    let given = read_bytes(&archive(&[
        ("a.image.npy", &npy("<f2", &[0, 0x3c, 0, 0xc0])),
        ("a.jpg", b"jpeg"),
        ("a.txt", b"Latents."),
        ("b.speech.npy", &npy("<i2", &[1, 0, 0xff, 0xff])),
        ("b.txt", b"A negative code."),
        ("c.img.npy", &npy("<u2", &[1, 0])),
        ("d.tokens.npy", &npy("<u4", &[1, 0, 0, 0, 2, 0, 0, 0])),
        ("e.audio.npy", &npy("<f4", &[0; 8])),
        ("f.image.npy", &npy("<f4", &[0, 0, 0xc0, 0x7f, 0, 0, 0, 0])),
        ("g.npy", b"anything"),
    ]));
    let latents = Part::Latents { shape: vec![2], values: vec![1.0, -2.0] };
    assert!(given.sample("a").parts.contains(&latents));
    assert_eq!(given.sample("a").items, ["image.npy", "txt"]);
    let codes = Part::Codes { modality: Modality::Text, shape: vec![2], values: vec![1, 2] };
    assert_eq!(given.sample("d").parts, [codes]);
    assert_eq!(given.ignored(), ["jpg", "npy"]);
    let broken: Vec<_> = given.skipped().iter().map(|(key, reason, ..)| (*key, *reason)).collect();
    assert_eq!(broken, ["b", "c", "e", "f"].map(|key| (key, SkipReason::BrokenArray)));
    assert_eq!(given.items(), 10);
}
