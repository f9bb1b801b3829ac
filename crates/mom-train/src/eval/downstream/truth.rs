//! What is true of a document.

use mom_data::scenes::truth::{Facts, Origin, read_caption};

use crate::config::CANDIDATES;
use crate::samples::Prompt;
use crate::{Generator, Part, Result};

/// A text of a document.
pub(super) fn text_of(generator: &Generator, content: &mom_data::Content) -> Result<String> {
    Ok(match generator.part(content)? {
        Part::Text(text) => text,
        Part::Image(_) | Part::Speech(_) | Part::Units(_) => String::new(),
    })
}

/// A prompt with what its caption says, and what is true.
pub(super) type Known<'a> = (&'a Prompt, Facts, Facts);

/// Prompts whose caption is read as one of a scene of the small world, with what is true of the scene: all that it holds where it can be made again, else what its
/// caption says. `caption`: of a prompt, the part that is it. Or why there are none: a caption of other data may be read by chance ("a star."), so
/// that half of all, and [`CANDIDATES`], have to be. `what`: what they are asked for, in words.
pub(super) fn of_prompts<'a>(
    scenes: &Origin,
    generator: &Generator,
    prompts: &'a [Prompt],
    what: &str,
    caption: fn(&Prompt) -> &mom_data::Content,
) -> Result<std::result::Result<Vec<Known<'a>>, String>> {
    let mut known = Vec::new();
    for prompt in prompts {
        let text = text_of(generator, caption(prompt))?;
        let reading = read_caption(&text);
        if reading.is_whole() {
            let truth = scenes.scene(&prompt.key, &text).map(|scene| Facts::of_scene(&scene));
            known.push((prompt, reading.facts.clone(), truth.unwrap_or(reading.facts)));
        }
    }
    let (n, least) = (known.len(), CANDIDATES.max(prompts.len().div_ceil(2)));
    Ok(if n >= least {
        Ok(known)
    } else {
        Err(format!(
            "no {what}, since {n} of {} captions can be read as those of the generator's small world; at least {least} have to be",
            prompts.len()
        ))
    })
}
