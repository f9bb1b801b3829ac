//! Files that are whole or absent: a temporary name in the same folder, synced, then a rename.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// A file or folder that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub struct FileError {
    /// What was tried: "create", "write", "rename", "read", "remove".
    pub action: &'static str,
    /// The file or folder.
    pub path: PathBuf,
    /// The system's reason.
    pub source: std::io::Error,
}

impl FileError {
    /// Whether the place may be read and not written to.
    pub(crate) fn is_read_only(&self) -> bool {
        use std::io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
        matches!(self.source.kind(), PermissionDenied | ReadOnlyFilesystem)
    }
}

/// Attaches what was tried to the system's reason.
pub(crate) trait At<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, FileError>;
}

impl<T> At<T> for std::io::Result<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, FileError> {
        self.map_err(|source| FileError { action, path: path.to_path_buf(), source })
    }
}

/// Creates a folder and its parents where absent.
pub(crate) fn create_folder(folder: &Path) -> Result<(), FileError> {
    fs::create_dir_all(folder).at("create", folder)
}

/// Replaces a file in one step; on an error what stood there before still does.
///
/// # Errors
/// A folder that cannot be written to, a full disk.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let partial = path.with_file_name(format!(".{name}.partial"));
    let replaced = write_synced(&partial, bytes).and_then(|()| fs::rename(&partial, path).at("rename", path));
    if replaced.is_err() {
        // The first failure is the one to report; a partial file that cannot be removed is overwritten next time.
        let _ = fs::remove_file(&partial);
    }
    replaced
}

/// Writes a new file and waits until it is on the disk.
pub(crate) fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let mut file = File::create(path).at("create", path)?;
    file.write_all(bytes).at("write", path)?;
    file.sync_all().at("write", path)
}

/// Waits until the names in a folder are on the disk; does nothing where folders cannot be synced.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), FileError> {
    if cfg!(unix) { File::open(folder).and_then(|folder| folder.sync_all()).at("write", folder) } else { Ok(()) }
}

/// Replaces a file by a value as JSON, for people to read.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> crate::Result<()> {
    let mut json = serde_json::to_vec_pretty(value)
        .map_err(|error| crate::Error::Content { path: path.into(), reason: error.to_string() })?;
    json.push(b'\n');
    Ok(replace(path, &json)?)
}
