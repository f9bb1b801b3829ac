//! Files that are whole or absent: written under a temporary name, synced, then renamed.

use std::fs::{self, File};
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::Result;
use crate::error::IoContext;

/// End of the name of a file that is being written.
pub(crate) const PARTIAL: &str = ".partial";

/// Creates a folder and its parents.
pub(crate) fn create_folder(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).at("create folder", dir)
}

/// Writes a file as a whole. On an error the temporary file is removed and nothing stands under the final name that was
/// not there before.
pub(crate) fn write_whole(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let temporary = temporary_name(path);
    let written = write_and_rename(path, &temporary, write);
    if written.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn write_and_rename(path: &Path, temporary: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(temporary).at("create", path)?);
    write(&mut out)?;
    let file = out.into_inner().map_err(std::io::IntoInnerError::into_error).at("write", path)?;
    file.sync_all().at("write", path)?;
    drop(file);
    match fs::rename(temporary, path) {
        // Another writer of the same bytes was first, and has cleared up.
        Err(error) if error.kind() == ErrorKind::NotFound && path.is_file() => Ok(()),
        renamed => renamed.at("rename", path),
    }
}

/// Hidden, and different for every process, so that two writers of the same file do not meet.
pub(crate) fn temporary_name(path: &Path) -> PathBuf {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_file_name(format!(".{name}.{}{PARTIAL}", std::process::id()))
}

/// True for a name made by [`write_whole`] before its rename.
pub(crate) fn is_temporary(path: &Path) -> bool {
    path.file_name().is_some_and(|name| {
        let name = name.to_string_lossy();
        name.starts_with('.') && name.ends_with(PARTIAL)
    })
}

/// Writes bytes as a whole file.
pub(crate) fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    write_whole(path, |out| out.write_all(bytes).at("write", path))
}

/// Writes a value as indented JSON with a final newline.
pub(crate) fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(not_json(path))?;
    bytes.push(b'\n');
    write_bytes(path, &bytes)
}

/// Reads a JSON file.
pub(crate) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = fs::read(path).at("read", path)?;
    serde_json::from_slice(&bytes).map_err(not_json(path))
}

/// Names the file that the parser, or the writer, of JSON reports of.
pub(crate) fn not_json(path: &Path) -> impl Fn(serde_json::Error) -> crate::DataError {
    move |source| crate::DataError::Json { path: path.to_path_buf(), source: source.into() }
}

/// Fills `bytes` from `offset` on, without moving the file's own place: many threads may read one file.
#[cfg(unix)]
pub(crate) fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

/// Fills `bytes` from `offset` on.
#[cfg(windows)]
pub(crate) fn read_exact_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, offset)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            n => {
                bytes = &mut bytes[n..];
                offset += n as u64;
            }
        }
    }
    Ok(())
}
