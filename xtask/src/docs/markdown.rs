//! What a page of Markdown links to, can be linked at, and shows as commands. Enough of Markdown for this project's pages:
//! headings behind `#`, fenced blocks, code spans, inline links and images.

use std::collections::HashMap;

/// A page, read.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Anchors of its headings, as GitHub and mdBook make them.
    pub anchors: Vec<String>,
    /// Targets of links and images, with their lines.
    pub links: Vec<(usize, String)>,
    /// Code spans, with their lines.
    pub code: Vec<(usize, String)>,
    /// Fenced blocks.
    pub blocks: Vec<Block>,
    /// Remarks `<!-- ... -->` on lines of their own that belong to no block, with their lines.
    pub remarks: Vec<(usize, String)>,
}

/// A fenced block.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// The line of its fence.
    pub line: usize,
    /// What stands behind the fence: `console`, `rust`, ...
    pub language: String,
    /// Its lines.
    pub text: String,
    /// The remark `<!-- ... -->` on the line above the fence.
    pub remark: Option<String>,
}

/// Reads a page.
pub fn read(text: &str) -> Page {
    let mut page = Page::default();
    let mut seen = HashMap::new();
    let mut prose = String::new();
    let mut open: Option<Block> = None;
    let mut remark: Option<String> = None;
    for (index, line) in text.lines().enumerate() {
        let fence = line.trim_start().strip_prefix("```");
        match (&mut open, fence) {
            (None, Some(language)) => {
                let (line, language, text) = (index + 1, language.trim().to_owned(), String::new());
                open = Some(Block { line, language, text, remark: remark.take() });
            }
            (Some(_), Some("")) => page.blocks.extend(open.take()),
            (Some(block), _) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, None) => {
                page.remarks.extend(remark.take().map(|remark| (index, remark)));
                remark = line
                    .strip_prefix("<!--")
                    .and_then(|rest| rest.strip_suffix("-->"))
                    .map(|rest| rest.trim().to_owned());
                if let Some(heading) = line.strip_prefix('#') {
                    page.anchors.push(anchor(heading.trim_start_matches('#').trim(), &mut seen));
                }
                prose.push_str(line);
            }
        }
        // As many lines as the page has, so that the place of a link is known.
        prose.push('\n');
    }
    page.remarks.extend(remark.map(|remark| (text.lines().count(), remark)));
    page.blocks.extend(open);
    let prose = without_code(&prose, &mut page.code);
    for (at, _) in prose.match_indices("](") {
        let Some(target) = prose[at + 2..].split([')', '\n', ' ']).next() else { continue };
        page.links.push((line_of(&prose, at), target.to_owned()));
    }
    page
}

/// The anchor of a heading: lower case, blanks as hyphens, nothing but letters, digits, `-` and `_`; the second of one name gets
/// a `-1`.
fn anchor(heading: &str, seen: &mut HashMap<String, usize>) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    let name: String = kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect();
    let count = seen.entry(name.clone()).or_insert(0);
    *count += 1;
    if *count == 1 { name } else { format!("{name}-{}", *count - 1) }
}

/// The prose with blanks in place of code spans, which are handed out.
fn without_code(prose: &str, code: &mut Vec<(usize, String)>) -> String {
    let mut rest = prose;
    let mut out = String::new();
    while let Some(start) = rest.find('`') {
        let ticks = rest[start..].chars().take_while(|c| *c == '`').count();
        let inside = &rest[start + ticks..];
        let Some(end) = inside.find(&"`".repeat(ticks)) else { break };
        code.push((line_of(prose, prose.len() - inside.len()), inside[..end].to_owned()));
        out.push_str(&rest[..start]);
        out.extend(inside[..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = &inside[end + ticks..];
    }
    out + rest
}

fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_code_and_headings_are_told_apart() {
        let page = read("# A `b` c, d\n\nSee [x\ny](z.md#w) and `[not](this)`, ![i](i.svg).\n\n# A b c d\n");
        assert_eq!(page.anchors, ["a-b-c-d", "a-b-c-d-1"]);
        assert_eq!(page.links, [(4, "z.md#w".to_owned()), (4, "i.svg".to_owned())]);
        assert_eq!(page.code, [(1, "b".to_owned()), (4, "[not](this)".to_owned())]);
    }

    #[test]
    fn blocks_have_their_remark_and_no_links() {
        let text =
            "<!-- x -->\n\n<!-- tested -->\n```console\n# no heading\ncargo xtask sizes\n```\n\n```\n[a](b)\n```\n";
        let page = read(text);
        assert_eq!(page.remarks, [(1, "x".to_owned())]);
        assert_eq!((page.anchors.len(), page.links.len()), (0, 0));
        let (first, second) = (&page.blocks[0], &page.blocks[1]);
        assert_eq!((first.line, &*first.language, first.remark.as_deref()), (4, "console", Some("tested")));
        assert_eq!(first.text, "# no heading\ncargo xtask sizes\n");
        assert_eq!((second.line, second.remark.as_deref()), (9, None));
    }
}
