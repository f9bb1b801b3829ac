//! `generate`.

use std::ffi::OsStr;
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use mom_data::media::{audio, image};
use mom_models::decode::Sampling;
use mom_train::{GenerateOptions, Generator};

use super::arguments::GenerateArguments;
use super::output::say;

/// Goes on with a document.
pub fn generate(arguments: &GenerateArguments) -> Result<()> {
    let GenerateArguments { seed, temperature, top_k, top_p, .. } = *arguments;
    let options = GenerateOptions {
        seed,
        sampling: Sampling { temperature, top_k, top_p },
        n_steps: arguments.steps,
        guidance: arguments.guidance,
        max_tokens: arguments.max_tokens,
    };
    // Before a model is read.
    options.sampling.validate()?;
    if let Some(out) = &arguments.out {
        let is_png = out.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("png"));
        ensure!(arguments.then == "image", "--out is for a picture, and --then is {}", arguments.then);
        ensure!(is_png, "--out must end in .png, got {}", out.display());
    }
    let dtype = arguments.dtype.as_deref().map(str::parse).transpose()?;
    let generator = Generator::open(&arguments.model, arguments.device.parse()?, dtype)?;
    let mut draft = generator.draft(&options)?;
    for part in &arguments.prompt {
        match part.split_once(':') {
            Some(("image", path)) => {
                let skip = |skip| anyhow!("{path}: {skip}");
                draft.push_image(&image::decode_square(&read(path)?, generator.image_size()).map_err(skip)?)?;
            }
            Some(("speech", path)) => {
                let name = Path::new(path).file_name().map(OsStr::to_string_lossy).unwrap_or_default();
                let recording = audio::decode(&read(path)?, &name).map_err(|skip| anyhow!("{path}: {skip}"))?;
                draft.push_speech(&audio::resample(
                    &recording.mono,
                    recording.facts.sample_rate,
                    generator.sample_rate(),
                ))?;
            }
            Some(("text", text)) => draft.push_text(text)?,
            _ => draft.push_text(part)?,
        }
    }
    match &arguments.out {
        Some(out) => Ok(mom_train::replace_file(out, &mom_data::encode::png(&draft.draw_image()?)?)?),
        None => say!("{}", draft.draw_text()?),
    }
}

fn read(path: &str) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {path}"))
}
