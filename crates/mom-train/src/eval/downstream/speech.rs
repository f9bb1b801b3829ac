//! Which words are heard where captions are spoken.

use mom_data::scenes::truth::{Origin, edits, spoken_words};
use rayon::prelude::*;

use super::truth::{of_prompts, text_of};
use super::{drawn, task};
use crate::samples::Prompt;
use crate::telemetry::{Figure, WORD_ERROR_RATE};
use crate::{GenerateOptions, Generator, Part, Prepared, Result};

/// Units of an utterance, at most: longer than any of a caption, which takes some seven seconds.
const MAX_UNITS: usize = 256;
/// Word error rate of the documents' own speech from which on the reader is of no use for it.
const UNREADABLE: f64 = 0.5;

/// The word error rate of speech that is drawn for captions; or why there is none. Beside it stands what the same reader makes of the
/// documents' own speech as the model's tokenizers give it back.
pub(super) fn figures(
    prepared: &Prepared,
    generator: &Generator,
    prompts: &[Prompt],
) -> Result<std::result::Result<Vec<Figure>, String>> {
    let known = match of_prompts(&Origin::default(), generator, prompts, "words", |prompt| &prompt.content)? {
        Ok(known) => known,
        Err(why) => return Ok(Err(why)),
    };
    let Ok(codebook) = generator.tokenizers().speech_codebook() else {
        return Ok(Err("no words, since they are read from units of this program's own codebook alone".to_owned()));
    };
    let reader = prepared.reader_of_speech()?;
    let read = |parts: Vec<Part>| {
        let words = |part: &Part| match part {
            Part::Speech(wave) => Ok(reader.read(&codebook.encode(wave))?),
            Part::Text(_) | Part::Image(_) | Part::Units(_) => Ok(Vec::new()),
        };
        parts.par_iter().map(words).collect::<Result<Vec<Vec<&str>>>>()
    };
    let texts = known.iter().map(|(prompt, ..)| text_of(generator, &prompt.content)).collect::<Result<Vec<_>>>()?;
    let own = read(known.iter().map(|(prompt, ..)| generator.part(&prompt.truth)).collect::<Result<_>>()?)?;
    let rate = |read: &[Vec<&str>], of: &dyn Fn(usize) -> usize| {
        let truth = |i: usize| spoken_words(&texts[of(i) % texts.len()]);
        let wrong: usize = read.iter().enumerate().map(|(i, words)| edits(words, &truth(i))).sum();
        let n: usize = (0..read.len()).map(|i| truth(i).len()).sum();
        (wrong as f64 / n.max(1) as f64, n)
    };
    let (ceiling, n) = rate(&own, &|i| i);
    if ceiling >= UNREADABLE {
        let percent = 100.0 * ceiling;
        return Ok(Err(format!("no words, since of the documents' own speech {percent:.0} % are read wrongly")));
    }
    let asked: Vec<&Prompt> = known.iter().map(|(prompt, ..)| *prompt).collect();
    let options = GenerateOptions { max_tokens: MAX_UNITS, ..GenerateOptions::default() };
    let drawn = read(drawn(generator, &asked, options)?)?;
    Ok(Ok(vec![Figure {
        task: task(prompts[0].given, prompts[0].wanted),
        measure: WORD_ERROR_RATE.to_owned(),
        value: rate(&drawn, &|i| i).0,
        documents: Some(known.len()),
        n,
        ceiling: Some(ceiling),
        chance: Some(rate(&drawn, &|i| i + 1).0),
    }]))
}
