//! What drawn pictures show of their captions.

use mom_data::RgbImage;
use mom_data::scenes::truth::{Facts, Judged, Origin, judge, read_picture};
use rayon::prelude::*;

use super::figure::of_judged;
use super::truth::of_prompts;
use super::{drawn, task};
use crate::error;
use crate::samples::Prompt;
use crate::telemetry::Figure;
use crate::{GenerateOptions, Generator, Part, Result};

/// Diffusion steps of a picture.
const STEPS: u32 = 100;

/// Figures of pictures that are drawn for captions; or why there are none. Beside each stands what the same reader makes of the
/// documents' own pictures as the model's tokenizers give them back.
pub(super) fn figures(generator: &Generator, prompts: &[Prompt]) -> Result<std::result::Result<Vec<Figure>, String>> {
    let known = match of_prompts(&Origin::default(), generator, prompts, "attributes", |prompt| &prompt.content)? {
        Ok(known) => known,
        Err(why) => return Ok(Err(why)),
    };
    let task = task(prompts[0].given, prompts[0].wanted);
    let asked: Vec<&Prompt> = known.iter().map(|(prompt, ..)| *prompt).collect();
    let own = known.iter().map(|(prompt, ..)| generator.part(&prompt.truth)).collect::<Result<Vec<_>>>()?;
    let drawn = drawn(generator, &asked, GenerateOptions { n_steps: STEPS, ..GenerateOptions::default() })?;
    let (drawn, own) = (images(drawn)?, images(own)?);
    let [drawn, own] = [&drawn, &own].map(|images| images.par_iter().map(read_picture).collect::<Vec<Facts>>());
    let [mut of_drawn, mut of_own, mut of_others] = [Judged::default(); 3];
    for (i, (_, said, _)) in known.iter().enumerate() {
        of_drawn += judge(said, &drawn[i]);
        of_own += judge(said, &own[i]);
        of_others += judge(said, &drawn[(i + 1) % drawn.len()]);
    }
    Ok(Ok(of_judged(&task, known.len(), &of_drawn, &of_own, &of_others)))
}

/// One for each part: figures are paired by place.
fn images(parts: Vec<Part>) -> Result<Vec<RgbImage>> {
    let image = |part| match part {
        Part::Image(image) => Ok(image),
        Part::Text(_) | Part::Speech(_) | Part::Units(_) => {
            Err(error::config("downstream", "a picture of each document", "another part"))
        }
    };
    parts.into_iter().map(image).collect()
}
