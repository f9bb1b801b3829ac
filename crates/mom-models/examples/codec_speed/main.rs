//! How fast published codecs encode, with random weights at published sizes.
//!
//! `cargo run --release -p mom-models --example codec_speed -- [cuda] [bf16] [vqgan] [vae] [mimi] [hubert]`

mod sizes;

use std::io::Write as _;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use mom_models::Result;
use mom_models::codecs::{Hubert, Mimi, Settings, Vae, Vqgan, Weights};

/// Calls that are timed, behind one that is not.
const CALLS: usize = 5;

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let asked = |word: &str| arguments.iter().any(|argument| argument == word);
    let device = if asked("cuda") { mom_core::cuda_device(0)? } else { Device::Cpu };
    let dtype = if asked("bf16") { DType::BF16 } else { DType::F32 };
    // A CPU is asked for one picture, and for little sound.
    let (pictures, seconds) = if device.is_cpu() { (1, 4) } else { (16, 30) };
    let all = !sizes::NAMES.iter().any(|name| asked(name));
    for name in sizes::NAMES.into_iter().filter(|name| all || asked(name)) {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("model.safetensors");
        sizes::write(name, &path)?;
        let weights = Weights::open(&path)?;
        let settings = Settings::of(&weights)?;
        let random = |shape: &[usize]| Tensor::rand(-0.5f32, 0.5, shape, &device);
        let (per_call, unit) = match name {
            "vqgan" => {
                let codec = Vqgan::new(&weights, dtype, &device)?;
                let image = random(&[pictures, 3, 512, 512])?;
                (timed(pictures, || codec.encode(&image))?, "pictures of 512 x 512")
            }
            "vae" => {
                let codec = Vae::new(&weights, &settings, dtype, &device)?;
                let image = random(&[pictures, 3, 256, 256])?;
                (timed(pictures, || codec.mean(&codec.moments(&image)?))?, "pictures of 256 x 256")
            }
            "mimi" => {
                let codec = Mimi::new(&weights, &settings, dtype, &device)?;
                let audio = random(&[pictures, 1, 24_000 * seconds])?;
                (timed(pictures * seconds, || codec.encode(&audio, 1))?, "seconds of sound")
            }
            _ => {
                let codec = Hubert::new(&weights, &settings, dtype, &device)?;
                let audio = random(&[pictures, 16_000 * seconds])?;
                (timed(pictures * seconds, || codec.layer(&audio, 6))?, "seconds of sound")
            }
        };
        writeln!(std::io::stdout(), "{name} {dtype:?} {:?}: {per_call:.2} {unit} a second", device.location())?;
    }
    Ok(())
}

/// Units a second, by the median of several calls; each ends with a copy to the host, which waits for the device.
fn timed(units: usize, call: impl Fn() -> Result<Tensor>) -> Result<f64> {
    let finished = |tensor: Tensor| -> Result<()> {
        tensor.flatten_all()?.narrow(0, 0, 1)?.to_device(&Device::Cpu)?;
        Ok(())
    };
    finished(call()?)?;
    let mut secs = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        let start = Instant::now();
        finished(call()?)?;
        secs.push(start.elapsed().as_secs_f64());
    }
    secs.sort_by(f64::total_cmp);
    Ok(units as f64 / secs[CALLS / 2])
}
