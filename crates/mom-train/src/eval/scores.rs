//! What a model draws for held-out documents, beside what they have.

use mom_data::Modality;
use mom_data::scenes::truth::edits;
use mom_models::decode::Sampling;
use serde::Serialize;

use super::measures::{chrf, matched};
use crate::error::require;
use crate::samples::{Prompt, prompts_of};
use crate::{Error, GenerateOptions, Generator, Part, Prepared, Result, RunConfig, draw};

/// Documents that go through the model together.
const BATCH: usize = 16;

/// Scores of one kind of prompt.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Score {
    /// Modality that was given.
    pub given: String,
    /// Modality that was drawn.
    pub drawn: String,
    /// Documents.
    pub n: usize,
    /// Of texts: the share that is the document's, letter by letter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exact: Option<f64>,
    /// Of texts: the character n-gram F-score chrF2 (Popovic 2015), on average; 1 is the document's text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chrf: Option<f64>,
    /// Of texts: wrong words over the words of the documents (word error rate).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub word_error_rate: Option<f64>,
    /// The share of other documents whose picture, speech or text is farther from what was drawn than the document's own, on
    /// average: by squared difference of pixels, by differing units, by chrF2. Chance is 0.5.
    pub matched: f64,
}

/// Draws for the first `n` held-out documents that have what is asked: the likeliest texts, pictures and speech by the default
/// sampling from seeds that count up.
///
/// # Errors
/// No document that has both; documents that cannot be read; what the model reports.
pub(super) fn scores(config: &RunConfig, prepared: &Prepared, generator: &Generator, n: usize) -> Result<Vec<Score>> {
    let prompts = prompts_of(config, prepared, n)?;
    // Nothing would be told, and nobody would know why.
    let expected = "0 for these data: no held-out document has two parts of which one can be drawn from the other";
    require(!prompts.is_empty(), "scores", expected, n)?;
    prompts
        .chunk_by(|a, b| (a.given, a.wanted) == (b.given, b.wanted))
        .map(|prompts| score(generator, prompts))
        .collect()
}

fn score(generator: &Generator, prompts: &[Prompt]) -> Result<Score> {
    let (given, wanted) = (prompts[0].given, prompts[0].wanted);
    let temperature = if wanted == Modality::Text { 0.0 } else { 1.0 };
    let sampling = Sampling { temperature, ..Sampling::default() };
    let (mut drawn, mut truths) = (Vec::new(), Vec::new());
    for (i, prompts) in prompts.chunks(BATCH).enumerate() {
        let mut drafts = Vec::new();
        for (j, prompt) in prompts.iter().enumerate() {
            let seed = (i * BATCH + j) as u64;
            let options = GenerateOptions { seed, sampling, n_steps: 100, ..GenerateOptions::default() };
            let mut draft = generator.draft(&options)?;
            draft.push_content(&prompt.content)?;
            drafts.push(draft);
            truths.push(generator.part(&prompt.truth)?);
        }
        drawn.extend(draw(&mut drafts, wanted)?);
    }
    let mut score = Score {
        given: given.name().to_owned(),
        drawn: wanted.name().to_owned(),
        n: prompts.len(),
        exact: None,
        chrf: None,
        word_error_rate: None,
        matched: f64::NAN,
    };
    let matched = match wanted {
        Modality::Text => {
            let (drawn, truths) = (texts(&drawn), texts(&truths));
            let n = truths.len() as f64;
            let pairs = || drawn.iter().zip(&truths);
            score.exact = Some(pairs().filter(|(a, b)| a.trim() == b.trim()).count() as f64 / n);
            score.chrf = Some(pairs().map(|(a, b)| chrf(a, b)).sum::<f64>() / n);
            let words = |text: &&&str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            let wrong: usize = pairs().map(|(a, b)| edits(&words(&a), &words(&b))).sum();
            let all: usize = truths.iter().map(|truth| words(&truth).len()).sum();
            score.word_error_rate = Some(wrong as f64 / all.max(1) as f64);
            matched(drawn.len(), |i, j| -chrf(drawn[i], truths[j]))
        }
        Modality::Image => matched(drawn.len(), |i, j| match (&drawn[i], &truths[j]) {
            (Part::Image(a), Part::Image(b)) => pixels_apart(&a.pixels, &b.pixels),
            _ => f64::NAN,
        }),
        Modality::Speech => {
            let units = |part: &Part| match part {
                Part::Speech(wave) => Ok(generator.tokenizers().encode_speech(wave)?),
                Part::Units(units) => Ok(units.clone()),
                Part::Text(_) | Part::Image(_) => Ok(Vec::new()),
            };
            let units = |parts: &[Part]| parts.iter().map(units).collect::<Result<Vec<_>>>();
            let (drawn, truths) = (units(&drawn)?, units(&truths)?);
            matched(drawn.len(), |i, j| edits(&drawn[i], &truths[j]) as f64 / truths[j].len().max(1) as f64)
        }
    };
    let few = || Error::Config { field: "scores", expected: "at least 2 documents".to_owned(), got: "1".to_owned() };
    score.matched = matched.ok_or_else(few)?;
    Ok(score)
}

fn texts(parts: &[Part]) -> Vec<&str> {
    parts
        .iter()
        .map(|part| match part {
            Part::Text(text) => text.as_str(),
            _ => "",
        })
        .collect()
}

/// Mean squared difference of values.
fn pixels_apart(a: &[u8], b: &[u8]) -> f64 {
    let sum: u64 = a.iter().zip(b).map(|(a, b)| u64::from(a.abs_diff(*b)).pow(2)).sum();
    sum as f64 / a.len().max(1) as f64
}
