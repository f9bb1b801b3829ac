//! Megatron's, nanoGPT's, llm.c's and LLM.Q's token files: every value of the samples, and damaged files.
#![allow(clippy::unwrap_used)]

#[path = "common/formats.rs"]
mod formats;
#[path = "common/random.rs"]
mod random;

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use formats::formats;
use mom_data::readers::{self, Format, Outcome, Part, PartOrder, ReadOptions, Reader, Sample, Skip, SkipReason, Tally};
use mom_data::{DataError, Modality};
use random::{Random, n_mutations};
use serde_json::Value;

const MI: usize = 1 << 20;

fn fixtures(name: &str) -> PathBuf {
    formats("megatron").join(name)
}

/// Lines of `expected.jsonl` of files in a folder.
fn expected(folder: &str) -> Vec<Value> {
    let lines = formats::expected("megatron").into_iter();
    lines.filter(|line| line["file"].as_str().unwrap().starts_with(folder)).collect()
}

fn numbers(list: &Value) -> Vec<u32> {
    list.as_array().unwrap().iter().map(|token| token.as_u64().unwrap() as u32).collect()
}

/// All that a reader gives, with its counts.
#[derive(Default)]
struct Given {
    samples: Vec<Sample>,
    skips: Vec<(String, Skip)>,
    ignored: Vec<String>,
    errors: Vec<DataError>,
    tally: Tally,
}

fn read_units(reader: &dyn Reader) -> Given {
    let mut given = Given::default();
    let take = |outcome: Outcome, given: &mut Given| {
        given.tally.count(&outcome);
        match outcome {
            Outcome::Sample(sample) => given.samples.push(sample),
            Outcome::Skipped { key, skip, .. } => given.skips.push((key, skip)),
            Outcome::Ignored { name, .. } => given.ignored.push(name),
        }
    };
    reader.ignored().iter().for_each(|outcome| take(outcome.clone(), &mut given));
    for unit in 0..reader.units().len() {
        let result = reader.read(unit, &mut |outcome| {
            take(outcome, &mut given);
            ControlFlow::Continue(())
        });
        given.errors.extend(result.err());
    }
    given
}

fn read_with(path: &Path, format: Option<Format>, options: &ReadOptions) -> Given {
    read_units(&*readers::open(path, format, options).unwrap())
}

fn read(path: &Path, format: Format) -> Given {
    read_with(path, Some(format), &ReadOptions::default())
}

/// Modality and tokens of each part.
fn codes(sample: &Sample) -> Vec<(Modality, Vec<u32>)> {
    let code = |part: &Part| match part {
        Part::Codes { modality, shape, values } => {
            assert_eq!(shape[..], [values.len()]);
            (*modality, values.clone())
        }
        other => panic!("{other:?}"),
    };
    sample.parts.iter().map(code).collect()
}

