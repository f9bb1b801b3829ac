//! Stamps of Tux Paint: a sample for each language, and their faults.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use mom_data::readers::{Format, Outcome, ReadOptions, SkipReason, Tally, open};

use crate::files::files_below;
use crate::formats::cases;
use crate::found::{audio, image, read, write};
use crate::outcomes::text;

/// Languages and texts of a stamp, in the order of the file.
fn descriptions(path: &Path) -> BTreeMap<String, String> {
    let text = fs::read_to_string(path).unwrap();
    let pair = |line: &str| {
        line.split_once(".utf8=").map_or(("en".to_owned(), line.to_owned()), |(a, b)| (a.into(), b.into()))
    };
    text.lines().filter(|line| !line.is_empty()).map(pair).collect()
}

#[test]
fn stamps_give_a_sample_for_each_language() {
    let root = cases("tuxpaint");
    let found = read(&root, Format::Tuxpaint, &ReadOptions::default());
    assert_eq!(found.skipped, []);
    assert_eq!(found.n_items(), files_below(&root).len() as u64);
    let mut n_samples = 0;
    for (stamp, has_picture, recordings) in [
        ("household/tools/measuring_tape", true, "be bg ca el es fr ro ru"),
        ("people/body_parts/wig", false, "be bg ca es fr ro ru"),
        ("symbols/math/0", true, "fr ro ru"),
        ("symbols/money/00_symbols/euro_1_euro", true, "be bg ca fr"),
    ] {
        let texts = descriptions(&root.join(format!("{stamp}.txt")));
        let recordings: BTreeSet<&str> = recordings.split(' ').collect();
        let mut languages: BTreeSet<&str> = texts.keys().map(String::as_str).collect();
        languages.extend(&recordings);
        n_samples += languages.len();
        for language in languages {
            let sample = found.sample(&format!("{stamp}#{language}"));
            assert_eq!(text(sample), texts.get(language).map(String::as_str), "{}", sample.key);
            assert_eq!(image(sample).is_some_and(|(_, len)| len > 0), has_picture, "{}", sample.key);
            let recording = format!("{stamp}_desc_{language}.ogg");
            assert_eq!(audio(sample).map(|(name, _)| name), recordings.contains(language).then_some(&recording[..]));
            assert_eq!(sample.group.as_deref(), Some(stamp));
        }
    }
    assert_eq!(found.samples.len(), n_samples);
    assert_eq!(text(found.sample("people/body_parts/wig#en")), Some("Hair."));
    assert_eq!(found.samples[0].items, ["png", "txt"]);
    assert_eq!(found.sample("household/tools/measuring_tape#fr").items, ["ogg"]);
    let png = found.tally.items["png"];
    assert_eq!((png.used, png.ignored), (3, 1));
    assert_eq!((found.tally.items["svg"].ignored, found.tally.items["dat"].ignored), (2, 3));
    assert!(found.ignored.contains(&"symbols/math/0_en_GB.ogg".to_owned()));
    assert!(found.ignored.contains(&"household/tools/measuring_tape_mirror.png".to_owned()));

    let options = ReadOptions { group_field: Some("language".to_owned()), ..ReadOptions::default() };
    let found = read(&root, Format::Tuxpaint, &options);
    assert_eq!(found.sample("symbols/math/0#ro").group.as_deref(), Some("ro"));
}

#[test]
fn faults_of_stamps_are_told() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    write(root, "a.png", b"picture");
    write(root, "a.txt", b"caf\xe9\n\nfr.utf8=Un\r\nfr.utf8=Deux\nde.utf8=\n???\nes.utf8=\xff\nca@valencia.utf8=Hola");
    write(root, "a_desc.ogg", b"en");
    write(root, "a_desc_fr.ogg", b"fr");
    write(root, "a_desc_fr.wav", b"fr again");
    write(root, "a_desc_da.ogg.ogg", b"?");
    write(root, "a.wav", b"sound");
    write(root, "lone_flip.png", b"picture");
    write(root, "spoken_desc_pt_BR.wav", b"pt");
    write(root, "silent.txt", b"\n");
    write(root, "hand.png", b"picture");
    write(root, "hand_mirror.png", b"picture");
    write(root, "hand_mirror.txt", b"A hand mirror.");
    let found = read(root, Format::Tuxpaint, &ReadOptions::default());
    let keys = ["a#ca@valencia", "a#fr", "hand", "hand_mirror#en", "lone_flip", "spoken#pt_BR"];
    assert_eq!(found.keys(), keys);
    assert_eq!(text(found.sample("a#fr")), Some("Un"));
    assert_eq!(audio(found.sample("a#fr")), Some(("a_desc_fr.ogg", 2)));
    // English comes first and cannot be used: the next sample has the shared files.
    assert_eq!(found.skipped[0], ("a#en".to_owned(), SkipReason::BrokenText, vec!["ogg".to_owned()]));
    assert_eq!(found.samples[0].items, ["png", "txt"]);
    assert_eq!(found.reason("a#es"), SkipReason::BrokenText);
    assert_eq!(found.reason("a#fr"), SkipReason::DuplicatePart);
    assert_eq!(found.reason("a#line 6"), SkipReason::BrokenRecord);
    assert_eq!(found.reason("silent"), SkipReason::NoPart);
    assert_eq!(found.n_items(), files_below(root).len() as u64);
}

/// All stamps of an installation of Tux Paint, if `MOM_TUXPAINT` names its folder.
#[test]
fn every_file_of_an_installation_is_accounted_for() {
    let Some(root) = std::env::var_os("MOM_TUXPAINT").map(PathBuf::from) else { return };
    let reader = open(&root, Some(Format::Tuxpaint), &ReadOptions::default()).unwrap();
    let (mut languages, mut tally) = (BTreeMap::<String, [u64; 4]>::new(), Tally::default());
    let mut keys = BTreeSet::new();
    let mut add = |outcome: Outcome| {
        tally.count(&outcome);
        if let Outcome::Sample(sample) = outcome {
            let language = sample.key.rsplit_once('#').map_or("(none)", |(_, language)| language);
            let counts = languages.entry(language.to_owned()).or_default();
            let kinds = [text(&sample).is_some(), image(&sample).is_some(), audio(&sample).is_some()];
            counts[0] += 1;
            counts[1..].iter_mut().zip(kinds).for_each(|(count, has)| *count += u64::from(has));
            assert!(keys.insert(sample.key));
        }
    };
    reader.ignored().iter().cloned().for_each(&mut add);
    for unit in 0..reader.units().len() {
        let sink = &mut |outcome| {
            add(outcome);
            ControlFlow::Continue(())
        };
        reader.read(unit, sink).unwrap();
    }
    println!("{tally}\n{:#?}", tally.items);
    println!("samples, with text, picture, recording, by language: {languages:?}");
    assert_eq!(tally.items.values().map(|counts| counts.found).sum::<u64>(), files_below(&root).len() as u64);
}
