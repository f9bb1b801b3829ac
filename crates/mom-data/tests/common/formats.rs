//! The files that tests read: real samples of every format with what other programs make of them, and small made-up cases.
#![allow(dead_code, clippy::unwrap_used, reason = "each test binary uses its own part")]

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Real samples, below `formats`.
pub fn formats(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats").join(path)
}

/// Made-up files, below `cases`.
pub fn cases(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases").join(path)
}

/// Lines of the `expected.jsonl` of a folder of samples.
pub fn expected(folder: &str) -> Vec<Value> {
    let lines = fs::read_to_string(formats(folder).join("expected.jsonl")).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
