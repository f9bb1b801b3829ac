//! Fits tokenizers to the training samples of all sources.

mod samples;

use samples::FitSamples;

use crate::needs::{ImageNeed, Needs, SpeechNeed};
use crate::source::{self, SourceConfig};
use crate::tokenizers::{CodeKind, ImageCodebook, SpeechCodebook, TextTokenizer, TokenizerConfig, Tokenizers};
use crate::{Progress, Result};

impl Tokenizers {
    /// Fits tokenizers to training samples of all sources: to as many as their sizes need, see
    /// [`TokenizerConfig::fit_samples`]. A tokenizer that is given or precomputed is not fitted.
    ///
    /// The same sources, configuration and needs give the same tokenizers, bit for bit. What a user should know of the
    /// outcome is in [`Self::notes`].
    ///
    /// # Errors
    /// [`crate::DataError::Config`] for an invalid configuration; [`crate::DataError::TextTokenizer`] if the user's tokenizer cannot be
    /// used; [`crate::DataError::Io`] and [`crate::DataError::Damaged`] for a source that cannot be read; [`crate::DataError::AllSkipped`] if no
    /// sample can be used.
    pub fn fit(
        sources: &[SourceConfig],
        config: &TokenizerConfig,
        needs: Needs,
        mut progress: impl FnMut(Progress<'_>),
    ) -> Result<Self> {
        config.validate()?;
        source::check(sources)?;
        let users_text = config.text.tokenizer.as_deref().map(TextTokenizer::load).transpose()?;
        let FitSamples { words, patches, frames, stretches, mel, .. } =
            FitSamples::read(sources, config, needs, &mut progress)?;
        let mut notes = Vec::new();
        let text = match (users_text, config.text.kind) {
            (Some(text), _) => text,
            (None, CodeKind::Precomputed) => TextTokenizer::precomputed(config.text.vocab_size as u32),
            (None, _) => {
                let text =
                    TextTokenizer::train(&words, config.text.vocab_size, &mut tell(&mut progress, "learning merges"))?;
                if (text.n_tokens() as usize) < config.text.vocab_size {
                    notes.push(format!(
                        "the text vocabulary has {} tokens instead of {}: no pair of tokens occurs twice any more in {} \
                         bytes of text",
                        text.n_tokens(),
                        config.text.vocab_size,
                        words.bytes
                    ));
                }
                text
            }
        };
        let mut image = None;
        if needs.image == ImageNeed::Codes && config.image.kind == CodeKind::Fitted {
            if patches.is_empty() {
                notes.push("no source has an image: there are no image codes".to_owned());
            } else {
                let (codebook, n_empty) = ImageCodebook::fit(
                    &patches,
                    &config.image,
                    config.seed,
                    &mut tell(&mut progress, "fitting image codes"),
                );
                notes.extend(unused("image codes", n_empty, config.image.codes));
                image = Some(codebook);
            }
        }
        let mut speech = None;
        if needs.speech == SpeechNeed::Units && config.speech.kind == CodeKind::Fitted {
            if frames.is_empty() {
                notes.push("no source has a recording: there are no speech units".to_owned());
            } else {
                let (codebook, n_empty) = SpeechCodebook::fit(
                    mel,
                    frames,
                    &stretches,
                    &config.speech,
                    config.seed,
                    &mut tell(&mut progress, "fitting speech units"),
                );
                notes.extend(unused("speech units", n_empty, config.speech.units));
                speech = Some(codebook);
            }
        }
        Self::assemble(config.clone(), needs, text, image, speech, notes)
    }
}

/// What a fit tells, under a name.
fn tell<'a>(progress: &'a mut impl FnMut(Progress<'_>), what: &'a str) -> impl FnMut(usize, usize) + 'a {
    move |done, total| progress(Progress { what, done: done as u64, total: total as u64 })
}

fn unused(what: &str, n_empty: usize, n: usize) -> Option<String> {
    (n_empty > 0).then(|| format!("{n_empty} of {n} {what} are nearest to nothing that they were fitted to"))
}