/// The only error.
fn reason(given: &Given) -> &str {
    match &given.errors[..] {
        [DataError::Damaged { reason, .. }] => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_document_of_megatron() {
    let given = read_with(&fixtures("megatron"), None, &ReadOptions::default());
    let expected = expected("megatron/");
    assert_eq!((given.samples.len(), given.skips.len(), given.errors.len()), (22, 0, 0));
    for (sample, line) in given.samples.iter().zip(&expected) {
        let name = line["file"].as_str().unwrap().strip_prefix("megatron/").unwrap();
        assert_eq!(sample.place.file, format!("{name}.bin"));
        assert_eq!(sample.place.row, line["document"].as_u64());
        assert_eq!(sample.key, format!("{name}:{}", line["document"]));
        let sequences = line["sequences"].as_array().unwrap();
        let parts: Vec<_> = if name.contains("modes") {
            assert_eq!(sample.order, PartOrder::Fixed);
            let modality = |mode: &Value| Modality::ALL[mode.as_u64().unwrap() as usize];
            sequences.iter().map(|sequence| (modality(&sequence["mode"]), numbers(&sequence["tokens"]))).collect()
        } else {
            assert_eq!(sample.order, PartOrder::Free);
            vec![(Modality::Text, sequences.iter().flat_map(|sequence| numbers(&sequence["tokens"])).collect())]
        };
        assert_eq!(codes(sample), parts);
    }
    assert_eq!(given.tally.items["bin"].used, expected.len() as u64);
    assert_eq!(given.tally.items.len(), 1);
}

#[test]
fn modalities_are_as_they_are_named() {
    let options = ReadOptions {
        token_modality: Some(Modality::Speech),
        mode_modalities: vec![Modality::Image],
        ..ReadOptions::default()
    };
    // Either file of a pair opens it.
    let plain = read_with(&fixtures("megatron/u16_text_document.idx"), None, &options);
    assert_eq!(plain.samples.len(), 6);
    assert!(plain.samples.iter().all(|sample| codes(sample)[0].0 == Modality::Speech));
    let modes = read_with(&fixtures("megatron/u16_modes_document.bin"), Some(Format::Megatron), &options);
    assert_eq!((modes.samples.len(), modes.skips.len()), (0, 5));
    assert_eq!(modes.skips[0].1, Skip::new(SkipReason::UnknownToken, "sequence 0 has mode 1"));
}

#[test]
fn every_document_of_token_files() {
    for folder in ["nanogpt", "llmc"] {
        let given = read_with(&fixtures(folder), None, &ReadOptions::default());
        assert!(given.errors.is_empty() && given.skips.is_empty());
        let mut samples = given.samples.iter();
        for line in expected(&format!("{folder}/")) {
            let file = line["file"].as_str().unwrap().rsplit('/').next().unwrap();
            let tokens = numbers(&line["tokens"]);
            let mark = if file.starts_with("llama3") { 128_000 } else { 50256 };
            let documents = tokens.split(|&token| token == mark).filter(|document| !document.is_empty());
            for (row, document) in documents.enumerate() {
                let sample = samples.next().unwrap();
                assert_eq!(sample.place.file, file);
                assert_eq!(sample.place.row, Some(row as u64));
                assert_eq!(sample.key, format!("{}:{row}", file.strip_suffix(".bin").unwrap()));
                assert_eq!(codes(sample), [(Modality::Text, document.to_vec())]);
            }
        }
        assert_eq!(samples.next(), None);
        assert_eq!(given.tally.items["bin"].used, given.samples.len() as u64);
    }
}

/// Writes an index.
fn index(kind: u8, lengths: &[i32], pointers: &[i64], documents: &[i64], modes: &[i8]) -> Vec<u8> {
    let mut bytes = b"MMIDIDX\0\0".to_vec();
    bytes.extend(1u64.to_le_bytes());
    bytes.push(kind);
    bytes.extend((lengths.len() as u64).to_le_bytes());
    bytes.extend((documents.len() as u64).to_le_bytes());
    bytes.extend(lengths.iter().flat_map(|value| value.to_le_bytes()));
    bytes.extend(pointers.iter().flat_map(|value| value.to_le_bytes()));
    bytes.extend(documents.iter().flat_map(|value| value.to_le_bytes()));
    bytes.extend(modes.iter().flat_map(|value| value.to_le_bytes()));
    bytes
}

/// Reads a pair that is written here.
fn pair(index: &[u8], tokens: &[u8]) -> Given {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("x.idx"), index).unwrap();
    fs::write(folder.path().join("x.bin"), tokens).unwrap();
    read(folder.path(), Format::Megatron)
}

#[test]
fn megatron_files_that_do_not_fit_are_refused_with_words() {
    let good = index(8, &[2, 1], &[0, 4], &[0, 1, 2], &[]);
    let tokens = [1, 0, 2, 0, 3, 0];
    assert_eq!(pair(&good, &tokens).samples.len(), 2);
    assert!(reason(&pair(&good, &tokens[..4])).contains("it has 4 bytes, by its index it ends at byte 6"));
    assert!(reason(&pair(&good[..good.len() - 1], &tokens)).contains("do not fit"));
    assert!(reason(&pair(b"MMIDIDX\0\0\x01", &tokens)).contains("cut off"));
    assert!(reason(&pair(b"TNTIDX\0\0", &tokens)).contains("fairseq"));
    assert!(reason(&pair(b"", &tokens)).contains("MMIDIDX"));
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        reason(&pair(&bytes, &tokens)).to_owned()
    };
    assert!(with(9, 2).contains("version 2"));
    assert!(with(17, 6).contains("fractions"));
    assert!(with(17, 9).contains("type 9"));
    // Counts of 2^60 and more.
    assert!(with(25, 0x7f).contains("do not fit"));
    assert!(with(33, 0xff).contains("do not fit"));

    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("lone.idx"), &good).unwrap();
    fs::write(folder.path().join("other.bin"), tokens).unwrap();
    let given = read_with(folder.path(), None, &ReadOptions::default());
    assert!(reason(&given).contains("lone.bin, are not there"));
    assert_eq!(given.ignored, ["other.bin (no other.idx beside it)"]);
}

