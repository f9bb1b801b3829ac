//! What a data set of many samples costs a training process: time to start, memory, and time to wait.
//!
//! `cargo run --release -p mom-data --example size -- FOLDER SAMPLES` writes a token file of so many short documents and
//! prepares it; the same command again starts on what is there, as training does, and hands out batches of two epochs.

use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::time::Instant;

use mom_data::{CodeKind, Dataset, Forms, Loader, Needs, Order, SourceConfig, TextConfig, TokenizerConfig, Tokenizers};

const END: u16 = 50_256;

/// Highest memory of this process so far, in MB, where the system tells.
fn peak_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1e3
}

fn write(path: &PathBuf, samples: u64) -> std::io::Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    let mut state = 1u64;
    for _ in 0..samples {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        for i in 0..8 + (state >> 59) {
            out.write_all(&(((state >> (i % 40)) % 50_000) as u16).to_le_bytes())?;
        }
        out.write_all(&END.to_le_bytes())?;
    }
    out.flush()
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().ok_or("which folder?")?);
    let samples: u64 = arguments.next().ok_or("how many samples?")?.parse()?;
    std::fs::create_dir_all(&folder)?;
    let path = folder.join("tokens.bin");
    let made_before = path.is_file();
    if !made_before {
        let start = Instant::now();
        write(&path, samples)?;
        println!("{samples} samples written in {:.1} s", start.elapsed().as_secs_f64());
    }
    let sources = [SourceConfig::at(&path)];
    let text = TextConfig { kind: CodeKind::Precomputed, vocab_size: 50_257, tokenizer: None };
    let config = TokenizerConfig { text, ..TokenizerConfig::default() };

    let start = Instant::now();
    let tokenizers = Tokenizers::fit(&sources, &config, Needs::default(), |_| {})?;
    let data = Dataset::prepare(&sources, &tokenizers, &folder.join("tokens"), |_| {})?;
    println!(
        "{} + {} documents open after {:.2} s",
        data.train.len(),
        data.held_out.len(),
        start.elapsed().as_secs_f64()
    );
    let mut loader = Loader::new(data.train, Forms::default(), 8, 4096, Order::Shuffled { seed: 1 })?;
    println!("first batch can be made after {:.2} s, {:.0} MB", start.elapsed().as_secs_f64(), peak_mb());
    if !made_before {
        return Ok(());
    }
    let (mut n, mut longest) = (0u64, 0.0f64);
    let begun = Instant::now();
    while begun.elapsed().as_secs() < 60 {
        let wait = Instant::now();
        loader.next_batch()?;
        longest = longest.max(wait.elapsed().as_secs_f64());
        n += 1;
    }
    let secs = begun.elapsed().as_secs_f64();
    println!(
        "{n} batches of 8 x 4096, {:.2} million positions a second, longest wait {:.1} ms, {:.2} % padding, window {}",
        n as f64 * 32_768.0 / secs / 1e6,
        1e3 * longest,
        100.0 * loader.padding(),
        loader.position().window
    );
    // The last documents of this epoch and the first of the next.
    let mut position = loader.position();
    position.window = samples / 8192;
    position.sequence = 0;
    let seek = Instant::now();
    loader.seek(position)?;
    println!(
        "going to window {} took {:.1} ms; peak {:.0} MB",
        position.window,
        1e3 * seek.elapsed().as_secs_f64(),
        peak_mb()
    );
    Ok(())
}
