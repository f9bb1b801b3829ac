//! Decodes the images and waveforms of users' shards into the configured size and rate.

use std::io::Cursor;

use image::imageops::{self, FilterType};
use image::{DynamicImage, ImageReader};

use super::SkipReason;
use crate::pixels::RgbImage;

/// Decodes a PNG or JPEG of any colour type and size to `size` x `size` RGB: transparency over white, the middle square
/// cut out, then resized with a triangle filter (as wide as the reduction, so that nothing aliases).
pub(crate) fn decode_image(bytes: &[u8], size: usize) -> Result<RgbImage, SkipReason> {
    let broken = |_| SkipReason::BrokenImage;
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|_| SkipReason::BrokenImage)?;
    let decoded = reader.decode().map_err(broken)?;
    let (width, height) = (decoded.width(), decoded.height());
    if width == 0 || height == 0 {
        return Err(SkipReason::BrokenImage);
    }
    let mut rgb = flatten(decoded);
    let side = width.min(height);
    if width != height {
        rgb = imageops::crop_imm(&rgb, (width - side) / 2, (height - side) / 2, side, side).to_image();
    }
    if side as usize != size {
        rgb = imageops::resize(&rgb, size as u32, size as u32, FilterType::Triangle);
    }
    Ok(RgbImage { width: size, height: size, pixels: rgb.into_raw() })
}

/// RGB of 8 bits; transparent pixels are laid over white.
fn flatten(decoded: DynamicImage) -> image::RgbImage {
    if !decoded.color().has_alpha() {
        return decoded.into_rgb8();
    }
    let rgba = decoded.into_rgba8();
    image::RgbImage::from_fn(rgba.width(), rgba.height(), |x, y| {
        let [r, g, b, a] = rgba.get_pixel(x, y).0;
        let over = |v: u8| ((u32::from(v) * u32::from(a) + 255 * (255 - u32::from(a)) + 127) / 255) as u8;
        image::Rgb([over(r), over(g), over(b)])
    })
}

/// Decodes a wav (8 to 32-bit integer or 32-bit float, any rate, any number of channels) to mono at `sample_rate` Hz.
pub(super) fn decode_wav(bytes: &[u8], sample_rate: u32) -> Result<Vec<f32>, SkipReason> {
    let mut reader = hound::WavReader::new(Cursor::new(bytes)).map_err(|_| SkipReason::BrokenSpeech)?;
    let spec = reader.spec();
    if spec.channels == 0 || !(1_000..=384_000).contains(&spec.sample_rate) {
        return Err(SkipReason::BrokenSpeech);
    }
    let values: Vec<f32> = match spec.sample_format {
        hound::SampleFormat::Float => reader.samples::<f32>().collect::<Result<_, _>>(),
        hound::SampleFormat::Int => {
            let scale = 1.0 / (1u64 << (spec.bits_per_sample - 1)) as f32;
            reader.samples::<i32>().map(|value| value.map(|v| v as f32 * scale)).collect()
        }
    }
    .map_err(|_| SkipReason::BrokenSpeech)?;
    if values.iter().any(|value| !value.is_finite()) {
        return Err(SkipReason::NonFiniteSpeech);
    }
    let channels = usize::from(spec.channels);
    let mono: Vec<f32> =
        values.chunks_exact(channels).map(|frame| frame.iter().sum::<f32>() / channels as f32).collect();
    if mono.is_empty() {
        return Err(SkipReason::EmptySpeech);
    }
    Ok(resample(mono, spec.sample_rate, sample_rate))
}

/// Zero crossings of the resampling filter on each side.
const LOBES: f64 = 12.0;

/// Resamples with a Hann-windowed sinc that cuts at 95 % of the lower of the two Nyquist frequencies. What lies outside
/// the waveform is silence. The filter depends on the output position only through its phase, so it is tabulated.
fn resample(input: Vec<f32>, from: u32, to: u32) -> Vec<f32> {
    if from == to {
        return input;
    }
    let (from, to) = (u64::from(from), u64::from(to));
    let n_out = (input.len() as u64 * to).div_ceil(from);
    let cut = 0.95 * (to as f64 / from as f64).min(1.0);
    let half_width = (LOBES / cut).ceil() as i64;
    let n_phases = (to / gcd(from, to)).min(n_out);
    let phases: Vec<Vec<f32>> =
        (0..n_phases).map(|out| filter((out * from % to) as f64 / to as f64, cut, half_width)).collect();
    (0..n_out)
        .map(|out| {
            let first = (out * from / to) as i64 - half_width;
            let taps = &phases[(out % n_phases) as usize];
            let skip = (-first).max(0) as usize;
            let from = (first + skip as i64) as usize;
            taps[skip..].iter().zip(input.get(from..).unwrap_or(&[])).map(|(tap, value)| tap * value).sum()
        })
        .collect()
}

/// Filter taps for the input samples from `-half_width` to `half_width + 1` around an output that lies `phase` of an
/// input sample behind sample 0; the taps sum to 1.
fn filter(phase: f64, cut: f64, half_width: i64) -> Vec<f32> {
    let weight = |at: i64| {
        let x = at as f64 - phase;
        let window = (0.5 + 0.5 * (std::f64::consts::PI * x / (half_width + 1) as f64).cos()).max(0.0);
        if x.abs() <= (half_width + 1) as f64 { sinc(x * cut) * window } else { 0.0 }
    };
    let taps: Vec<f64> = (-half_width..=half_width + 1).map(weight).collect();
    let sum: f64 = taps.iter().sum();
    taps.into_iter().map(|tap| (tap / sum) as f32).collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn sinc(x: f64) -> f64 {
    let x = x * std::f64::consts::PI;
    if x.abs() < 1e-9 { 1.0 } else { x.sin() / x }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(rate: u32, hertz: f64, n: usize) -> Vec<f32> {
        (0..n).map(|i| (std::f64::consts::TAU * hertz * i as f64 / f64::from(rate)).sin() as f32).collect()
    }

    fn rms(values: &[f32]) -> f32 {
        (values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32).sqrt()
    }

    #[test]
    fn a_tone_keeps_its_wave_and_what_would_alias_is_gone() {
        for from in [16_000, 22_050, 44_100, 6_000] {
            let out = resample(tone(from, 1000.0, from as usize / 2), from, 8000);
            assert_eq!(out.len(), 4000);
            let error: Vec<f32> = out.iter().zip(tone(8000, 1000.0, 4000)).map(|(a, b)| a - b).collect();
            assert!(rms(&error[200..3800]) < 0.01, "{from}: {}", rms(&error[200..3800]));
        }
        let aliased = resample(tone(16_000, 5000.0, 8000), 16_000, 8000);
        assert!(rms(&aliased[200..3800]) < 0.01, "{}", rms(&aliased[200..3800]));
    }

    #[test]
    fn a_huge_claim_of_samples_does_not_panic() {
        assert_eq!(decode_wav(b"RIFF\xff\xff\xff\xffWAVEfmt ", 8000), Err(SkipReason::BrokenSpeech));
        assert!(decode_image(b"\x89PNG\r\n\x1a\n", 32).is_err());
    }
}
