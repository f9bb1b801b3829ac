//! Lines for people and programs, where nobody may be reading any more.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write};

use anyhow::{Context, Result};

/// Writes a line of the result. Where the reader has gone (`| head -1`) it is dropped: what the command does goes on.
///
/// # Errors
/// What keeps the standard output from being written otherwise, such as a full disk.
pub fn line(text: Arguments<'_>) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_fmt(text).and_then(|()| out.write_all(b"\n")) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write to the standard output"),
    }
}

/// Writes a line about the work at hand. A terminal that was closed loses it, and nothing else.
pub fn aside(text: &str) {
    let mut out = io::stderr().lock();
    // Whoever would be told of a failure is the one who cannot be told.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n"));
}

/// [`line()`] with a format.
macro_rules! say {
    ($($argument:tt)*) => { $crate::cli::output::line(format_args!($($argument)*)) };
}
pub(crate) use say;
