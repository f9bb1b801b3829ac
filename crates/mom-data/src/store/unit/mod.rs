//! The file of one unit.
//!
//! ```text
//! magic | documents, in reading order | records, sorted by hash | foot (JSON) | its length (u64) | its CRC-32C | magic
//! ```
//!
//! A document is a head (lengths, one entry for each part), its key and its values, little-endian, tokens of two bytes where
//! all of a part fit. A [`Record`] says where a document lies, how long its parts are, and its checksum. Records are sorted
//! by the hash that decides the split, so that the held-out documents of *any* fraction are the first ones, and whoever
//! changes the fraction tokenises nothing again.

mod layout;
mod read;
mod write;

pub(crate) use layout::FORMAT_VERSION;
pub(in crate::store) use layout::Foot;
pub(crate) use layout::{MAX_PARTS, Record, UnitSums};
pub(crate) use read::{PartKind, StoredPart, UnitFile, tokens};
pub(crate) use write::{Encoded, UnitWriter};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::{Content, Document};
    use crate::readers::PartOrder;

    fn document(key: &str, hash: u64, parts: Vec<Content>) -> Document {
        Document { key: key.to_owned(), hash, order: PartOrder::Free, parts }
    }

    #[test]
    fn documents_come_back_and_the_held_out_ones_are_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tokens");
        let mut writer = UnitWriter::create(&path, 12).unwrap();
        let long: Vec<u32> = (0..70_000).collect();
        let mut push = |key, hash, parts, text_bytes| {
            writer.push(&Encoded::new(&document(key, hash, parts), text_bytes, 12)).unwrap();
        };
        push("b", 900, vec![Content::Text(long.clone())], 5);
        push("a", 100, vec![Content::Text(vec![7, 8]), Content::Pixels((0..48).collect())], 2);
        push("c", 500, vec![Content::Speech(vec![3]), Content::ImageCodes(vec![4, 5])], 0);
        let (sums, _) = writer.finish().unwrap();
        assert!(!path.exists(), "not before it is on the disk");
        writer.settle().unwrap();
        assert_eq!((sums.n_documents, sums.text, sums.image, sums.speech, sums.n_media), (3, 70_002, 6, 1, 3));
        let unit = UnitFile::open(&path).unwrap();
        assert_eq!([0, 100, 101, 501, u64::MAX].map(|bound| unit.n_below(bound).unwrap()), [0, 0, 1, 2, 3]);
        let keys: Vec<String> = (0..3).map(|rank| unit.key(&unit.record(rank).unwrap()).unwrap()).collect();
        assert_eq!(keys, ["a", "c", "b"]);
        let record = unit.record(2).unwrap();
        assert_eq!(record.n_positions(), 70_001);
        let parts = unit.parts(&record).unwrap();
        let bytes = unit.values(&record, &parts[0], 65_000, 65_010).unwrap();
        assert_eq!(tokens(&parts[0], &bytes).collect::<Vec<_>>(), long[65_000..65_010]);
        let record = unit.record(0).unwrap();
        let whole = unit.whole(&record).unwrap();
        let parts = unit.parts_of(&record, &whole).unwrap();
        assert_eq!((parts.len(), parts[1].n_positions, parts[1].is_continuous()), (2, 4, true));
        assert_eq!(unit.values_of(&record, &whole, &parts[1], 1, 2).unwrap(), (12..24).collect::<Vec<u8>>());
        unit.verify().unwrap();
    }

    #[test]
    fn every_flipped_byte_and_every_cut_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tokens");
        let mut writer = UnitWriter::create(&path, 1).unwrap();
        for i in 0..4u32 {
            let parts = vec![Content::Text(vec![i; 3]), Content::ImageCodes(vec![70_000 + i; 2])];
            writer.push(&Encoded::new(&document(&format!("{i}"), u64::from(i), parts), 3, 1)).unwrap();
        }
        writer.finish().unwrap();
        writer.settle().unwrap();
        let good = std::fs::read(&path).unwrap();
        let check = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            UnitFile::open(&path).and_then(|unit| unit.verify())
        };
        check(&good).unwrap();
        // The magic at the start is never read; all else is covered by a checksum or by the foot's own sense.
        let foot = good.windows(15).position(|window| window == b"format_version\"").unwrap() - 2;
        for at in 8..foot {
            let mut bytes = good.clone();
            bytes[at] ^= 0x10;
            assert!(check(&bytes).is_err(), "byte {at}");
        }
        for len in 0..good.len() {
            assert!(check(&good[..len]).is_err(), "cut at {len}");
        }
        for at in foot..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 0x10;
            assert!(check(&bytes).is_err(), "byte {at} of the foot");
        }
    }
}
