//! Archives made by hand, block by block, and a count of their members by another reader.

use std::io::Write;

/// A header block; `size` stands in it whatever follows.
pub fn header(name: &[u8], flag: u8, size: u64, link: &str) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_entry_type(tar::EntryType::new(flag));
    header.set_size(size);
    header.set_mode(0o644);
    header.set_link_name_literal(link).unwrap();
    header.set_cksum();
    header.as_bytes().to_vec()
}

pub fn member(name: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = header(name.as_bytes(), b'0', data.len() as u64, "");
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

pub fn end() -> Vec<u8> {
    vec![0; 1024]
}

pub fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes: Vec<u8> = members.iter().flat_map(|(name, data)| member(name, data)).collect();
    bytes.extend(end());
    bytes
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

/// Members of a tar archive, by another reader: all but headers that speak of all members.
pub fn count_members(bytes: &[u8]) -> u64 {
    let mut archive = tar::Archive::new(bytes);
    archive.set_ignore_zeros(true);
    let entries = archive.entries().unwrap().map(Result::unwrap);
    entries.filter(|entry| entry.header().as_old().linkflag != *b"g").count() as u64
}
