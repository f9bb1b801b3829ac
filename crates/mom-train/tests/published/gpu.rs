//! The same runs on a GPU, where networks encode and decode and the model trains: from the first token to the export.

use std::fs;

use mom_data::{Batch, Loader, Modality, Order};
use mom_train::samples::Shown;
use mom_train::{DeviceKind, Part, Prepared, PromptPart};

use crate::bench::{Bench, MIMI, VAE, centroids, mimi, options, prompts, vae, vqgan, weights};
use crate::common::gpu;

/// What networks made of the first documents: a run's tokens, in the order in which all devices see them.
fn batch(bench: &Bench, run: &str, overrides: &[&str]) -> Batch {
    let (config, run) = (bench.config(overrides), bench.path(run));
    fs::create_dir_all(&run).unwrap();
    let dataset = Prepared::new(&config, &run, |_| {}).unwrap().dataset;
    let loader = Loader::new(dataset.train, config.data.forms.unwrap_or_default(), 8, 192, Order::Fixed);
    loader.unwrap().next_batch().unwrap()
}

/// Tokens of networks on the GPU in f32, in bf16, and on the CPU. Documents are the same, and as long.
fn encoded(bench: &Bench, tokenizers: &[&str]) -> [Batch; 3] {
    let with = |device: &str, dtype: &str, run: &str| {
        let of = |name: &&str| {
            [format!("data.tokenizers.{name}.device={device}"), format!("data.tokenizers.{name}.dtype={dtype}")]
        };
        let overrides: Vec<String> = tokenizers.iter().flat_map(of).collect();
        batch(bench, run, &overrides.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let [gpu, bf16, cpu] = [with("cuda", "f32", "f32"), with("cuda", "bf16", "bf16"), with("cpu", "f32", "cpu")];
    for other in [&gpu, &bf16] {
        assert_eq!(other.modality_ids, cpu.modality_ids);
        assert_eq!(other.patch_positions, cpu.patch_positions);
    }
    [gpu, bf16, cpu]
}

/// How many tokens of a modality differ, and how many there are.
fn differ(got: &Batch, want: &Batch, modality: u8) -> (usize, usize) {
    let of = |batch: &Batch| -> Vec<u32> {
        let pairs = batch.tokens.iter().zip(&batch.modality_ids);
        pairs.filter(|&(_, &id)| id == modality).map(|(&token, _)| token).collect()
    };
    let (got, want) = (of(got), of(want));
    assert_eq!(got.len(), want.len(), "as many of modality {modality}");
    (got.iter().zip(&want).filter(|(got, want)| got != want).count(), want.len())
}

#[test]
fn transfusion_over_latents_with_a_unet() {
    let Some(_gpu) = gpu("transfusion_over_latents_with_a_unet") else { return };
    let bench = Bench::on(DeviceKind::Cuda, "transfusion", |folder| vae(&weights("sd_vae", folder, Some(VAE))));
    let [gpu, bf16, cpu] = encoded(&bench, &["image"]);
    let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|value| f64::from(value).powi(2)).sum::<f64>().sqrt();
    let off = |got: &Batch| {
        norm(&mut got.patches.iter().zip(&cpu.patches).map(|(a, b)| a - b)) / norm(&mut cpu.patches.iter().copied())
    };
    println!("{} latents: {:.1e} off in f32, {:.1e} in bf16", cpu.patches.len(), off(&gpu), off(&bf16));
    assert!(!cpu.patches.is_empty() && off(&gpu) < 1e-4 && off(&bf16) < 3e-2, "{:e}, {:e}", off(&gpu), off(&bf16));
    let export = bench.trains_and_exports_with(&["model.patcher=unet", "model.unet_width=16"]);
    let generator = bench.generator(&export);
    let [picture, _] = prompts(bench.folder.path());
    let mut draft = generator.draft(&options()).unwrap();
    draft.push(&PromptPart::Image(picture)).unwrap();
    draft.draw_text().unwrap();
    let image = generator.image("a red star", &options()).unwrap();
    assert_eq!((image.width, image.height, image.pixels.len()), (64, 64, 64 * 64 * 3));
    assert!(bench.samples().iter().any(|(_, truth, _)| matches!(truth, Shown::Image(_))));
}

#[test]
fn three_modalities_over_the_vqgan_and_mimi() {
    let Some(_gpu) = gpu("three_modalities_over_the_vqgan_and_mimi") else { return };
    let bench = Bench::on(DeviceKind::Cuda, "three-modality", |folder| {
        let images = vqgan(&weights("chameleon_vqgan", folder, None));
        format!("{images}\n{}", mimi(&weights("mimi_odd_length", folder, Some(MIMI))))
    });
    let [gpu, bf16, cpu] = encoded(&bench, &["image", "speech"]);
    for (name, modality) in [("codes", 1), ("units", 2)] {
        let ((in_f32, n), (in_bf16, _)) = (differ(&gpu, &cpu, modality), differ(&bf16, &cpu, modality));
        println!("{in_f32} of {n} {name} differ in f32, {in_bf16} in bf16");
        assert!(n > 50 && in_f32 * 100 <= n && in_bf16 * 5 <= n, "{in_f32} and {in_bf16} of {n} {name}");
    }
    let export = bench.trains_and_exports();
    let generator = bench.generator(&export);
    let [picture, sound] = prompts(bench.folder.path());
    let mut draft = generator.draft(&options()).unwrap();
    draft.push(&PromptPart::Image(picture)).unwrap();
    draft.push(&PromptPart::Speech(sound)).unwrap();
    draft.draw_text().unwrap();
    let wave = draft.draw_speech().unwrap();
    assert!(!wave.is_empty() && wave.len().is_multiple_of(1920) && generator.sample_rate() == 24_000, "{}", wave.len());
}

#[test]
fn chameleon_over_codes_of_the_vqgan() {
    let Some(_gpu) = gpu("chameleon_over_codes_of_the_vqgan") else { return };
    let bench = Bench::on(DeviceKind::Cuda, "chameleon", |folder| vqgan(&weights("chameleon_vqgan", folder, None)));
    let export = bench.trains_and_exports_with(&["data.tokenizers.image.dtype=bf16"]);
    let image = bench.generator(&export).image("a red circle", &options()).unwrap();
    assert_eq!((image.width, image.height), (64, 64));
}

#[test]
fn units_of_hubert() {
    let Some(_gpu) = gpu("units_of_hubert") else { return };
    let bench = Bench::on(DeviceKind::Cuda, "three-modality", |folder| {
        let settings = r#"{ "num_attention_heads": 4, "do_normalize": true }"#;
        let (weights, centroids) = (weights("hubert_base", folder, Some(settings)), centroids("hubert_base", folder));
        format!(
            "speech = {{ kind = \"hubert\", weights = {weights:?}, quantizer = {centroids:?}, layer = 3, units = 24 }}\n\
             image = {{ codes = 16 }}"
        )
    });
    // Repeats are kept, so that a unit that differs moves none behind it.
    let kept = "data.tokenizers.speech.repeats=kept";
    let of = |device: &str| batch(&bench, device, &[kept, &format!("data.tokenizers.speech.device={device}")]);
    let (off, n) = differ(&of("cuda"), &of("cpu"), 2);
    println!("{off} of {n} units differ in f32");
    assert!(n > 50 && off * 100 <= n, "{off} of {n}");
    let export = bench.trains_and_exports();
    let generator = bench.generator(&export);
    let mut draft = generator.draft(&options()).unwrap();
    draft.push_text("a red star").unwrap();
    let part = draft.draw(Modality::Speech).unwrap();
    assert!(matches!(&part, Part::Units(units) if !units.is_empty()), "{part:?}");
}
