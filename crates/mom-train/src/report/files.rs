//! Whole-file writes: a temporary name in the same folder, then a rename.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::ReportError;

/// Creates `folder` and its parents where absent.
pub(super) fn create_folder(folder: &Path) -> Result<(), ReportError> {
    fs::create_dir_all(folder).map_err(|source| ReportError::Io { action: "create", path: folder.into(), source })
}

/// Replaces `folder/name` by `text` in one step and returns its path.
pub(super) fn replace(folder: &Path, name: &str, text: &str) -> Result<PathBuf, ReportError> {
    let path = folder.join(name);
    let partial = folder.join(format!(".{name}.partial"));
    let written = File::create(&partial).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    let (action, result) = match written {
        Ok(()) => ("rename", fs::rename(&partial, &path)),
        Err(source) => ("write", Err(source)),
    };
    match result {
        Ok(()) => Ok(path),
        Err(source) => {
            // The first failure is the one to report; a partial file that cannot be removed is overwritten next time.
            let _ = fs::remove_file(&partial);
            Err(ReportError::Io { action, path, source })
        }
    }
}
