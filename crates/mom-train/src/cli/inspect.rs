//! `inspect`.

use std::io::Write;

use anyhow::{Context, Result};
use mom_data::SourceConfig;
use mom_data::inspect::{Inspection, Report};

use super::arguments::InspectArguments;

/// Shows what a source holds.
pub fn inspect(arguments: &InspectArguments) -> Result<()> {
    let InspectArguments { path, format, limit, jsonl, text, group } = arguments;
    let format = format.as_deref().map(str::parse).transpose()?;
    let source = SourceConfig { format, text: text.clone(), group: group.clone(), ..SourceConfig::at(path) };
    let (source, limit, jsonl) = (&source, limit.unwrap_or(u64::MAX), *jsonl);
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    // Where nobody reads any more, there is nothing left to show.
    let written = |result: std::io::Result<()>| match result {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other.context("cannot write to the standard output"),
    };
    let mut failed = None;
    let report: Report = mom_data::inspect::inspect(source, limit, |line: Inspection| {
        let result = if jsonl { line.write_json(&mut out) } else { line.write_row(&mut out) };
        if failed.is_none() {
            failed = written(result).err();
        }
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    written(if jsonl { report.write_json(&mut out) } else { report.write_table(&mut out) })?;
    written(out.flush())
}
