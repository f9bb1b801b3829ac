//! Each setting over tokens of published networks.

use std::collections::BTreeMap;
use std::fs;

use mom_data::{Modality, media};
use mom_train::samples::{Samples, Shown};
use mom_train::telemetry::RunResult;
use mom_train::{GenerateOptions, Part, PromptPart, RunConfig, Trained};

use crate::bench::{Bench, MIMI, VAE, centroids, mimi, options, prompts, shards, vae, vqgan, weights};
use crate::common::{mom_train, read};

#[test]
fn transfusion_over_latents_of_an_autoencoder() {
    let bench = Bench::new("transfusion", |folder| vae(&weights("sd_vae", folder, Some(VAE))));
    let config = bench.config(&[]);
    let image = &config.data.tokenizers.image;
    assert_eq!((image.patch, image.patch_dim()), (2, 16), "2 x 2 patches of 4 channels");
    let export = bench.trains_and_exports();
    let generator = bench.generator(&export);
    assert_eq!(generator.image_size(), 64);
    let [picture, _] = prompts(bench.folder.path());
    let mut draft = generator.draft(&options()).unwrap();
    draft.push(&PromptPart::Image(picture)).unwrap();
    draft.draw_text().unwrap();
    let image = generator.image("a red star", &options()).unwrap();
    assert_eq!((image.width, image.height, image.pixels.len()), (64, 64, 64 * 64 * 3));
    let samples = bench.samples();
    assert!(samples.iter().any(|(_, _, drawn)| matches!(drawn, Shown::Image(_))), "{samples:?}");
    // A truth of the data, decoded by the weights that encoded it.
    assert!(samples.iter().any(|(_, truth, _)| matches!(truth, Shown::Image(_))), "{samples:?}");
    let (folder, _) = Samples::newest(&bench.path("whole")).unwrap().unwrap();
    let name = samples.iter().find_map(|(_, truth, _)| match truth {
        Shown::Image(name) => Some(name.clone()),
        _ => None,
    });
    let decoded = media::image::decode(&fs::read(folder.join(name.unwrap())).unwrap()).unwrap();
    assert_eq!((decoded.rgb.width, decoded.rgb.height), (64, 64));
    // A draw of the distribution is other data than its mean.
    let drawn = bench.train("drawn", &["data.tokenizers.image.latents=draw"]).unwrap();
    let again = bench.train("again", &["data.tokenizers.image.latents=draw"]).unwrap();
    let last = |result: &RunResult| result.curve.last().unwrap().joint;
    assert_eq!(last(&drawn), last(&again));
    let mean = bench.train("whole", &["train.sample_every=6"]).unwrap();
    assert_ne!(last(&drawn), last(&mean));
}

#[test]
fn three_modalities_over_the_vqgan_and_the_first_codebook_of_mimi() {
    let bench = Bench::new("three-modality", |folder| {
        let images = vqgan(&weights("chameleon_vqgan", folder, None));
        format!("{images}\n{}", mimi(&weights("mimi_odd_length", folder, Some(MIMI))))
    });
    assert_eq!(bench.config(&[]).data.tokenizers.speech.sample_rate, 24_000);
    let export = bench.trains_and_exports();
    let generator = bench.generator(&export);
    assert!(generator.note_of_speech().unwrap().contains("first codebook"));
    let [_, sound] = prompts(bench.folder.path());
    let mut draft = generator.draft(&options()).unwrap();
    draft.push(&PromptPart::Speech(sound)).unwrap();
    draft.draw_text().unwrap();
    let wave = draft.draw_speech().unwrap();
    assert!(!wave.is_empty() && wave.len().is_multiple_of(1920) && generator.sample_rate() == 24_000, "{}", wave.len());
    assert!(bench.samples().iter().any(|(_, truth, _)| matches!(truth, Shown::Speech(_))));
}

#[test]
fn units_of_hubert_are_trained_on_and_cannot_be_heard() {
    let bench = Bench::new("three-modality", |folder| {
        let settings = r#"{ "num_attention_heads": 4, "do_normalize": true }"#;
        let (weights, centroids) = (weights("hubert_base", folder, Some(settings)), centroids("hubert_base", folder));
        format!(
            "speech = {{ kind = \"hubert\", weights = {weights:?}, quantizer = {centroids:?}, layer = 3, units = 24 }}\n\
             image = {{ codes = 16 }}"
        )
    });
    let export = bench.trains_and_exports();
    let generator = bench.generator(&export);
    let mut draft = generator.draft(&options()).unwrap();
    draft.push_text("a red star").unwrap();
    let part = draft.draw(Modality::Speech).unwrap();
    assert!(
        matches!(&part, Part::Units(units) if !units.is_empty() && units.iter().all(|&unit| unit < 24)),
        "{part:?}"
    );
    let shown = bench.samples();
    let is_units = |shown: &Shown| matches!(shown, Shown::Text(text) if text.contains("cannot be heard"));
    assert!(shown.iter().any(|(_, truth, _)| is_units(truth)), "{shown:?}");
    let out = bench.path("speech.wav");
    let arguments =
        ["generate", "--model", export.to_str().unwrap(), "--then", "speech", "--out", out.to_str().unwrap()];
    let output = mom_train(&[&arguments[..], &["a red star"]].concat());
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && told.contains("cannot be heard"), "{told}");
    let units = read(bench.path("speech.units.txt"));
    assert!(!out.exists() && units.split_whitespace().all(|unit| unit.parse::<u32>().unwrap() < 24), "{units}");
}

