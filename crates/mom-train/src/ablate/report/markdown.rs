//! `report.md`.

use super::definitions::DEFINITIONS;
use super::summary::{Section, Summary};
use super::table::Table;

/// The report as Markdown (GitHub's dialect), with plots linked.
pub(super) fn render(summary: &Summary) -> String {
    let header = summary.header;
    let mut lines: Vec<String> = vec![format!("# {}", text(&header.title)), String::new()];
    let facts: Vec<String> = summary.facts.iter().map(|fact| text(fact)).collect();
    lines.push(format!("**{}** · {}", summary.done, facts.join(" · ")));
    lines.push(String::new());

    lines.extend(["## Reading".to_owned(), String::new()]);
    if summary.readings.is_empty() {
        lines.extend(["No run is done yet.".to_owned(), String::new()]);
    }
    for reading in &summary.readings {
        lines.extend([format!("**{}**", text(&reading.heading)), String::new()]);
        lines.extend(reading.sentences.iter().map(|sentence| format!("- {}", text(sentence))));
        lines.push(String::new());
    }
    if !header.missing.is_empty() {
        lines.extend(["## Missing runs".to_owned(), String::new()]);
        lines.extend(header.missing.iter().map(|run| format!("- {}", text(run))));
        lines.push(String::new());
    }
    for part in &summary.sections {
        section(&mut lines, part);
    }
    lines.extend(["## Definitions".to_owned(), String::new()]);
    lines.extend(DEFINITIONS.iter().map(|(term, meaning)| format!("- **{}.** {}", text(term), text(meaning))));
    lines.push(String::new());

    lines.extend(["## How it was made".to_owned(), String::new()]);
    let fence = "`".repeat(longest_backtick_run(&header.command).max(2) + 1);
    lines.extend([format!("{fence}sh"), header.command.clone(), fence, String::new()]);
    lines.extend(summary.origin.iter().map(|(name, value)| format!("- **{name}:** {}", text(value))));
    lines.push(String::new());
    if !header.notes.is_empty() {
        lines.extend(header.notes.iter().map(|note| format!("- {}", text(note))));
        lines.push(String::new());
    }
    if !header.config.is_empty() {
        lines.extend(["| Setting of the sweep | Value |".to_owned(), "| :-- | :-- |".to_owned()]);
        lines.extend(header.config.iter().map(|(name, value)| format!("| {} | {} |", text(name), text(value))));
        lines.push(String::new());
    }
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines.join("\n") + "\n"
}

fn section(lines: &mut Vec<String>, section: &Section) {
    lines.extend([format!("## {} (scale {})", text(&section.title), text(&section.scale)), String::new()]);
    for part in &section.tables {
        table(lines, part);
    }
    for figure in &section.figures {
        lines.extend([format!("### {}", figure.title), String::new()]);
        let images = figure.panels.iter().map(|panel| format!("![{}](plots/{})", text(&panel.alt), panel.file));
        lines.extend(images);
        lines.extend([String::new(), format!("*{}*", text(&figure.caption)), String::new()]);
    }
}

fn table(lines: &mut Vec<String>, table: &Table) {
    lines.extend([format!("### {}", table.title), String::new(), text(&table.note), String::new()]);
    for (heading, rows) in &table.blocks {
        if let Some(heading) = heading {
            lines.extend([format!("**{}**", text(heading)), String::new()]);
        }
        let columns: Vec<String> = table.columns.iter().map(|column| text(column)).collect();
        lines.push(format!("| {} |", columns.join(" | ")));
        lines.push(format!("| :-- |{}", " --: |".repeat(columns.len().saturating_sub(1))));
        for row in rows {
            let cells: Vec<String> = row.cells.iter().map(|cell| text(cell)).collect();
            lines.push(format!("| {} | {} |", text(&row.head), cells.join(" | ")));
        }
        lines.push(String::new());
    }
}

/// Plain text on one line: what Markdown would read as markup is escaped.
fn text(plain: &str) -> String {
    let mut escaped = String::with_capacity(plain.len());
    for letter in plain.chars() {
        match letter {
            '\n' | '\r' => escaped.push(' '),
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '~' | '#' | '$' => escaped.extend(['\\', letter]),
            _ => escaped.push(letter),
        }
    }
    escaped
}

fn longest_backtick_run(command: &str) -> usize {
    command.split(|letter| letter != '`').map(str::len).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_is_escaped() {
        assert_eq!(text("a|b_c <i> *x*\n[y]"), "a\\|b\\_c &lt;i> \\*x\\* \\[y\\]");
        assert_eq!(longest_backtick_run("a ``` b `"), 3);
        assert_eq!(longest_backtick_run("plain"), 0);
    }
}
