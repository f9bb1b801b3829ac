//! From units to a waveform and back, as a file of 16 bits would hold it.

use super::*;
use crate::media::audio;
use crate::scenes::{SceneConfig, document};
use crate::tokenizers::tensors;
use crate::{DataError, Repeats, SpeechCodebook, SpeechConfig, encode};

/// A codebook of generated speech.
fn codebook(config: &SpeechConfig, n_documents: u64) -> SpeechCodebook {
    let mel = LogMel::new(config);
    let (mut frames, mut stretches) = (Vec::new(), Vec::new());
    for index in 0..n_documents {
        let start = frames.len() / config.n_mels;
        frames.extend(mel.frames(&speech(config, index)));
        stretches.push(start..frames.len() / config.n_mels);
    }
    SpeechCodebook::fit(mel, frames, &stretches, config, 0, &mut |_, _| {}).0
}

fn speech(config: &SpeechConfig, index: u64) -> Vec<f32> {
    document(5, index, &SceneConfig { sample_rate: config.sample_rate, ..SceneConfig::default() }).speech
}

fn small() -> SpeechConfig {
    SpeechConfig::default()
}

fn large() -> SpeechConfig {
    SpeechConfig { sample_rate: 16_000, n_mels: 80, units: 200, ..SpeechConfig::default() }
}

/// A hop of an odd number of samples, and a window shorter than its transform.
fn odd() -> SpeechConfig {
    SpeechConfig { sample_rate: 11_025, units: 64, ..SpeechConfig::default() }
}

/// Units of the waveform of units.
fn there_and_back(codebook: &SpeechCodebook, config: &SpeechConfig, units: &[u32]) -> Vec<u32> {
    let wave = codebook.synthesize(units).unwrap();
    assert!(wave.iter().all(|value| (-1.0..=1.0).contains(value)));
    let file = encode::wav(&wave, config.sample_rate).unwrap();
    codebook.encode(&audio::decode(&file, "speech.wav").unwrap().mono)
}

/// `n` units, no two neighbours the same.
fn drawn(n: usize, n_units: usize, seed: u64) -> Vec<u32> {
    let mut stream = Stream::new(seed, Domain::Noise, 0, 0);
    let mut units: Vec<u32> = Vec::new();
    while units.len() < n {
        let unit = stream.below(n_units) as u32;
        if units.last() != Some(&unit) {
            units.push(unit);
        }
    }
    units
}

fn mean_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum::<f32>() / a.len() as f32
}

#[test]
fn units_of_sentences_come_back() {
    for config in [small(), large(), odd()] {
        for repeats in [Repeats::Merged, Repeats::Kept] {
            let config = SpeechConfig { repeats, ..config.clone() };
            let codebook = codebook(&config, 60);
            for index in 100..104 {
                let units = codebook.encode(&speech(&config, index));
                assert_eq!(there_and_back(&codebook, &config, &units), units, "{config:?}, document {index}");
            }
        }
    }
}

#[test]
fn units_in_any_order_come_back() {
    for config in [small(), large(), odd()] {
        for repeats in [Repeats::Merged, Repeats::Kept] {
            let config = SpeechConfig { repeats, ..config.clone() };
            let codebook = codebook(&config, 60);
            for seed in 0..3 {
                let units = drawn(60, config.units, seed);
                assert_eq!(there_and_back(&codebook, &config, &units), units, "{config:?}, seed {seed}");
            }
        }
    }
}

#[test]
fn few_units_and_wrong_ones() {
    let config = small();
    let codebook = codebook(&config, 20);
    assert!(codebook.synthesize(&[]).unwrap().is_empty());
    for unit in [0, 17, 127] {
        assert_eq!(there_and_back(&codebook, &config, &[unit]), [unit]);
        // Two equal neighbours are one run.
        assert_eq!(there_and_back(&codebook, &config, &[unit; 5]), [unit]);
    }
    assert!(matches!(codebook.synthesize(&[0, 128]), Err(DataError::Token { token: 128, size: 128, .. })));
    let silence = codebook.encode(&[0.0; 3200]);
    let wave = codebook.synthesize(&silence).unwrap();
    assert!(wave.iter().all(|value| value.abs() < 0.05));
    assert_eq!(wave, codebook.synthesize(&silence).unwrap());
}

#[test]
fn a_waveform_has_the_energies_of_the_original() {
    let config = SpeechConfig { repeats: Repeats::Kept, ..small() };
    let (codebook, mel) = (codebook(&config, 60), LogMel::new(&config));
    let original = speech(&config, 100);
    let units = codebook.encode(&original);
    let wave = codebook.synthesize(&units).unwrap();
    assert_eq!(wave.len(), units.len() * 320);
    let wanted: Vec<f32> = units.iter().flat_map(|&unit| codebook.decode(unit).unwrap()).collect();
    let (frames, originals) = (mel.frames(&wave), mel.frames(&original));
    // What is left of the original is what its units hold of it.
    assert!(mean_difference(&frames, &wanted) < 0.03, "{}", mean_difference(&frames, &wanted));
    let lost = mean_difference(&wanted, &originals);
    assert!(mean_difference(&frames, &originals) < lost + 0.03, "{lost}");
    // Windows of 25.6 ms every 16 ms, which the waveform was not made for.
    let short = LogMel::new(&SpeechConfig { sample_rate: 3200, n_mels: 20, ..small() });
    let n = original.len().min(wave.len());
    let [heard, silence, other] = [&wave[..n], &vec![0.0; n][..], &original[..n]].map(|wave| short.frames(wave));
    assert!(mean_difference(&heard, &other) < 0.3 * mean_difference(&silence, &other));
}

#[test]
fn runs_are_measured_kept_in_the_file_and_of_no_matter_to_tokens() {
    let config = SpeechConfig { units: 32, ..small() };
    let codebook = codebook(&config, 20);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("speech.safetensors");
    codebook.save(&path).unwrap();
    let units = drawn(20, 32, 1);
    let loaded = SpeechCodebook::load(&path, &config).unwrap();
    assert_eq!(loaded.synthesize(&units).unwrap(), codebook.synthesize(&units).unwrap());

    let file = tensors::load(&path).unwrap();
    let [rows, mean, deviation] = [("centroids", &[32, 40][..]), ("mean", &[40][..]), ("deviation", &[40][..])]
        .map(|(name, shape)| file.take(name, shape).unwrap());
    let with = |lengths: Option<&[f32]>| {
        let mut all: Vec<(&str, &[usize], &[f32])> =
            vec![("centroids", &[32, 40][..], &rows[..]), ("mean", &[40], &mean), ("deviation", &[40], &deviation)];
        all.extend(lengths.map(|lengths| ("run_lengths", &[32][..], lengths)));
        tensors::save(&path, &all).unwrap();
        SpeechCodebook::load(&path, &config)
    };
    let old = with(None).unwrap();
    assert_eq!(old.bytes(), codebook.bytes());
    assert_eq!(old.synthesize(&units).unwrap().len(), 22 * 320);
    assert_eq!(with(Some(&[3.0; 32])).unwrap().synthesize(&units).unwrap().len(), 60 * 320);
    for bad in [0.5, 1e9, f32::NAN] {
        assert!(matches!(with(Some(&[bad; 32])), Err(DataError::Codebook { .. })));
    }
}