#[test]
fn codes_of_the_vqgan_are_tokens_of_chameleons_own_text_tokenizer() {
    let letters =
        |code: u32| code.to_string().chars().map(|digit| (b'A' + digit as u8 - b'0') as char).collect::<String>();
    let bench = Bench::new("chameleon", |folder| {
        let special = ["<s>", "<pad>", "</s>", "<unk>"].map(str::to_owned);
        let names = (0..256).map(|code| format!("IMGIMG{}Z", letters(code)));
        let words = ["a", "and", "the", "red", "blue", "circle", "square", "."].map(str::to_owned);
        let vocabulary: BTreeMap<String, u32> = special.into_iter().chain(names).chain(words).zip(0..).collect();
        let json = serde_json::json!({
            "version": "1.0",
            "added_tokens": [],
            "normalizer": null,
            "pre_tokenizer": { "type": "Whitespace" },
            "post_processor": null,
            "decoder": null,
            "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>" },
        });
        let tokenizer = folder.join("text_tokenizer.json");
        fs::write(&tokenizer, json.to_string()).unwrap();
        format!("text = {{ tokenizer = {tokenizer:?} }}\n{}", vqgan(&weights("chameleon_vqgan", folder, None)))
    });
    let export = bench.trains_and_exports();
    let trained = Trained::open(&export).unwrap();
    let vocabulary = trained.tokenizers().vocabulary();
    assert_eq!(vocabulary.size(), 6 + 4 + 256 + 8);
    assert_eq!(vocabulary.token(Modality::Image, 25).unwrap(), 6 + 4 + 25);
    let generator = bench.generator(&export);
    let image = generator.image("a red circle", &options()).unwrap();
    assert_eq!((image.width, image.height), (64, 64));
    let [picture, _] = prompts(bench.folder.path());
    let mut draft = generator.draft(&GenerateOptions { max_tokens: 40, ..options() }).unwrap();
    draft.push(&PromptPart::Image(picture)).unwrap();
    let text = draft.draw_text().unwrap();
    assert!(!text.contains("IMGIMG"), "{text}");
}

#[test]
fn a_sweep_over_published_codes_takes_the_sizes_of_the_kind() {
    let folder = tempfile::tempdir().unwrap();
    let weights = weights("chameleon_vqgan", folder.path(), None);
    let (data, out) = (shards(folder.path()), folder.path().join("sweep"));
    let set = |text: String| format!("data.tokenizers.{text}");
    let overrides = [
        set("image.kind=vqgan".to_owned()),
        set(format!("image.weights={}", weights.display())),
        set("image.size=64".to_owned()),
        set("image.codes=256".to_owned()),
        set("text.vocab_size=270".to_owned()),
        set("held_out=0.4".to_owned()),
    ];
    let arguments = ["ablate", "--setting", "chameleon", "--variants", "mom", "--scale", "nano", "--steps", "4"];
    let more = ["--no-bracket", "--no-null", "--batch", "2", "--seqlen", "128", "--seeds", "0"];
    let paths = ["--data", data.to_str().unwrap(), "--out", out.to_str().unwrap()];
    let overrides: Vec<&str> = overrides.iter().map(String::as_str).collect();
    let output = mom_train(&[&arguments[..], &more, &paths, &overrides[..]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let run = fs::read_dir(out.join("runs")).unwrap().next().unwrap().unwrap().path();
    let config: RunConfig = RunConfig::from_toml(&read(run.join("config.toml")), &[]).unwrap();
    let image = &config.data.tokenizers.image;
    assert_eq!((image.size, image.codes, image.patch, config.data.tokenizers.speech.sample_rate), (64, 256, 16, 8000));
    let (_, samples) = Samples::newest(&run).unwrap().unwrap();
    assert!(samples.samples.iter().any(|sample| matches!(sample.drawn, Shown::Image(_))), "{samples:?}");
    assert!(read(out.join("report.html")).contains("data:image/png"), "the report shows what was drawn");
}
