//! Whole-file writes of the report's texts.

use std::path::{Path, PathBuf};

use super::ReportError;
use crate::files::{self, FileError};

impl From<FileError> for ReportError {
    fn from(FileError { action, path, source }: FileError) -> Self {
        Self::Io { action, path, source }
    }
}

/// Creates `folder` and its parents where absent.
pub(super) fn create_folder(folder: &Path) -> Result<(), ReportError> {
    Ok(files::create_folder(folder)?)
}

/// Replaces `folder/name` by `text` in one step and returns its path.
pub(super) fn replace(folder: &Path, name: &str, text: &str) -> Result<PathBuf, ReportError> {
    let path = folder.join(name);
    files::replace(&path, text.as_bytes())?;
    Ok(path)
}
