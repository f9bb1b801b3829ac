//! What is true of a document.

use mom_data::scenes::truth::{Facts, Origin, read_caption};

use crate::samples::Prompt;
use crate::{Generator, Part, Result};

/// A text of a document.
pub(super) fn text_of(generator: &Generator, content: &mom_data::Content) -> Result<String> {
    Ok(match generator.part(content)? {
        Part::Text(text) => text,
        Part::Image(_) | Part::Speech(_) => String::new(),
    })
}

/// Prompts whose caption is one of a scene, with what is true of the scene: all that it holds where it can be made again, else what its
/// caption says. `caption`: of a prompt, the part that is it.
pub(super) fn of_prompts<'a>(
    scenes: &Origin,
    generator: &Generator,
    prompts: &'a [Prompt],
    caption: fn(&Prompt) -> &mom_data::Content,
) -> Result<Vec<(&'a Prompt, Facts, Facts)>> {
    let mut known = Vec::new();
    for prompt in prompts {
        let text = text_of(generator, caption(prompt))?;
        let reading = read_caption(&text);
        if reading.is_whole() {
            let truth = scenes.scene(&prompt.key, &text).map(|scene| Facts::of_scene(&scene));
            known.push((prompt, reading.facts.clone(), truth.unwrap_or(reading.facts)));
        }
    }
    Ok(known)
}

/// Why there are no figures of attributes, of fewer than two documents.
pub(super) const UNKNOWN: &str =
    "no attributes, since fewer than two captions of these data are those of generated scenes";
