//! Units of files that are cut, which are too large for other tests.

use super::*;

/// Keys and tokens of all documents, unit by unit.
fn read(reader: &TokenBin) -> Vec<(String, Vec<u32>)> {
    let mut documents = Vec::new();
    for unit in 0..reader.units.len() {
        let read = reader.read(unit, &mut |outcome| {
            if let Outcome::Sample(sample) = outcome
                && let [Part::Codes { values, .. }] = &sample.parts[..]
            {
                documents.push((sample.key, values.clone()));
            }
            ControlFlow::Continue(())
        });
        read.unwrap();
    }
    documents
}

#[test]
fn pieces_together_are_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.bin");
    // Documents of 0 to 11 tokens, in an order that puts every kind of boundary somewhere.
    let mut tokens: Vec<u16> = Vec::new();
    for document in 0..200u16 {
        tokens.extend((0..document * 7 % 12).map(|token| token + 1));
        tokens.push(50256);
    }
    tokens.push(3);
    let header: Vec<u8> = [20_240_520i32, 1, tokens.len() as i32].into_iter().flat_map(i32::to_le_bytes).collect();
    let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
    for llmc in [false, true] {
        let mut file = if llmc { header.clone() } else { Vec::new() };
        file.resize(if llmc { 1024 } else { 0 }, 0);
        file.extend(&bytes);
        std::fs::write(&path, &file).unwrap();
        let cut = |unit_bytes, max_tokens| {
            TokenBin::cut(Listing::of(folder.path()).unwrap(), &ReadOptions::default(), unit_bytes, max_tokens)
        };
        let whole = read(&cut(1 << 20, 100));
        assert_eq!(whole.len(), tokens.split(|&token| token == 50256).filter(|part| !part.is_empty()).count());
        for unit_bytes in [2, 4, 6, 16, 62, 100, 1000] {
            let reader = cut(unit_bytes, 100);
            assert_eq!(reader.units.len() as u64, (file.len() as u64).div_ceil(unit_bytes));
            assert_eq!(read(&reader), whole, "{unit_bytes} bytes");
            // The last unit alone counts what lies before it.
            let alone = cut(unit_bytes, 100);
            let mut keys = Vec::new();
            let last = alone.read(alone.units.len() - 1, &mut |outcome| {
                if let Outcome::Sample(sample) = outcome {
                    keys.push(sample.key);
                }
                ControlFlow::Continue(())
            });
            last.unwrap();
            assert!(whole.iter().rev().map(|(key, _)| key).zip(keys.iter().rev()).all(|(a, b)| a == b));
        }
        // Long documents are cut, and keep their order.
        let cut_up = read(&cut(64, 5));
        assert!(cut_up.iter().all(|(_, values)| (1..=5).contains(&values.len())));
        let all = |documents: &[(String, Vec<u32>)]| {
            documents.iter().flat_map(|(_, values)| values.clone()).collect::<Vec<_>>()
        };
        assert_eq!(all(&cut_up), all(&whole));
        assert!(cut_up.iter().any(|(key, _)| key == "a:2:1"));
    }
}
