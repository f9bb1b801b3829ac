//! Text in HTML.

/// Text with the characters that HTML reserves escaped, and no line break before a percent sign or within "± 0.4".
pub(super) fn text(plain: &str) -> String {
    let mut escaped = String::with_capacity(plain.len());
    for letter in plain.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            _ => escaped.push(letter),
        }
    }
    escaped.replace(" %", "\u{a0}%").replace("± ", "±\u{a0}").replace(" ×", "\u{a0}×")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_characters_are_escaped() {
        assert_eq!(text("<a href='x'>&\"</a>"), "&lt;a href=&#39;x&#39;&gt;&amp;&quot;&lt;/a&gt;");
        assert_eq!(text("5.1 % ± 0.4"), "5.1\u{a0}% ±\u{a0}0.4");
    }
}
