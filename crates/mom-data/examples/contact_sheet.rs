//! Writes a contact sheet of generated scenes, their captions and one utterance:
//!
//! `cargo run --release -p mom-data --example contact_sheet -- [folder] [first document] [image size] [small | large]`

use std::error::Error;
use std::fs;
use std::path::PathBuf;

use mom_data::scenes::{self, SceneConfig, World};
use mom_data::{RgbImage, encode};

const COLUMNS: usize = 8;
const ROWS: usize = 6;
/// Side of an enlarged image, at least.
const SIDE: usize = 128;
const GAP: usize = 6;
const SEED: u64 = 0;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().map_or_else(|| std::env::temp_dir().join("mom-data-contact-sheet"), PathBuf::from);
    let first: u64 = arguments.next().map_or(Ok(0), |text| text.parse())?;
    fs::create_dir_all(&folder)?;

    let image_size: usize = arguments.next().map_or(Ok(32), |text| text.parse())?;
    let world: World = arguments.next().map_or(Ok(World::Small), |text| text.parse())?;
    let config = SceneConfig { image_size, world, ..SceneConfig::default() };
    config.validate()?;
    let documents: Vec<_> = (0..(COLUMNS * ROWS) as u64).map(|i| scenes::document(SEED, first + i, &config)).collect();
    let images: Vec<&RgbImage> = documents.iter().map(|document| &document.image).collect();
    fs::write(folder.join("scenes.png"), encode::png(&sheet(&images, config.image_size))?)?;
    let captions: Vec<String> = documents.iter().map(|document| document.caption.clone() + "\n").collect();
    fs::write(folder.join("captions.txt"), captions.concat())?;
    let voices: Vec<RgbImage> = documents.iter().take(6).map(|document| spectrogram(&document.speech)).collect();
    fs::write(folder.join("speech.png"), encode::png(&stack(&voices))?)?;
    fs::write(folder.join("speech.wav"), encode::wav(&documents[0].speech, config.sample_rate)?)?;
    print!("{}", captions.concat());

    println!("written to {}", folder.display());
    Ok(())
}

/// Images side by side, enlarged, with grey between them.
fn sheet(images: &[&RgbImage], size: usize) -> RgbImage {
    let scale = SIDE.div_ceil(size);
    let cell = size * scale + GAP;
    let mut sheet = RgbImage::new(COLUMNS * cell + GAP, ROWS * cell + GAP);
    sheet.pixels.fill(128);
    for (index, image) in images.iter().enumerate() {
        let (left, top) = (index % COLUMNS * cell + GAP, index / COLUMNS * cell + GAP);
        for y in 0..size * scale {
            for x in 0..size * scale {
                let at = ((top + y) * sheet.width + left + x) * 3;
                sheet.pixels[at..at + 3].copy_from_slice(&image.pixel(x / scale, y / scale));
            }
        }
    }
    sheet
}

/// Time to the right, frequency up to the Nyquist frequency: decibels as brightness, over windows of 25 ms at 8 kHz.
fn spectrogram(wave: &[f32]) -> RgbImage {
    const WINDOW: usize = 200;
    const HOP: usize = 24;
    const BINS: usize = 128;
    let n_frames = wave.len().saturating_sub(WINDOW) / HOP;
    let mut image = RgbImage::new(n_frames, BINS);
    for frame in 0..n_frames {
        let piece = &wave[frame * HOP..][..WINDOW];
        for bin in 0..BINS {
            let step = std::f32::consts::PI * bin as f32 / BINS as f32;
            let (mut re, mut im) = (0.0f32, 0.0f32);
            for (i, value) in piece.iter().enumerate() {
                let hann = 0.5 - 0.5 * (std::f32::consts::TAU * i as f32 / WINDOW as f32).cos();
                let (sin, cos) = (step * i as f32).sin_cos();
                re += value * hann * cos;
                im += value * hann * sin;
            }
            let decibels = 10.0 * (re * re + im * im + 1e-6).log10();
            let shade = ((decibels + 35.0) * 4.2).clamp(0.0, 255.0) as u8;
            let at = ((BINS - 1 - bin) * n_frames + frame) * 3;
            image.pixels[at..at + 3].fill(shade);
        }
    }
    image
}

/// Images below each other, on white.
fn stack(images: &[RgbImage]) -> RgbImage {
    let width = images.iter().map(|image| image.width).max().unwrap_or(1);
    let height = images.iter().map(|image| image.height + GAP).sum();
    let mut out = RgbImage::new(width, height);
    out.pixels.fill(255);
    let mut top = 0;
    for image in images {
        for y in 0..image.height {
            let row = &image.pixels[y * image.width * 3..][..image.width * 3];
            out.pixels[(top + y) * width * 3..][..row.len()].copy_from_slice(row);
        }
        top += image.height + GAP;
    }
    out
}
