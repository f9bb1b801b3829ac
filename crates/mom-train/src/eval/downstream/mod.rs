//! What a model can do with documents whose truth is known, rather than how well it predicts their tokens.
//!
//! | task | what is asked |
//! | --- | --- |
//! | `image-to-text`, `speech-to-text` | the likeliest caption: what of it is true of the scene |
//! | `text-to-image` | a picture: what of its caption it shows |
//! | `text-to-speech` | the caption spoken: which of its words are heard |
//! | `text-by-image`, `text-by-speech` | which of 16 captions belongs to a picture, to an utterance |
//!
//! ```text
//! truth (which documents, and what is true of them)  <-  captions, pictures, speech
//! figure  <-  captions, pictures, speech, retrieval  <-  mod
//! ```
//!
//! Attributes are those of generated scenes ([`mom_data::scenes::truth`]); of other data there are none. Retrieval needs
//! nothing but documents with a text beside a picture or an utterance. Documents, candidates and seeds are the same for every model of
//! one setting and data.

mod captions;
mod figure;
mod pictures;
mod retrieval;
mod speech;
mod truth;

use mom_data::{Modality, SourceConfig};

use crate::samples::{Prompt, prompts_of};
use crate::telemetry::{Downstream, Figure};
use crate::{Generator, Prepared, Result, RunConfig};

/// Asks a model about the first `n` held-out documents of each kind, at least [`CANDIDATES`](crate::config::CANDIDATES). `sources` are
/// those of the documents. Where nothing can be asked there are notes alone.
///
/// # Errors
/// Documents that cannot be read; what the model reports.
pub(crate) fn downstream(
    config: &RunConfig,
    sources: &[SourceConfig],
    prepared: &Prepared,
    generator: &Generator,
    n: usize,
) -> Result<Downstream> {
    let prompts = prompts_of(config, prepared, n)?;
    let mut figures = Vec::new();
    let mut notes = Vec::new();
    let scenes = mom_data::scenes::truth::Origin::of_sources(sources);
    for prompts in prompts.chunk_by(|a, b| (a.given, a.wanted) == (b.given, b.wanted)) {
        let (given, wanted) = (prompts[0].given, prompts[0].wanted);
        let mut take = |task: String, found: std::result::Result<Vec<Figure>, String>| match found {
            Ok(found) => figures.extend(found),
            Err(why) => notes.push(format!("{task}: {why}")),
        };
        match (given, wanted) {
            (_, Modality::Text) => {
                take(task(given, wanted), captions::figures(&scenes, generator, prompts)?);
                take(by(given), retrieval::figures(generator, prompts)?);
            }
            (Modality::Text, Modality::Image) => {
                take(task(given, wanted), pictures::figures(generator, prompts)?);
            }
            (Modality::Text, Modality::Speech) => {
                take(task(given, wanted), speech::figures(prepared, generator, prompts)?);
            }
            _ => {}
        }
    }
    if prompts.is_empty() {
        notes.push("no held-out document has a text beside a picture or speech that can be shown".to_owned());
    }
    Ok(Downstream { documents: n, figures, notes })
}

fn task(given: Modality, wanted: Modality) -> String {
    format!("{}-to-{}", given.name(), wanted.name())
}

fn by(given: Modality) -> String {
    format!("text-by-{}", given.name())
}

/// Documents that go through the model together.
const BATCH: usize = 16;

/// Draws what is wanted of prompts of one kind; seeds count up.
fn drawn(generator: &Generator, prompts: &[&Prompt], options: crate::GenerateOptions) -> Result<Vec<crate::Part>> {
    let mut parts = Vec::new();
    for (i, some) in prompts.chunks(BATCH).enumerate() {
        let mut drafts = Vec::new();
        for (j, prompt) in some.iter().enumerate() {
            let seed = (i * BATCH + j) as u64;
            let mut draft = generator.draft(&crate::GenerateOptions { seed, ..options })?;
            draft.push_content(&prompt.content)?;
            drafts.push(draft);
        }
        parts.extend(crate::draw(&mut drafts, some[0].wanted)?);
    }
    Ok(parts)
}
