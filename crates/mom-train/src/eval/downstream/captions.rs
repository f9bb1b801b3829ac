//! What of drawn captions is true.

use mom_data::scenes::truth::{Judged, Origin, judge, read_caption};
use mom_models::decode::Sampling;

use super::figure::of_judged;
use super::truth::of_prompts;
use super::{drawn, task};
use crate::samples::Prompt;
use crate::telemetry::Figure;
use crate::{GenerateOptions, Generator, Part, Result};

/// Tokens of a caption, at most: longer than any of a scene.
const MAX_TOKENS: usize = 96;

/// Figures of the likeliest captions of pictures, or of utterances; or why there are none.
pub(super) fn figures(
    scenes: &Origin,
    generator: &Generator,
    prompts: &[Prompt],
) -> Result<std::result::Result<Vec<Figure>, String>> {
    let known = match of_prompts(scenes, generator, prompts, "attributes", |prompt| &prompt.truth)? {
        Ok(known) => known,
        Err(why) => return Ok(Err(why)),
    };
    let task = task(prompts[0].given, prompts[0].wanted);
    let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
    let options = GenerateOptions { sampling, max_tokens: MAX_TOKENS, ..GenerateOptions::default() };
    let asked: Vec<&Prompt> = known.iter().map(|(prompt, ..)| *prompt).collect();
    let [mut of_drawn, mut of_own, mut of_others] = [Judged::default(); 3];
    let mut n_whole = 0;
    for (i, part) in drawn(generator, &asked, options)?.into_iter().enumerate() {
        let text = if let Part::Text(text) = part { text } else { String::new() };
        let reading = read_caption(&text);
        let (_, own, truth) = &known[i];
        n_whole += usize::from(reading.is_whole());
        of_drawn += judge(&reading.facts, truth);
        of_own += judge(own, truth);
        of_others += judge(&reading.facts, &known[(i + 1) % known.len()].2);
    }
    let n = known.len();
    let figure = |measure: &str, value: f64, ceiling: f64| Figure {
        task: task.clone(),
        measure: measure.to_owned(),
        value,
        documents: Some(n),
        n,
        ceiling: Some(ceiling),
        chance: None,
    };
    let per_document = |judged: &Judged| judged.all().said as f64 / n as f64;
    let mut figures = of_judged(&task, n, &of_drawn, &of_own, &of_others);
    figures.push(figure("facts", per_document(&of_drawn), per_document(&of_own)));
    figures.push(figure("whole", n_whole as f64 / n as f64, 1.0));
    Ok(Ok(figures))
}
