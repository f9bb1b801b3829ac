//! `generate --interactive`: a document that a person and a model write together.

use std::io::{self, BufRead, IsTerminal};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use mom_data::Modality;
use mom_train::{Draft, GenerateOptions, Generator, Part, PromptPart};

use super::output::{aside, say};
use super::parts::{ending, modality, units_file, units_text};

const HELP: &str = "\
a line of text     is appended to the document, and the model goes on with text
/add PART          appends text, image:FILE or speech:FILE, and nothing is drawn
/text              the model goes on with text
/image [FILE]      the model draws a picture, into FILE or a new file in --out
/speech [FILE]     the model speaks, likewise
/undo              takes back what came last
/new               begins a new document
/quit              ends (as the end of the input does)";

/// Reads lines until there are no more. What goes wrong in one is told, and the document stays as it was.
pub fn talk(generator: &Generator, options: &GenerateOptions, prompt: &[PromptPart], out: Option<&Path>) -> Result<()> {
    let mut talk = Talk { generator, options: *options, out, n_files: 0, past: Vec::new() };
    let mut draft = generator.draft(options)?;
    for part in prompt {
        draft.push(part)?;
    }
    if io::stdin().is_terminal() {
        aside("/help shows what there is");
    }
    for line in io::stdin().lock().lines() {
        let line = line.context("cannot read the standard input")?;
        let before = draft.clone();
        match talk.line(&mut draft, &line) {
            Ok(Outcome::Quit) => break,
            Ok(Outcome::Undone) => {}
            Ok(Outcome::Done) => talk.past.push(before),
            Err(error) => {
                aside(&format!("{error:#}"));
                draft = before;
            }
        }
    }
    Ok(())
}

enum Outcome {
    Done,
    Undone,
    Quit,
}

struct Talk<'a> {
    generator: &'a Generator,
    options: GenerateOptions,
    out: Option<&'a Path>,
    n_files: usize,
    /// The document before each line.
    past: Vec<Draft<'a>>,
}

impl<'a> Talk<'a> {
    fn line(&mut self, draft: &mut Draft<'a>, line: &str) -> Result<Outcome> {
        let Some(command) = line.strip_prefix('/') else {
            draft.push_text(line)?;
            say!("{}", draft.draw_text()?)?;
            return Ok(Outcome::Done);
        };
        let (command, rest) = command.split_once(' ').unwrap_or((command, ""));
        match command {
            "quit" => return Ok(Outcome::Quit),
            "help" => {
                say!("{HELP}")?;
                return Ok(Outcome::Undone);
            }
            "undo" => {
                *draft = self.past.pop().context("there is nothing to take back")?;
                return Ok(Outcome::Undone);
            }
            "new" => *draft = self.generator.draft(&self.options)?,
            "add" => draft.push(&PromptPart::parse(rest))?,
            name => {
                let modality =
                    modality(name).with_context(|| format!("there is no /{name}; /help shows what there is"))?;
                let mut file = self.file(modality, rest)?;
                let bytes = match draft.draw(modality)? {
                    Part::Text(text) => {
                        say!("{text}")?;
                        return Ok(Outcome::Done);
                    }
                    Part::Image(image) => mom_data::encode::png(&image)?,
                    Part::Speech(wave) => mom_data::encode::wav(&wave, self.generator.sample_rate())?,
                    Part::Units(units) => {
                        file = file.map(|file| units_file(&file));
                        units_text(&units).into_bytes()
                    }
                };
                if let Some(file) = file {
                    mom_train::replace_file(&file, &bytes)?;
                    say!("{}", file.display())?;
                }
            }
        }
        Ok(Outcome::Done)
    }

    /// Where a part goes; nowhere for text.
    fn file(&mut self, modality: Modality, name: &str) -> Result<Option<PathBuf>> {
        if modality == Modality::Text {
            return Ok(None);
        }
        if !name.is_empty() {
            return Ok(Some(name.into()));
        }
        let out =
            self.out.with_context(|| format!("name a file: /{} FILE, or start with --out FOLDER", modality.name()))?;
        std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
        self.n_files += 1;
        Ok(Some(out.join(format!("{:04}.{}", self.n_files, ending(modality)))))
    }
}
