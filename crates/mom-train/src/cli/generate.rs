//! `generate`.

use anyhow::{Context, Result};
use mom_models::decode::Sampling;
use mom_train::{GenerateOptions, Generator};

use super::arguments::GenerateArguments;
use super::output::say;

/// Generates an image or a caption.
pub fn generate(arguments: &GenerateArguments) -> Result<()> {
    let sampling = Sampling { temperature: arguments.temperature, top_k: 0 };
    let options = GenerateOptions {
        seed: arguments.seed,
        sampling,
        n_steps: arguments.steps,
        guidance: arguments.guidance,
        ..GenerateOptions::default()
    };
    let dtype = arguments.dtype.as_deref().map(str::parse).transpose()?;
    let generator = Generator::open(&arguments.run, arguments.device.parse()?, dtype)?;
    if let (Some(caption), Some(out)) = (&arguments.caption, &arguments.out) {
        let png = mom_data::encode::png(&generator.image(caption, &options)?)?;
        mom_train::replace_file(out, &png)?;
    }
    if let Some(path) = &arguments.image {
        let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let image = mom_data::media::image::decode_square(&bytes, generator.image_size())
            .map_err(|skip| anyhow::anyhow!("{}: {skip}", path.display()))?;
        say!("{}", generator.caption(&image, &options)?)?;
    }
    Ok(())
}
