//! Where a text that is too long for one document is cut.

/// Length of the first part of `text`: to the end of its last paragraph that is complete, or else of its last line, or else
/// of its last character. Never 0 unless `text` is empty.
pub(super) fn cut_at(text: &[u8]) -> usize {
    let after_paragraph = |end: &[u8]| last(text, end).map(|at| at + end.len());
    let paragraph = after_paragraph(b"\n\n").max(after_paragraph(b"\n\r\n"));
    paragraph.or_else(|| after_paragraph(b"\n")).unwrap_or_else(|| whole_characters(text))
}

/// Where `wanted` begins for the last time.
fn last(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).rposition(|window| window == wanted)
}

/// Length without the first bytes of a character whose other bytes are missing.
fn whole_characters(text: &[u8]) -> usize {
    // A character has at most 4 bytes; its first one alone does not look like 0b10......
    let tail = text.len().saturating_sub(3);
    let Some(lead) = text[tail..].iter().rposition(|byte| byte & 0xc0 != 0x80).map(|at| tail + at) else {
        return text.len();
    };
    let needed = match text[lead] {
        0xc0..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xff => 4,
        _ => 1,
    };
    if lead > 0 && text.len() - lead < needed { lead } else { text.len() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_come_before_lines_and_lines_before_characters() {
        assert_eq!(cut_at(b"one\n\ntwo\nthree"), 5);
        assert_eq!(cut_at(b"one\r\n\r\ntwo\r\nthree"), 7);
        assert_eq!(cut_at(b"one\n\ntwo\r\n\r\nthree"), 12);
        assert_eq!(cut_at(b"one two\nthree"), 8);
        assert_eq!(cut_at(b"one two"), 7);
        let text = "ab\u{1f989}";
        for end in 3..6 {
            assert_eq!(cut_at(&text.as_bytes()[..end]), 2);
        }
        assert_eq!(cut_at(text.as_bytes()), 6);
        assert_eq!(cut_at(&[0xf0]), 1);
        assert_eq!(cut_at(&[0x80, 0x80, 0x80, 0x80]), 4);
        assert_eq!(cut_at(b""), 0);
    }
}
