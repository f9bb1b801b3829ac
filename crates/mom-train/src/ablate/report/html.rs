//! `report.html`: one file that needs nothing else. Styles and plots are inline; there is no script.

use super::definitions::DEFINITIONS;
use super::escape::text;
use super::gallery::{self, Gallery};
use super::order;
use super::plot::{self, Panel};
use super::summary::{Card, Figure, Section, Summary};
use super::table::{Row, Table};
use crate::ablate::statistics::Verdict;

const STYLE: &str = include_str!("style.css");

/// The report as an HTML page.
pub(super) fn render(summary: &Summary, galleries: &[Gallery]) -> String {
    let header = summary.header;
    let title = text(&header.title);
    let facts: String = summary.facts.iter().map(|fact| format!("<span>{}</span>", text(fact))).collect();
    let state = if header.missing.is_empty() && !summary.readings.is_empty() { "complete" } else { "partial" };
    let links: String = summary
        .sections
        .iter()
        .map(|section| format!("<a href=\"#{}\">{}</a>", text(&section.anchor), text(&section.title)))
        .collect();
    let cards: String = summary.cards.iter().map(card).collect();
    let cards = if cards.is_empty() {
        cards
    } else {
        format!("<ul class=\"cards\" aria-label=\"Mixture-of-Mamba against dense\">{cards}</ul>\n")
    };
    let sections: String = summary.sections.iter().map(section).collect();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n\
         <style>\n{STYLE}{dark}</style>\n</head>\n\
         <body>\n<header>\n<h1>{title}</h1>\n<p class=\"facts\"><strong class=\"{state}\">{done}</strong>{facts}</p>\n\
         <nav aria-label=\"Contents\">{links}\
         {to_samples}<a href=\"#definitions\">Definitions</a><a href=\"#origin\">How it was made</a></nav>\n\
         </header>\n<main>\n{cards}{reading}{missing}{sections}{samples}{definitions}{origin}</main>\n</body>\n</html>\n",
        dark = dark_plots(),
        done = text(&summary.done),
        to_samples = if galleries.is_empty() { "" } else { "<a href=\"#samples\">Samples</a>" },
        reading = reading(summary),
        missing = missing(&header.missing),
        samples = gallery::render(galleries),
        definitions = definitions(),
        origin = origin(summary),
    )
}

fn card(card: &Card) -> String {
    let class = match card.verdict {
        Verdict::Better => "better",
        Verdict::Worse => "worse",
        Verdict::NotToldApart | Verdict::Null | Verdict::None => "mixed",
    };
    let details: String = card.details.iter().map(|detail| format!("<span>{}</span>", text(detail))).collect();
    format!(
        "<li class=\"card {class}\"><h2>{}</h2><p class=\"value\">{}</p>\
         <p class=\"meaning\">{}</p><p class=\"details\">{details}</p></li>\n",
        text(&card.title),
        text(&card.value),
        text(card.meaning)
    )
}

fn reading(summary: &Summary) -> String {
    let mut html = String::from("<section id=\"reading\">\n<h2>Reading</h2>\n");
    if summary.readings.is_empty() {
        html.push_str("<p>No run is done yet.</p>\n");
    }
    html.push_str("<div class=\"readings\">\n");
    for reading in &summary.readings {
        let sentences: String =
            reading.sentences.iter().map(|sentence| format!("<li>{}</li>\n", statement(sentence))).collect();
        html.push_str(&format!("<div><h3>{}</h3>\n<ul>\n{sentences}</ul></div>\n", text(&reading.heading)));
    }
    html + "</div>\n</section>\n"
}

/// A sentence, with what stands before a first colon made strong: "Image: MoM ends ...".
fn statement(sentence: &str) -> String {
    match sentence.split_once(": ").filter(|(subject, _)| subject.chars().count() <= 32) {
        Some((subject, rest)) => format!("<strong>{}:</strong> {}", text(subject), text(rest)),
        None => text(sentence),
    }
}

fn missing(runs: &[String]) -> String {
    if runs.is_empty() {
        return String::new();
    }
    let items: String = runs.iter().map(|run| format!("<li>{}</li>", text(run))).collect();
    format!("<section id=\"missing\">\n<h2>Missing runs</h2>\n<ul class=\"missing\">{items}</ul>\n</section>\n")
}

