//! Weights that are there, have moved, are gone, or are other ones.

use std::fs;

use mom_data::SourceConfig;
use mom_train::samples::Shown;
use mom_train::{EvalOptions, Prepared, PromptPart, Trained, evaluate};

use crate::bench::{Bench, options, prompts, vqgan, weights, weights_of};
use crate::common::{error_of, mom_train};

#[test]
fn chameleon_over_codes_of_the_vqgan() {
    let bench = Bench::new("chameleon", |folder| vqgan(&weights("chameleon_vqgan", folder, None)));
    let export = bench.trains_and_exports();
    let generator = bench.generator(&export);
    let [picture, _] = prompts(bench.folder.path());
    let mut draft = generator.draft(&options()).unwrap();
    draft.push(&PromptPart::Image(picture.clone())).unwrap();
    draft.draw_text().unwrap();
    let image = draft.draw_image().unwrap();
    assert_eq!((image.width, image.height), (64, 64));
    assert!(bench.samples().iter().any(|(_, _, drawn)| matches!(drawn, Shown::Image(_))));
    // The program draws it too; and the weights may have moved.
    let out = bench.path("drawn.png");
    let arguments =
        ["generate", "--model", export.to_str().unwrap(), "--then", "image", "--out", out.to_str().unwrap()];
    let prompt = format!("image:{}", picture.display());
    let output = mom_train(&[&arguments[..], &[&prompt]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let first = fs::read(&out).unwrap();
    let moved = bench.path("elsewhere.safetensors");
    fs::rename(bench.path("chameleon_vqgan/model.safetensors"), &moved).unwrap();
    let message = error_of(&mom_train(&[&arguments[..], &[&prompt]].concat()));
    let expected =
        ["the image tokenizer's weights are needed", "chameleon_vqgan/model.safetensors (BLAKE3 ", "No such file"];
    assert!(expected.iter().all(|words| message.contains(words)), "{message}");
    let set = format!("--set=data.tokenizers.image.weights={}", moved.display());
    let output = mom_train(&[&arguments[..], &[&set, &prompt]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::read(&out).unwrap(), first);
    for (set, expected) in [
        ("data.tokenizers.image.size=3", "the key of a trained model must be"),
        ("speech.weights=x", "no network made these tokens"),
        ("image.weights=nowhere", "nowhere: there is no such file (image.weights)"),
    ] {
        let message = error_of(&mom_train(&[&arguments[..], &["--set", set, &prompt]].concat()));
        assert!(message.contains(expected), "{message}");
    }
    // Tokens that are there are trained on, and evaluated, without the weights: a word tells that they are absent.
    let longer = bench.train("halved", &["train.steps=8"]).unwrap();
    assert_eq!(longer.steps, 8);
    let config = bench.config(&["train.steps=8"]);
    let notes = Prepared::new(&config, &bench.path("halved"), |_| {}).unwrap().notes();
    assert!(notes.iter().any(|note| note.contains("model.safetensors") && note.contains("nothing new")), "{notes:?}");
    let trained = Trained::open(&bench.path("halved")).unwrap();
    evaluate(&trained, &EvalOptions::default(), &bench.path("halved"), |_| {}).unwrap();
    // Other data cannot be encoded then, and other weights are another run.
    let sources = vec![SourceConfig::at(bench.path("shards"))];
    let other = EvalOptions { sources, ..EvalOptions::default() };
    let message = evaluate(&trained, &other, &bench.path("others"), |_| {}).unwrap_err().to_string();
    assert!(message.contains("are needed to encode or decode"), "{message}");
    let mut bytes = fs::read(&moved).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(bench.path("chameleon_vqgan/model.safetensors"), &bytes).unwrap();
    let message = bench.train("halved", &["train.steps=9"]).unwrap_err().to_string();
    assert!(message.contains("it has BLAKE3") && message.contains("tokens were made with"), "{message}");
    let message = error_of(&mom_train(&[&arguments[..], &[&prompt]].concat()));
    assert!(message.contains("it has BLAKE3"), "{message}");
}

#[test]
fn a_run_that_was_stopped_while_encoding_goes_on_with_what_is_left() {
    let bench = Bench::new("chameleon", |folder| vqgan(&weights("chameleon_vqgan", folder, None)));
    let config = bench.config(&[]);
    let [whole, halved] = ["whole", "halved"].map(|name| bench.path(name));
    let made = Prepared::new(&config, &whole, |_| {}).unwrap();
    // One shard of two; the second comes later.
    let (shards, kept) = (bench.path("shards"), bench.path("kept"));
    fs::create_dir_all(&kept).unwrap();
    let second = fs::read_dir(&shards).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    fs::rename(&second, kept.join("second.tar")).unwrap();
    let first = Prepared::new(&config, &halved, |_| {}).unwrap();
    assert!(first.dataset.train.len() < made.dataset.train.len());
    fs::rename(kept.join("second.tar"), &second).unwrap();
    let mut told = Vec::new();
    Prepared::new(&config, &halved, |progress| told.push((progress.done, progress.total))).unwrap();
    let bytes = fs::metadata(&second).unwrap().len();
    assert!(told.iter().all(|&(_, total)| total == 0 || total == bytes), "the second shard alone: {told:?} of {bytes}");
}

#[test]
fn weights_without_a_decoder_make_codes_and_no_pictures() {
    let encodes = |name: &str| !name.starts_with("decoder.") && !name.starts_with("post_quant_conv.");
    let bench = Bench::new("chameleon", |folder| vqgan(&weights_of("chameleon_vqgan", folder, None, encodes)));
    let export = bench.trains_and_exports();
    assert!(!bench.path("whole/samples").exists(), "nothing can be shown");
    let generator = bench.generator(&export);
    let [picture, _] = prompts(bench.folder.path());
    let mut draft = generator.draft(&options()).unwrap();
    draft.push(&PromptPart::Image(picture)).unwrap();
    draft.draw_text().unwrap();
    let message = draft.draw_image().unwrap_err().to_string();
    assert!(message.contains("have no decoder") && message.contains("model.safetensors (BLAKE3"), "{message}");
}
