//! Lines of bounded length, and the JSON in them.

use std::io::{self, BufRead, BufReader, Read};

use serde_json::{Map, Value};

use crate::readers::{Skip, SkipReason};

/// Bytes of the longest line that is read.
const MAX_LINE_BYTES: u64 = 64 << 20;

/// Lines of a file, or those that begin in a stretch of it.
pub(super) struct Lines {
    /// The file, at the beginning of a line.
    pub source: BufReader<Box<dyn Read + Send>>,
    /// Bytes of the file up to there.
    pub at: u64,
    end: u64,
    /// The line that was read last; of a line that is too long only its beginning.
    pub buffer: Vec<u8>,
    /// Why nothing more can be read.
    pub error: Option<io::Error>,
}

impl Lines {
    /// Lines that begin before byte `end` of `source`, which is at byte `at`.
    pub fn new(source: Box<dyn Read + Send>, at: u64, end: u64) -> Self {
        Self { source: BufReader::with_capacity(1 << 16, source), at, end, buffer: Vec::new(), error: None }
    }

    /// Reads a line, and tells how many bytes it has; `None` at the end, which is an [`Self::error`] where there is one. What
    /// was read of a line before an error is a line too.
    pub fn advance(&mut self) -> Option<u64> {
        if self.at >= self.end || self.error.is_some() {
            return None;
        }
        self.buffer.clear();
        let length = self.read_line().unwrap_or_else(|error| {
            self.error = Some(error);
            self.buffer.len() as u64
        });
        self.at += length;
        (length > 0).then_some(length)
    }

    fn read_line(&mut self) -> io::Result<u64> {
        let mut length = self.source.by_ref().take(MAX_LINE_BYTES + 1).read_until(b'\n', &mut self.buffer)? as u64;
        if length > MAX_LINE_BYTES && !self.buffer.ends_with(b"\n") {
            length += self.source.skip_until(b'\n')? as u64;
        }
        Ok(length)
    }
}

/// The record in a line of `length` bytes, of which `line` holds the first ones; `None` where the line is blank. `number`
/// is that of the line, from 1 as people count.
pub(super) fn parse(line: &[u8], length: u64, number: u64) -> Option<Result<Map<String, Value>, Skip>> {
    let broken = |detail: String| Some(Err(Skip::new(SkipReason::BrokenRecord, format!("line {number}{detail}"))));
    if length > MAX_LINE_BYTES + 1 {
        return broken(format!(" has {length} bytes, more than 64 MiB"));
    }
    let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line).trim_ascii();
    if line.is_empty() {
        return None;
    }
    let text = match std::str::from_utf8(line) {
        Ok(text) => text,
        Err(error) => {
            let detail = format!("line {number}, byte {}", error.valid_up_to());
            return Some(Err(Skip::new(SkipReason::BrokenText, detail)));
        }
    };
    let value = serde_json::from_str(text).or_else(|error| {
        let repaired = without_nan(text).ok_or(error)?;
        serde_json::from_str(&repaired)
    });
    match value {
        Ok(Value::Object(record)) => Some(Ok(record)),
        Ok(_) => broken(" is no object of fields".to_owned()),
        Err(error) => {
            let words = error.to_string();
            // The parser knows of one line only.
            let words = words.split(" at line ").next().unwrap_or_default();
            broken(format!(", column {}: {words}", error.column()))
        }
    }
}

/// The text with `null` for each `NaN`, `Infinity` and `-Infinity` outside of its strings; `None` if it has none of these.
fn without_nan(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let (mut out, mut kept, mut at, mut in_string) = (String::new(), 0, 0, false);
    while at < bytes.len() {
        match bytes[at] {
            b'"' => in_string = !in_string,
            b'\\' if in_string => at += 1,
            b'-' | b'I' | b'N' if !in_string => {
                let words = ["-Infinity", "Infinity", "NaN"];
                if let Some(word) = words.into_iter().find(|word| bytes[at..].starts_with(word.as_bytes())) {
                    out.push_str(&text[kept..at]);
                    out.push_str("null");
                    at += word.len();
                    kept = at;
                    continue;
                }
            }
            _ => {}
        }
        at += 1;
    }
    out.push_str(&text[kept..]);
    (kept > 0).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_python_writes_for_nan_is_null() {
        let text = r#"{"a": NaN, "b": [-Infinity, Infinity, -1], "NaN": "\"NaN\\", "c": "é NaN"}"#;
        let expected = r#"{"a": null, "b": [null, null, -1], "NaN": "\"NaN\\", "c": "é NaN"}"#;
        assert_eq!(without_nan(text).as_deref(), Some(expected));
        assert_eq!(without_nan(r#"{"a": "NaN", "b": "\"#), None);
    }
}