#[test]
fn documents_that_cannot_be_are_skipped_one_by_one() {
    use SkipReason::{BrokenRecord, NoPart, UnknownToken};
    let skips = |given: &Given| given.skips.iter().map(|(key, skip)| (key.clone(), skip.reason)).collect::<Vec<_>>();
    // A negative token; nothing; a token of more than 32 bits.
    let tokens: Vec<u8> = [1i64, -5, 2, 1 << 32, 3].into_iter().flat_map(i64::to_le_bytes).collect();
    let given = pair(&index(5, &[2, 1, 1, 1], &[0, 16, 24, 32], &[0, 1, 2, 2, 3, 4], &[]), &tokens);
    assert_eq!(given.samples.iter().map(|sample| sample.key.as_str()).collect::<Vec<_>>(), ["x:1", "x:4"]);
    assert_eq!(
        skips(&given),
        [("x:0".to_owned(), UnknownToken), ("x:2".to_owned(), NoPart), ("x:3".to_owned(), UnknownToken)]
    );
    assert_eq!(given.skips[0].1.detail, "token -5");
    // A mode that is none, and a length that lies.
    let given = pair(&index(1, &[2, 2, 2, 2], &[0, 2, 4, 6], &[0, 1, 2, 3, 4], &[0, 3, -1, 2]), &[7; 8]);
    assert_eq!(skips(&given), [("x:1".to_owned(), UnknownToken), ("x:2".to_owned(), UnknownToken)]);
    assert_eq!(codes(&given.samples[1]), [(Modality::Speech, vec![7, 7])]);
    let given = pair(&index(1, &[2, 9, 2, 2], &[0, 2, 4, 6], &[0, 1, 2, 3, 4], &[]), &[7; 8]);
    assert_eq!(skips(&given), [("x:1".to_owned(), BrokenRecord)]);
    let given = pair(&index(1, &[2, 2, 2, 2], &[0, -2, 4, 6], &[0, 1, 2, 3, 4], &[]), &[7; 8]);
    assert_eq!(skips(&given), [("x:0".to_owned(), BrokenRecord), ("x:1".to_owned(), BrokenRecord)]);
    let given = pair(&index(1, &[2, 2, 2, 2], &[0, 2, 4, 6], &[0, 1, 9, 3, 4], &[]), &[7; 8]);
    assert_eq!(skips(&given), [("x:1".to_owned(), BrokenRecord), ("x:2".to_owned(), BrokenRecord)]);
    // Each document is the whole file: more than there is.
    let documents: Vec<i64> = (0..1000).map(|mark| mark % 2).collect();
    assert!(reason(&pair(&index(1, &[8], &[0], &documents, &[]), &[7; 8])).contains("over each other"));
}

#[test]
fn large_megatron_files_are_cut() {
    let folder = tempfile::tempdir().unwrap();
    // 12 documents of 3 Mi tokens, one of two sequences of 3 Mi and one of 9 Mi.
    let mut lengths = vec![3 * MI as i32; 14];
    lengths.push(9 * MI as i32);
    let pointers: Vec<i64> =
        lengths.iter().scan(0, |at, &n| Some(std::mem::replace(at, *at + 2 * i64::from(n)))).collect();
    let documents: Vec<i64> = (0..=12).chain([14, 15]).collect();
    let n: i64 = lengths.iter().copied().map(i64::from).sum();
    let tokens: Vec<u8> = (0..n as u32).flat_map(|token| (token as u16).to_le_bytes()).collect();
    fs::write(folder.path().join("x.idx"), index(8, &lengths, &pointers, &documents, &[])).unwrap();
    fs::write(folder.path().join("x.bin"), &tokens).unwrap();
    let reader = readers::open(folder.path(), None, &ReadOptions::default()).unwrap();
    let units: Vec<_> = reader.units().iter().map(|unit| unit.name.as_str()).collect();
    assert_eq!(units, ["x#documents 0-7", "x#documents 7-14"]);
    let given = read_units(&*reader);
    let keys: Vec<_> = given.samples[12..].iter().map(|sample| sample.key.as_str()).collect();
    assert_eq!(keys, ["x:12", "x:12:1", "x:13", "x:13:1", "x:13:2"]);
    assert_eq!(given.samples[13].group.as_deref(), Some("x:12"));
    let all: Vec<u32> = given.samples.iter().flat_map(|sample| codes(sample).swap_remove(0).1).collect();
    assert!(all.iter().copied().eq((0..n as u32).map(|token| token & 0xffff)));
    assert_eq!(given.tally.items["bin"].used, 14);
}

