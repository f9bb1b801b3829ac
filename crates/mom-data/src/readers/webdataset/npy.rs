//! The head of a `.npy` file (NumPy's format, versions 1 to 3): the type of its values, their order and the sizes.
//!
//! Written out because the crate for it brings a parser generator, and with that a C compiler, for three fields.

use crate::readers::printable;

/// Axes of an array, at most, as in NumPy.
const MAX_AXES: usize = 64;

/// What the head of an array says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    pub big_endian: bool,
    /// `u`, `i`, `f`, ...
    pub kind: char,
    /// Bytes of one value.
    pub item: usize,
    /// First axis fastest.
    pub fortran_order: bool,
    pub shape: Vec<usize>,
}

/// The head of an array, and its data.
///
/// # Errors
/// What is wrong, in words.
pub(super) fn parse(bytes: &[u8]) -> Result<(Head, &[u8]), String> {
    if !bytes.starts_with(b"\x93NUMPY") || bytes.len() < 12 {
        return Err("no .npy array".to_owned());
    }
    let (from, len): (usize, usize) = match bytes[6] {
        1 => (10, usize::from(u16::from_le_bytes([bytes[8], bytes[9]]))),
        2 | 3 => (12, u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]) as usize),
        other => return Err(format!("version {other} of the format")),
    };
    let end = from.checked_add(len).filter(|&end| end <= bytes.len()).ok_or("its header is cut")?;
    let text = std::str::from_utf8(&bytes[from..end]).map_err(|_| "its header is no text")?;
    let wrong = || format!("its header does not parse: {}", printable(text.trim(), 80));
    let fields = text.trim().strip_prefix('{').and_then(|text| text.strip_suffix('}')).ok_or_else(wrong)?;
    let mut left = fields;
    let (mut descr, mut fortran_order, mut shape) = (None, None, None);
    while let Some((name, rest)) = quoted(left) {
        let value = rest.trim_start().strip_prefix(':').ok_or_else(wrong)?.trim_start();
        let rest = match name {
            "descr" => {
                let (text, rest) = quoted(value).ok_or("a structured array")?;
                descr = Some(text);
                rest
            }
            "fortran_order" => {
                let order = [("True", true), ("False", false)];
                let found = order.into_iter().find_map(|(word, is)| Some((is, value.strip_prefix(word)?)));
                let (is, rest) = found.ok_or_else(wrong)?;
                fortran_order = Some(is);
                rest
            }
            "shape" => {
                let (sizes, rest) = value.strip_prefix('(').and_then(|text| text.split_once(')')).ok_or_else(wrong)?;
                shape = Some(sizes_of(sizes).ok_or_else(wrong)?);
                rest
            }
            _ => return Err(wrong()),
        };
        let rest = rest.trim_start();
        left = rest.strip_prefix(',').unwrap_or(rest);
    }
    let (Some(descr), Some(fortran_order), Some(shape)) = (descr, fortran_order, shape) else { return Err(wrong()) };
    if !left.trim().is_empty() {
        return Err(wrong());
    }
    let of_type = || format!("values of type {}", printable(descr, 20));
    let mut chars = descr.chars();
    let order = chars.next().filter(|c| "<>|=".contains(*c)).ok_or_else(of_type)?;
    let kind = chars.next().ok_or_else(of_type)?;
    let item = chars.as_str().parse().ok().filter(|&item| (1..=16).contains(&item)).ok_or_else(of_type)?;
    Ok((Head { big_endian: order == '>', kind, item, fortran_order, shape }, &bytes[end..]))
}

/// A text in quotes at the beginning, and what follows.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start();
    let quote = text.chars().next().filter(|c| "'\"".contains(*c))?;
    text[1..].split_once(quote)
}

fn sizes_of(text: &str) -> Option<Vec<usize>> {
    let sizes: Vec<&str> = text.split(',').map(str::trim).collect();
    // `()`, `(3,)` and `(3, 4)`: the last may be empty.
    let (last, first) = sizes.split_last()?;
    let all = if last.is_empty() { first } else { &sizes[..] };
    if all.len() > MAX_AXES {
        return None;
    }
    // As Python 2 wrote them: `3L`.
    all.iter().map(|size| size.trim_end_matches('L').parse().ok()).collect()
}
