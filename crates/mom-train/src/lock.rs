//! Folders that one process at a time works in.

use std::fs::{self, File};
use std::path::Path;

use crate::files::{self, At};
use crate::{Error, Result};

/// An exclusive hold on a folder, for as long as it lives.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Creates the folder where absent and locks it against other processes.
    ///
    /// # Errors
    /// [`Error::Locked`] if another process holds it.
    pub fn new(folder: &Path) -> Result<Self> {
        files::create_folder(folder)?;
        let path = folder.join(".lock");
        let file = File::create(&path).at("create", &path)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(fs::TryLockError::WouldBlock) => Err(Error::Locked { path: folder.into() }),
            Err(fs::TryLockError::Error(source)) => Err(source).at("lock", &path).map_err(Error::from),
        }
    }

    /// As [`Self::new`], by a lock file of a name of its own; where another process holds it, says so and waits.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    pub(crate) fn wait(folder: &Path, name: &str, mut waiting: impl FnMut()) -> Result<Self> {
        files::create_folder(folder)?;
        let path = folder.join(name);
        let file = File::create(&path).at("create", &path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                waiting();
                file.lock().at("lock", &path)?;
            }
            Err(fs::TryLockError::Error(source)) => Err(source).at("lock", &path)?,
        }
        Ok(Self { _file: file })
    }
}
