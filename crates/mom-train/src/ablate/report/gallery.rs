//! What the models of one setting drew for the same prompts, side by side.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::escape::text;

/// What the models of one setting drew for the same prompts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gallery {
    /// "transfusion", "chameleon" or "three-modality".
    pub setting: String,
    /// Seed of the runs.
    pub seed: u64,
    /// Names of the variants.
    pub variants: Vec<String>,
    /// One for each prompt.
    pub rows: Vec<GalleryRow>,
}

/// One prompt, what the document has behind it, and what each variant drew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GalleryRow {
    /// What the models were given.
    pub prompt: Exhibit,
    /// What the document has.
    pub truth: Exhibit,
    /// In the order of the variants.
    pub drawn: Vec<Option<Exhibit>>,
}

/// Something to be read, looked at or listened to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exhibit {
    /// Text.
    Text(String),
    /// A PNG file.
    Image(Vec<u8>),
    /// A WAV file.
    Speech(Vec<u8>),
}

/// A section of the page; nothing without samples.
pub(super) fn render(galleries: &[Gallery]) -> String {
    if galleries.is_empty() {
        return String::new();
    }
    let tables: String = galleries.iter().map(table).collect();
    format!(
        "<section id=\"samples\">\n<h2>Samples</h2>\n<p class=\"note\">The first few held-out documents: what every model was given, what the \
         document has, and what each model drew, with the same seeds. They were not chosen.</p>\n{tables}</section>\n"
    )
}

fn table(gallery: &Gallery) -> String {
    let heads = ["given", "the document's own"].into_iter().chain(gallery.variants.iter().map(String::as_str));
    let heads: String = heads.map(|head| format!("<th scope=\"col\">{}</th>", text(head))).collect();
    let rows: String = gallery.rows.iter().map(row).collect();
    let title = text(&format!("{}, seed {}", gallery.setting, gallery.seed));
    format!(
        "<h3>{title}</h3>\n<div class=\"scroll samples\" tabindex=\"0\" role=\"region\" aria-label=\"Samples of {title}\">\n\
         <table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}</tbody></table>\n</div>\n"
    )
}

fn row(row: &GalleryRow) -> String {
    let drawn = row.drawn.iter().map(|drawn| drawn.as_ref().map(cell).unwrap_or_default());
    let cells = [cell(&row.prompt), cell(&row.truth)].into_iter().chain(drawn);
    let cells: String = cells.map(|cell| format!("<td>{cell}</td>")).collect();
    format!("<tr>{cells}</tr>\n")
}

fn cell(exhibit: &Exhibit) -> String {
    match exhibit {
        Exhibit::Text(plain) => format!("<q>{}</q>", text(plain)),
        Exhibit::Image(png) => {
            format!("<img alt=\"a picture\" src=\"data:image/png;base64,{}\">", STANDARD.encode(png))
        }
        Exhibit::Speech(wav) => {
            format!("<audio controls preload=\"none\" src=\"data:audio/wav;base64,{}\"></audio>", STANDARD.encode(wav))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_stands_in_the_page() {
        let gallery = Gallery {
            setting: "three-modality".to_owned(),
            seed: 3,
            variants: vec!["dense".to_owned(), "mom".to_owned()],
            rows: vec![GalleryRow {
                prompt: Exhibit::Text("a <red> star".to_owned()),
                truth: Exhibit::Image(b"png".to_vec()),
                drawn: vec![Some(Exhibit::Speech(b"wav".to_vec())), None],
            }],
        };
        let html = render(&[gallery]);
        for part in [
            "three-modality, seed 3",
            "<th scope=\"col\">mom</th>",
            "<q>a &lt;red&gt; star</q>",
            "data:image/png;base64,cG5n",
            "data:audio/wav;base64,d2F2",
            "<td></td>",
        ] {
            assert!(html.contains(part), "{part}: {html}");
        }
        assert!(render(&[]).is_empty());
    }
}
