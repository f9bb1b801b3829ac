//! From pictures with captions in a folder to a trained model that draws, through the library alone.
//!
//! The folder holds pairs: `NAME.png` (or .jpg, .webp, ...) beside `NAME.txt`. Without a folder the program makes some of coloured
//! shapes. It trains a tiny model, which then draws a picture to a caption, and writes a caption to that picture.
//!
//! `cargo run --release -p mom-train --example own_pairs [FOLDER]`: half a minute on two cores.

use std::error::Error;
use std::path::{Path, PathBuf};

use mom_data::{encode, scenes};
use mom_models::decode::Sampling;
use mom_train::{DeviceKind, GenerateOptions, Generator, Prepared, RunConfig, run};

/// Tells how the run goes on.
struct Told;

impl run::Observer for Told {
    fn validated(&mut self, step: u64, losses: &std::collections::BTreeMap<String, f64>) {
        println!("step {step:3}: {losses:.3?}");
    }

    fn note(&mut self, text: &str) {
        println!("note: {text}");
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let out = tempfile::tempdir()?;
    let pairs = match std::env::args_os().nth(1) {
        Some(folder) => PathBuf::from(folder),
        None => make_pairs(&out.path().join("pairs"), 300)?,
    };

    // A run is a configuration, as in a file of `cargo xtask train`; `key=value` overrides it. Paths may hold any character.
    let text = r#"
        model = { setting = "chameleon", variant = "mom", scale = "tiny" }
        data = { batch = 2, seqlen = 512, tokenizers = { text = { vocab_size = 320 }, image = { codes = 64 } } }
        train = { steps = 400, eval_every = 100, checkpoint_every = 400 }
        optimizer = { learning_rate = 5e-3, warmup_steps = 20 }
        "#;
    let config = RunConfig::from_toml(text, &[format!("data.shards={}", pairs.display())])?;

    // Reads the pairs, fits the tokenizers to them and tokenises them, once: a second call finds all of it there.
    let folder = out.path().join("run");
    let prepared = Prepared::new(&config, &Prepared::folder_of(&config, &folder), |_| {})?;
    for (source, tally) in &prepared.dataset.tallies {
        println!("{source}: {tally}");
    }
    let result = run::train(&config, &folder, &prepared, &mut Told)?;
    println!("{} weights, {} positions, {:.0} s", result.total_parameters, result.tokens, result.wall_secs);

    // The folder holds all that a model needs: it can be opened anywhere.
    let generator = Generator::open(&folder, DeviceKind::Cpu, None)?;
    let options =
        GenerateOptions { sampling: Sampling { temperature: 0.7, ..Sampling::default() }, ..Default::default() };
    let mut draft = generator.draft(&options)?;
    draft.push_text("a red star above two blue rings.")?;
    let picture = draft.draw_image()?;
    let file = Path::new("own_pairs.png");
    std::fs::write(file, encode::png(&picture)?)?;
    println!("a picture to a caption: {}", file.display());
    let mut draft = generator.draft(&options)?;
    draft.push_image(&picture)?;
    println!("a caption to that picture: {}", draft.draw_text()?.trim());
    Ok(())
}

/// Pictures of the project's generator, as a person would keep them.
fn make_pairs(folder: &Path, n: u64) -> Result<PathBuf, Box<dyn Error>> {
    std::fs::create_dir_all(folder)?;
    for index in 0..n {
        let document = scenes::document(1, index, &scenes::SceneConfig::default());
        std::fs::write(folder.join(format!("{index:04}.png")), encode::png(&document.image)?)?;
        std::fs::write(folder.join(format!("{index:04}.txt")), document.caption)?;
    }
    Ok(folder.to_path_buf())
}
