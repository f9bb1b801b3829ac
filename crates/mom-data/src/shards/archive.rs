//! The table of contents of one tar shard, read without its contents.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use crate::error::IoContext;
use crate::{DataError, Result};

const BLOCK_BYTES: u64 = 512;

/// A regular file in a shard.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub name: String,
    pub span: Span,
}

/// Where the bytes of a member lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub offset_bytes: u64,
    pub len_bytes: u64,
}

/// Lists the regular files of a shard, and checks that the shard is whole: every member inside the file, and an
/// end-of-archive block behind the last.
pub(super) fn members(path: &Path) -> Result<Vec<Member>> {
    let file = File::open(path).at("open", path)?;
    let file_bytes = file.metadata().at("read", path)?.len();
    let truncated = |offset, what: String| Err(DataError::Truncated { shard: path.to_path_buf(), offset, what });
    let mut archive = tar::Archive::new(BufReader::new(file));
    let mut members = Vec::new();
    let mut end = 0;
    for entry in archive.entries_with_seek().at("read", path)? {
        let entry = match entry {
            Ok(entry) => entry,
            Err(_) if end + BLOCK_BYTES > file_bytes => return truncated(end, "a header is cut".to_owned()),
            Err(source) => return Err(DataError::BadArchive { shard: path.to_path_buf(), offset: end, source }),
        };
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let span = Span { offset_bytes: entry.raw_file_position(), len_bytes: entry.size() };
        let data_end = span.offset_bytes.saturating_add(span.len_bytes);
        if data_end > file_bytes {
            let what = format!("member {name} goes on to byte {data_end}, but the file ends");
            return truncated(file_bytes, what);
        }
        end = data_end.next_multiple_of(BLOCK_BYTES);
        if entry.header().entry_type().is_file() {
            members.push(Member { name, span });
        }
    }
    if end + BLOCK_BYTES > file_bytes {
        return truncated(file_bytes.min(end), "no end-of-archive block".to_owned());
    }
    Ok(members)
}