/// Reads a token file that is written here.
fn bin(bytes: &[u8], end_of_document: Option<u32>) -> Given {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("x.bin"), bytes).unwrap();
    read_with(folder.path(), None, &ReadOptions { end_of_document, ..ReadOptions::default() })
}

fn with_header(numbers: &[i32], tokens: &[i32]) -> Vec<u8> {
    let mut bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    bytes.resize(1024, 0);
    bytes.extend(tokens.iter().flat_map(|token| token.to_le_bytes()));
    bytes
}

#[test]
fn token_files_of_all_kinds() {
    let values = |given: &Given| given.samples.iter().map(|sample| codes(sample).swap_remove(0).1).collect::<Vec<_>>();
    // The text "BIN.TOK\n" as numbers.
    let (bin_tok_0, bin_tok_1) = (i32::from_le_bytes(*b"BIN."), i32::from_le_bytes(*b"TOK\n"));
    let llmq = |version, width, count, masks| {
        with_header(&[bin_tok_0, bin_tok_1, version, width, count, 1000, masks], &[1, 2, 0, 0, 3, -4, 5, 0, 6])
    };
    let given = bin(&llmq(2, 4, 9, 0), Some(0));
    assert_eq!(values(&given), [vec![1, 2], vec![6]]);
    assert_eq!(given.skips, [("x:1".to_owned(), Skip::new(SkipReason::UnknownToken, "token -4"))]);
    assert_eq!(given.samples[1].key, "x:2");
    assert_eq!(given.tally.items["bin"].found, 3);
    assert_eq!(bin(&llmq(1, 4, 9, 0), Some(0)).samples.len(), 2);
    assert!(reason(&bin(&llmq(2, 4, 9, 0), None)).contains("name it"));
    assert!(reason(&bin(&llmq(2, 4, 9, 1), Some(0))).contains("masks"));
    assert!(reason(&bin(&llmq(3, 4, 9, 0), Some(0))).contains("version 3"));
    assert!(reason(&bin(&llmq(2, 4, 8, 0), Some(0))).contains("8 tokens by its header"));

    let llmc = |version, count| with_header(&[20_240_801, version, count], &[128_000, 1, 2, 128_000, 3]);
    assert_eq!(values(&bin(&llmc(7, 5), None)), [vec![1, 2], vec![3]]);
    assert_eq!(values(&bin(&llmc(7, 5), Some(2))), [vec![128_000, 1], vec![128_000, 3]]);
    assert!(reason(&bin(&llmc(1, 5), None)).contains("version 1"));
    assert!(reason(&bin(&llmc(7, -5), None)).contains("do not fit"));
    assert!(reason(&bin(&llmc(7, 5)[..20], None)).contains("do not fit"));
    assert!(reason(&bin(&llmc(7, 5)[..6], None)).contains("cut off"));

    assert_eq!(values(&bin(&[1, 0, 2, 0, 9, 0, 3, 0], Some(9))), [vec![1, 2], vec![3]]);
    assert!(bin(&[], None).samples.is_empty());
    assert!(reason(&bin(&[1, 0, 2], None)).contains("odd"));
    assert!(reason(&bin(&[1, 0], Some(70_000))).contains("16 bits"));
    assert!(reason(&bin(b"PK\x03\x04....", None)).contains("zip"));

    let long: Vec<u8> = (0..9 * MI as u32).flat_map(|token| ((token % 50_000) as u16).to_le_bytes()).collect();
    let given = bin(&long, None);
    let keys: Vec<_> = given.samples.iter().map(|sample| (sample.key.as_str(), sample.items.len())).collect();
    assert_eq!(keys, [("x:0", 1), ("x:0:1", 0), ("x:0:2", 0)]);
    assert!(given.samples.iter().all(|sample| sample.group.as_deref() == Some("x:0")));
    assert!(values(&given).concat().into_iter().eq((0..9 * MI as u32).map(|token| token % 50_000)));
}

