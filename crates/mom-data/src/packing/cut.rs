//! Cuts a document that is longer than a sequence: where it must, and not inside of what belongs together.

use super::item::too_long;
use super::layout::Layout;
use crate::Result;

/// Offsets and lengths of the pieces of a document, each at most `seqlen` long and as long as it can be. An image or
/// utterance that fits a sequence is not cut; a longer one of tokens is, and one of continuous patches is an error.
pub(super) fn pieces(layout: &Layout, seqlen: usize) -> Result<Vec<(usize, usize)>> {
    let mut pieces = Vec::new();
    let mut at = 0;
    // Spans ascend, so that one walk finds the span of each end: linear in the document.
    let mut spans = layout.spans.iter().peekable();
    while at < layout.len {
        let mut end = (at + seqlen).min(layout.len);
        while spans.next_if(|span| span.end() <= end).is_some() {}
        if let Some(span) = spans.peek()
            && span.is_marked()
            && span.start < end
        {
            if span.len <= seqlen {
                end = span.start;
            } else if span.is_continuous() {
                return Err(too_long(span.len, seqlen));
            }
        }
        pieces.push((at, end - at));
        at = end;
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packing::layout::Span;

    fn layout(parts: &[(usize, bool, bool)]) -> Layout {
        let mut at = 1;
        let spans = parts.iter().map(|&(len, marked, continuous)| {
            let span = Span::test(at, len, marked, continuous);
            at += len;
            span
        });
        let spans: Vec<Span> = spans.collect();
        Layout { len: at, spans }
    }

    #[test]
    fn text_is_cut_at_full_sequences_and_an_image_not_at_all() {
        assert_eq!(pieces(&layout(&[(24, false, false)]), 10).unwrap(), [(0, 10), (10, 10), (20, 5)]);
        // Begin-of-document and 5 tokens, then an image of 8 that does not fit behind them.
        let interleaved = layout(&[(5, false, false), (8, true, true), (6, false, false), (8, true, false)]);
        assert_eq!(pieces(&interleaved, 10).unwrap(), [(0, 6), (6, 10), (16, 4), (20, 8)]);
        let codes = layout(&[(25, true, false)]);
        assert_eq!(pieces(&codes, 10).unwrap(), [(0, 10), (10, 10), (20, 6)]);
        assert!(pieces(&layout(&[(25, true, true)]), 10).is_err());
        // An image as long as a sequence, behind begin-of-document.
        assert_eq!(pieces(&layout(&[(10, true, true)]), 10).unwrap(), [(0, 1), (1, 10)]);
    }
}