fn section(section: &Section) -> String {
    let tables: Vec<String> = section.tables.iter().map(table).collect();
    let figures: String = section.figures.iter().map(figure).collect();
    // Results, then what they look like, then what they cost.
    let (results, others) = tables.split_first().map_or(("", &[][..]), |(first, others)| (first.as_str(), others));
    format!(
        "<section id=\"{}\">\n<h2>{} <small>scale {}</small></h2>\n{results}{figures}{}</section>\n",
        text(&section.anchor),
        text(&section.title),
        text(&section.scale),
        others.concat()
    )
}

fn table(table: &Table) -> String {
    let heads: String = table.columns.iter().map(|column| format!("<th scope=\"col\">{}</th>", text(column))).collect();
    let mut bodies = String::new();
    for (heading, rows) in &table.blocks {
        bodies.push_str("<tbody>\n");
        if let Some(heading) = heading {
            let width = table.columns.len();
            bodies.push_str(&format!(
                "<tr class=\"block\"><th scope=\"rowgroup\" colspan=\"{width}\"><span>{}</span></th></tr>\n",
                text(heading)
            ));
        }
        bodies.extend(rows.iter().map(row));
        bodies.push_str("</tbody>\n");
    }
    format!(
        "<h3>{title}</h3>\n<p class=\"note\">{note}</p>\n\
         <div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{title}\">\n\
         <table>\n<thead><tr>{heads}</tr></thead>\n{bodies}</table>\n</div>\n",
        title = text(table.title),
        note = text(&table.note),
    )
}

fn row(row: &Row) -> String {
    let class = match row.head.as_str() {
        order::MOM => " class=\"mom\"",
        name if order::is_yardstick(name) => " class=\"dense\"",
        _ => "",
    };
    let cells: String = row.cells.iter().map(|cell| format!("<td>{}</td>", text(cell))).collect();
    format!("<tr{class}><th scope=\"row\">{}</th>{cells}</tr>\n", text(&row.head))
}

fn figure(figure: &Figure) -> String {
    let panels: String = figure.panels.iter().map(panel).collect();
    format!(
        "<h3>{}</h3>\n<figure>\n<div class=\"panels\">\n{panels}</div>\n<figcaption>{}</figcaption>\n</figure>\n",
        text(figure.title),
        text(&figure.caption)
    )
}

/// A plot as part of the page, with its description for screen readers.
fn panel(panel: &Panel) -> String {
    panel.svg.replacen("<svg ", &format!("<svg role=\"img\" aria-label=\"{}\" ", text(&panel.alt)), 1)
}

/// On dark pages every colour of the plots gives way to its twin; the SVG files themselves stay as they are.
fn dark_plots() -> String {
    let rules: String = plot::dark_colours()
        .map(|(light, dark)| {
            format!(
                "figure [fill=\"{light}\"] {{ fill: {dark}; }}\n\
                 figure [stroke=\"{light}\"] {{ stroke: {dark}; }}\n"
            )
        })
        .collect();
    format!("@media screen and (prefers-color-scheme: dark) {{\n{rules}}}\n")
}

fn definitions() -> String {
    let items: String = DEFINITIONS
        .iter()
        .map(|(term, meaning)| format!("<div><dt>{}</dt><dd>{}</dd></div>\n", text(term), text(meaning)))
        .collect();
    format!("<section id=\"definitions\">\n<h2>Definitions</h2>\n<dl>\n{items}</dl>\n</section>\n")
}

fn origin(summary: &Summary) -> String {
    let header = summary.header;
    let item = |(name, value): (&str, &str)| format!("<div><dt>{}</dt><dd>{}</dd></div>\n", text(name), text(value));
    let facts: String = summary.origin.iter().map(|(name, value)| item((name, value))).collect();
    let notes: String = header.notes.iter().map(|note| format!("<li>{}</li>\n", text(note))).collect();
    let notes = if notes.is_empty() { notes } else { format!("<ul>\n{notes}</ul>\n") };
    let config: String = header.config.iter().map(|(name, value)| item((name, value))).collect();
    let config = if config.is_empty() {
        config
    } else {
        format!("<h3>Configuration</h3>\n<dl class=\"short\">\n{config}</dl>\n")
    };
    format!(
        "<section id=\"origin\">\n<h2>How it was made</h2>\n<pre><code>{}</code></pre>\n<dl class=\"short\">\n{facts}</dl>\n\
         {notes}{config}</section>\n",
        text(&header.command)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_lead_with_their_subject() {
        assert_eq!(statement("Image: MoM <ends>"), "<strong>Image:</strong> MoM &lt;ends&gt;");
        assert_eq!(statement("No dense run."), "No dense run.");
    }
}