/// Flips, cuts, repeats, removes or overwrites something.
fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..1 + random.below(3) {
        // Headers come first, and are short.
        let at = if random.below(2) == 0 { random.below(bytes.len().min(40)) } else { random.below(bytes.len()) };
        let end = (at + 1 + random.below(16)).min(bytes.len());
        match random.below(7) {
            _ if bytes.is_empty() => bytes.push(random.below(256) as u8),
            0 | 1 => bytes[at] ^= 1 << random.below(8),
            2 | 3 => bytes[at] = [0, 0xff, 0x7f, 0x80, random.below(256) as u8][random.below(5)],
            4 => bytes.truncate(at),
            5 => drop(bytes.drain(at..end)),
            _ => {
                let stretch = bytes[at..end].to_vec();
                let to = random.below(bytes.len());
                drop(bytes.splice(to..to, stretch));
            }
        }
    }
}

#[test]
fn damaged_megatron_files_add_up() {
    let mut random = Random(4);
    let folder = tempfile::tempdir().unwrap();
    let names = ["u16_text", "i32_text", "u16_modes", "i32_modes"];
    let mut outcomes = BTreeMap::new();
    for round in 0..n_mutations() {
        let name = names[round % names.len()];
        let file = |ending: &str| fs::read(fixtures(&format!("megatron/{name}_document.{ending}"))).unwrap();
        let (mut index, mut tokens) = (file("idx"), file("bin"));
        // Mostly within the index: other lengths of the tokens are refused at once.
        if random.below(4) == 0 {
            mutate(&mut tokens, &mut random)
        } else {
            mutate(&mut index, &mut random)
        }
        fs::write(folder.path().join("x.idx"), &index).unwrap();
        fs::write(folder.path().join("x.bin"), &tokens).unwrap();
        let given = read(folder.path(), Format::Megatron);
        if given.errors.is_empty() {
            let n_documents = u64::from_le_bytes(index[26..34].try_into().unwrap()) - 1;
            assert_eq!(given.tally.items.get("bin").map_or(0, |counts| counts.found), n_documents);
            assert_eq!(given.tally.found(), n_documents);
        }
        assert!(given.errors.iter().all(|error| matches!(error, DataError::Damaged { .. })), "{:?}", given.errors);
        *outcomes.entry((given.errors.len(), !given.skips.is_empty())).or_insert(0) += 1;
    }
    println!("(errors, skips): rounds {outcomes:?}");
}

#[test]
fn damaged_token_files_add_up() {
    let mut random = Random(5);
    let folder = tempfile::tempdir().unwrap();
    let names = ["nanogpt/train", "nanogpt/val", "llmc/books_train", "llmc/llama3_val"];
    let mut n_errors = 0;
    for round in 0..n_mutations() {
        let mut bytes = fs::read(fixtures(&format!("{}.bin", names[round % names.len()]))).unwrap();
        mutate(&mut bytes, &mut random);
        fs::write(folder.path().join("x.bin"), &bytes).unwrap();
        let given = read(folder.path(), Format::TokenBin);
        assert!(given.errors.iter().all(|error| matches!(error, DataError::Damaged { .. })), "{:?}", given.errors);
        n_errors += given.errors.len();
        if given.errors.is_empty() {
            let tokens = |from: usize, width: usize| {
                let value = |token: &[u8]| token.iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte));
                bytes[from..].chunks(width).map(value).collect::<Vec<u32>>()
            };
            let magic = bytes.get(..4).map(|field| u32::from_le_bytes(field.try_into().unwrap()));
            let (tokens, mark) = match magic {
                Some(20_240_520) => (tokens(1024, 2), 50256),
                Some(20_240_801) => (tokens(1024, 4), 128_000),
                _ => (tokens(0, 2), 50256),
            };
            let documents: Vec<_> = tokens.split(|&token| token == mark).filter(|part| !part.is_empty()).collect();
            assert_eq!(given.tally.found(), documents.len() as u64);
            assert_eq!(given.tally.items.get("bin").map_or(0, |counts| counts.found), documents.len() as u64);
            if given.skips.is_empty() {
                let values: Vec<_> = given.samples.iter().map(|sample| codes(sample).swap_remove(0).1).collect();
                assert_eq!(values, documents);
            }
        }
    }
    println!("{n_errors} files refused");
}
