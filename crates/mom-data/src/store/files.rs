//! Opened units, the most recently used of them.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

use super::UnitFile;
use super::unit::Foot;
use crate::Result;

/// Files that stay open, at most: far below what a process may open. Whoever gets one gives it back soon.
const MAX_OPEN: usize = 128;

/// The files of a store's units, opened when they are asked for.
#[derive(Debug)]
pub(crate) struct UnitFiles {
    paths: Vec<PathBuf>,
    open: Mutex<VecDeque<(usize, UnitFile)>>,
    /// Of units that were opened before: who opens one again need not read it.
    feet: Vec<OnceLock<std::sync::Arc<Foot>>>,
}

impl UnitFiles {
    pub fn new(paths: Vec<PathBuf>) -> Self {
        let feet = paths.iter().map(|_| OnceLock::new()).collect();
        Self { paths, open: Mutex::new(VecDeque::new()), feet }
    }

    /// The file of a unit.
    pub fn get(&self, unit: usize) -> Result<UnitFile> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = open.iter().position(|(other, _)| *other == unit) {
            let file = open[at].1.clone();
            // Not moved far: an exact order is not worth its cost.
            if at > 0 {
                open.swap(at, at / 2);
            }
            return Ok(file);
        }
        let file = match self.feet[unit].get() {
            Some(foot) => UnitFile::again(&self.paths[unit], foot.clone())?,
            None => UnitFile::open(&self.paths[unit])?,
        };
        self.feet[unit].get_or_init(|| file.foot());
        if open.len() == MAX_OPEN {
            open.pop_back();
        }
        open.push_front((unit, file.clone()));
        Ok(file)
    }
}
