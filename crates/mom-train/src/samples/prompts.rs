//! Prompts from held-out documents.

use mom_data::readers::PartOrder;
use mom_data::{CodeKind, Content, Modality, Tokenizers};

use super::pairs;
use crate::{Prepared, Result, RunConfig};

/// Documents that are looked at, at most.
const LOOKED_AT: u64 = 4096;

/// A part of a held-out document, and the part that the model is to make of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Prompt {
    pub key: String,
    pub given: Modality,
    pub wanted: Modality,
    pub content: Content,
    pub truth: Content,
}

/// The first held-out documents that have what a setting makes of each other, `each` for every pair of modalities at most: the same
/// in every run over the same data.
/// What cannot be shown ([`unshown`]) gives none.
///
/// # Errors
/// Documents that cannot be read.
pub(crate) fn prompts_of(config: &RunConfig, prepared: &Prepared, each: usize) -> Result<Vec<Prompt>> {
    let can_be_shown = |modality: Modality| why_not_shown(&prepared.tokenizers, modality).is_none();
    let pairs = pairs(config.model.setting).iter().copied();
    let pairs: Vec<_> = pairs.filter(|&(given, wanted)| can_be_shown(given) && can_be_shown(wanted)).collect();
    let mut of_pair = vec![Vec::new(); pairs.len()];
    let documents = &prepared.dataset.held_out;
    for index in 0..documents.len().min(LOOKED_AT) {
        if of_pair.iter().all(|prompts| prompts.len() == each) {
            break;
        }
        let document = documents.document(index)?;
        if document.order != PartOrder::Free {
            continue;
        }
        let part = |modality| document.parts.iter().find(|part| modality_of(part) == modality);
        for (&(given, wanted), prompts) in pairs.iter().zip(&mut of_pair) {
            if let (Some(content), Some(truth)) = (part(given), part(wanted))
                && prompts.len() < each
            {
                let (content, truth) = (content.clone(), truth.clone());
                prompts.push(Prompt { key: document.key.clone(), given, wanted, content, truth });
            }
        }
    }
    Ok(of_pair.into_iter().flatten().collect())
}

/// Which modalities of a setting nobody can look at or listen to, and why: other programs made their tokens, or weights are absent.
pub(crate) fn unshown(config: &RunConfig, prepared: &Prepared) -> Vec<String> {
    let pairs = pairs(config.model.setting).iter();
    let all: std::collections::BTreeSet<Modality> = pairs.flat_map(|&(given, wanted)| [given, wanted]).collect();
    let why = |modality: Modality| {
        let why = why_not_shown(&prepared.tokenizers, modality)?;
        Some(format!("{}: {why}", modality.name()))
    };
    all.into_iter().filter_map(why).collect()
}

fn why_not_shown(tokenizers: &Tokenizers, modality: Modality) -> Option<String> {
    let of_other_programs = |kind| (kind == CodeKind::Precomputed).then(|| "its tokens were made before".to_owned());
    match modality {
        Modality::Text => of_other_programs(tokenizers.config().text.kind),
        // Of data without a picture there is nothing to tell.
        Modality::Image if tokenizers.config().image.kind == CodeKind::Fitted => None,
        Modality::Image => tokenizers.check_pictures().err().map(|error| error.to_string()),
        Modality::Speech if tokenizers.config().speech.kind == CodeKind::Fitted => None,
        Modality::Speech => tokenizers.has_voice().err().map(|error| error.to_string()),
    }
}

fn modality_of(content: &Content) -> Modality {
    match content {
        Content::Text(_) => Modality::Text,
        Content::ImageCodes(_) | Content::Pixels(_) | Content::Patches(_) => Modality::Image,
        Content::Speech(_) => Modality::Speech,
    }
}
