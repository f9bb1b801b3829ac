//! `generate`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use mom_data::Modality;
use mom_models::decode::Sampling;
use mom_train::{GenerateOptions, Generator, Part, PromptPart, draw, read_prompts};
use serde::Serialize;

use super::arguments::GenerateArguments;
use super::output::{aside, say};
use super::parts::{ending, modality, units_file, units_text};

/// Documents of a call.
const MAX_DOCUMENTS: usize = 1 << 20;

/// Goes on with documents.
pub fn generate(arguments: &GenerateArguments) -> Result<()> {
    // Everything that can be refused is, before a model is read.
    let options = options(arguments);
    options.validate()?;
    let then = arguments.then.iter().map(|name| modality(name)).collect::<Result<Vec<_>>>()?;
    let prompts = match &arguments.prompts {
        Some(path) => read_prompts(path)?,
        None => vec![arguments.prompt.iter().map(|part| PromptPart::parse(part)).collect()],
    };
    ensure!(arguments.samples > 0, "--samples must be at least 1, got 0");
    ensure!(arguments.batch > 0, "--batch must be at least 1, got 0");
    let n_documents = prompts.len().checked_mul(arguments.samples).filter(|&n| n <= MAX_DOCUMENTS);
    let n_documents = n_documents.with_context(|| {
        format!("--samples must be so many that all prompts' are at most {MAX_DOCUMENTS}, got {}", arguments.samples)
    })?;
    let files = Files::new(arguments.out.as_deref(), &then, n_documents, arguments.interactive)?;
    let dtype = arguments.dtype.as_deref().map(str::parse).transpose()?;
    let trained = super::trained(&arguments.model, arguments.ema, &arguments.set)?;
    let generator = Generator::new(&trained, arguments.device.parse()?, dtype)?;
    drop(trained);
    if (then.contains(&Modality::Speech) || arguments.interactive)
        && let Some(note) = generator.note_of_speech()
    {
        aside(note);
    }
    if arguments.interactive {
        return super::interactive::talk(&generator, &options, &prompts[0], arguments.out.as_deref());
    }
    let ids: Vec<(usize, usize)> =
        (0..prompts.len()).flat_map(|prompt| (0..arguments.samples).map(move |sample| (prompt, sample))).collect();
    for (i, ids) in ids.chunks(arguments.batch).enumerate() {
        let mut drafts = Vec::new();
        for &(prompt, sample) in ids {
            let seed = options.seed.wrapping_add(sample as u64);
            let mut draft = generator.draft(&GenerateOptions { seed, ..options })?;
            for part in &prompts[prompt] {
                draft.push(part)?;
            }
            drafts.push(draft);
        }
        let mut drawn = vec![Vec::new(); drafts.len()];
        for (at, &modality) in then.iter().enumerate() {
            for (j, part) in draw(&mut drafts, modality)?.into_iter().enumerate() {
                let document = i * arguments.batch + j;
                drawn[j].push(files.take(part, document, at, generator.sample_rate())?);
            }
        }
        for (&(prompt, sample), parts) in ids.iter().zip(&drawn) {
            match n_documents {
                1 => parts.iter().filter_map(|part| part.text.as_ref()).try_for_each(|text| say!("{text}"))?,
                _ => say!("{}", serde_json::to_string(&Line { prompt, sample, parts })?)?,
            }
        }
    }
    Ok(())
}

fn options(arguments: &GenerateArguments) -> GenerateOptions {
    let GenerateArguments { seed, temperature, top_k, top_p, .. } = *arguments;
    GenerateOptions {
        seed,
        sampling: Sampling { temperature, top_k, top_p },
        n_steps: arguments.steps,
        guidance: arguments.guidance,
        max_tokens: arguments.max_tokens,
    }
}

/// One of several documents: a line of the standard output.
#[derive(Serialize)]
struct Line<'a> {
    /// Index of the prompt, from 0.
    prompt: usize,
    /// Index of the document among those of its prompt.
    sample: usize,
    /// What was drawn, in order.
    parts: &'a [Written],
}

/// A part that was drawn: the text itself, or the file it lies in.
#[derive(Debug, Clone, Serialize)]
struct Written {
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    speech: Option<PathBuf>,
    /// Speech that cannot be heard.
    #[serde(skip_serializing_if = "Option::is_none")]
    units: Option<PathBuf>,
}

/// Where pictures and speech go.
enum Files<'a> {
    /// There are none.
    None,
    /// A single one goes to this file.
    One(&'a Path),
    /// Several go into this folder.
    Folder(&'a Path),
}

impl<'a> Files<'a> {
    fn new(out: Option<&'a Path>, then: &[Modality], n_documents: usize, interactive: bool) -> Result<Self> {
        let media: Vec<Modality> = then.iter().copied().filter(|&modality| modality != Modality::Text).collect();
        match (out, media.len() * n_documents) {
            (Some(out), _) if interactive => Ok(Self::Folder(out)),
            (None, 0) => Ok(Self::None),
            (None, _) => {
                anyhow::bail!("--then {} needs --out: a file, or a folder for several", media[0].name())
            }
            (Some(_), 0) => anyhow::bail!("--out is for pictures and speech, and --then is text"),
            (Some(out), 1) => {
                let ending = ending(media[0]);
                let fits = out.extension().is_some_and(|found| found.eq_ignore_ascii_case(ending));
                ensure!(fits, "--out must end in .{ending}, got {}", out.display());
                Ok(Self::One(out))
            }
            (Some(out), n) => {
                ensure!(!out.is_file(), "--out must be a folder for {n} files, and {} is a file", out.display());
                Ok(Self::Folder(out))
            }
        }
    }

    fn take(&self, part: Part, document: usize, at: usize, sample_rate: u32) -> Result<Written> {
        let mut written = Written { text: None, image: None, speech: None, units: None };
        let is_unheard = matches!(part, Part::Units(_));
        let (slot, bytes, ending) = match part {
            Part::Text(text) => return Ok(Written { text: Some(text), ..written }),
            Part::Image(image) => (&mut written.image, mom_data::encode::png(&image)?, ending(Modality::Image)),
            Part::Speech(wave) => {
                (&mut written.speech, mom_data::encode::wav(&wave, sample_rate)?, ending(Modality::Speech))
            }
            Part::Units(units) => (&mut written.units, units_text(&units).into_bytes(), ending(Modality::Speech)),
        };
        let path = match self {
            Self::None => anyhow::bail!("there is no file for what was drawn"),
            Self::One(path) => path.to_path_buf(),
            Self::Folder(folder) => {
                std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
                folder.join(format!("{document:04}-{at}.{ending}"))
            }
        };
        let path = if is_unheard { units_file(&path) } else { path };
        mom_train::replace_file(&path, &bytes)?;
        *slot = Some(path);
        Ok(written)
    }
}
