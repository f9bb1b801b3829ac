//! What a model has learnt by heart comes back: as a picture, as speech, as text; alone and in batches.
#![allow(clippy::unwrap_used, reason = "a helper of a test may fail as the test does")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{error_of, mom_train, read};
use mom_data::{Content, Modality, RgbImage, Tokenizers, encode, media};
use mom_models::decode::Sampling;
use mom_train::run::{RunFolder, Silent, train_in};
use mom_train::samples::{Samples, Shown};
use mom_train::{DeviceKind, GenerateOptions, Generator, Part, Prepared, RunConfig, Trained, draw};

/// A run over a few scenes that it learns by heart, in a folder.
struct Learnt {
    folder: tempfile::TempDir,
    prepared: Prepared,
}

impl Learnt {
    fn new(setting: &str, overrides: &[&str]) -> Self {
        let text = format!(
            r#"
            model = {{ setting = "{setting}", variant = "mom", d_model = 64, n_layers = 1 }}
            optimizer = {{ learning_rate = 8e-3, final_learning_rate = 1e-3, warmup_steps = 10, weight_decay = 0.0 }}
            [data]
            batch = 2
            seqlen = 192
            sources = [{{ scenes = {{ documents = 8, image_size = 16 }} }}]
            [data.tokenizers]
            held_out = 0.5
            text = {{ vocab_size = 260 }}
            image = {{ size = 16, patch = 4, codes = 16 }}
            speech = {{ units = 24 }}
            [train]
            steps = 200
            eval_every = 100
            eval_batches = 1
            "#
        );
        let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
        let config = RunConfig::from_toml(&text, &overrides).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::open(folder.path(), &config).unwrap();
        let prepared = Prepared::new(&config, folder.path(), |_| {}).unwrap();
        train_in(&run, &config, &prepared, &mut Silent).unwrap();
        Self { folder, prepared }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn generator(&self) -> Generator {
        Generator::open(self.path(), DeviceKind::Cpu, None).unwrap()
    }

    /// Text, picture and speech of the first document that was trained on.
    fn document(&self) -> Vec<Content> {
        self.prepared.dataset.train.document(0).unwrap().parts
    }
}

fn greedy() -> GenerateOptions {
    GenerateOptions { sampling: Sampling { temperature: 0.0, ..Sampling::default() }, ..GenerateOptions::default() }
}

fn text_of(tokenizers: &Tokenizers, codes: &[u32]) -> String {
    let tokens: Vec<u32> =
        codes.iter().map(|&code| tokenizers.vocabulary().token(Modality::Text, code).unwrap()).collect();
    tokenizers.decode_text(&tokens).unwrap()
}

#[test]
fn a_sentence_that_was_learnt_comes_back_as_speech_and_speech_as_the_sentence() {
    let forms = "data.forms={ weights = { text_speech = 1.0 } }";
    let learnt = Learnt::new("three-modality", &[forms]);
    let (generator, document) = (learnt.generator(), learnt.document());
    let (Content::Text(codes), Content::Speech(units)) = (&document[0], &document[2]) else {
        panic!("{document:?}");
    };
    let text = text_of(&learnt.prepared.tokenizers, codes);
    let codebook = learnt.prepared.tokenizers.speech_codebook().unwrap();

    let wave = generator.speech(&text, &greedy()).unwrap();
    // As somebody else would read it: a file of 16 bits.
    let path = learnt.path().join("said.wav");
    fs::write(&path, encode::wav(&wave, generator.sample_rate()).unwrap()).unwrap();
    let recording = media::audio::decode(&fs::read(&path).unwrap(), "said.wav").unwrap();
    assert_eq!(recording.facts.sample_rate, generator.sample_rate());
    assert_eq!(&codebook.encode(&recording.mono), units, "the units of the training document");

    let mut draft = generator.draft(&greedy()).unwrap();
    draft.push_speech(&recording.mono).unwrap();
    assert_eq!(draft.draw_text().unwrap(), text);

    // The program does the same with files.
    let (run, said) = (learnt.path().to_str().unwrap(), learnt.path().join("again.wav"));
    let output = mom_train(&[
        "generate",
        "--model",
        run,
        "--then",
        "speech",
        "--temperature",
        "0",
        "--out",
        said.to_str().unwrap(),
        &text,
    ]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(fs::read(&said).unwrap() == fs::read(&path).unwrap());
    let output = mom_train(&[
        "generate",
        "--model",
        run,
        "--then",
        "text",
        "--temperature",
        "0",
        &format!("speech:{}", path.display()),
    ]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{text}\n"));
}

#[test]
fn a_picture_of_codes_that_was_learnt_comes_back() {
    let learnt = Learnt::new("chameleon", &["data.forms.text_first=1", "data.forms.caption_dropout=0.2"]);
    let (generator, document) = (learnt.generator(), learnt.document());
    let (Content::Text(codes), Content::ImageCodes(image)) = (&document[0], &document[1]) else {
        panic!("{document:?}");
    };
    let tokenizers = &learnt.prepared.tokenizers;
    let vocabulary = tokenizers.vocabulary();
    let tokens: Vec<u32> = image.iter().map(|&code| vocabulary.token(Modality::Image, code).unwrap()).collect();
    let truth = tokenizers.decode_image(&tokens).unwrap();
    for guidance in [None, Some(1.0)] {
        let drawn = generator.image(&text_of(tokenizers, codes), &GenerateOptions { guidance, ..greedy() }).unwrap();
        assert!(drawn == truth, "guidance {guidance:?}");
    }
}

/// The mean difference of two pictures, in steps of 255.
fn apart(a: &RgbImage, b: &RgbImage) -> f64 {
    let sum: u32 = a.pixels.iter().zip(&b.pixels).map(|(a, b)| u32::from(a.abs_diff(*b))).sum();
    f64::from(sum) / a.pixels.len() as f64
}

#[test]
fn a_picture_of_patches_that_was_learnt_is_found_again() {
    // What a U-Net is made of takes longer to learn.
    for (patcher, steps) in [("linear", 500), ("unet", 1200)] {
        a_picture_is_found_again(patcher, steps);
    }
}

fn a_picture_is_found_again(patcher: &str, steps: u64) {
    let [patcher, steps, eval_every] =
        [format!("model.patcher={patcher}"), format!("train.steps={steps}"), format!("train.eval_every={steps}")];
    let overrides = [
        patcher.as_str(),
        &steps,
        &eval_every,
        "data.forms.text_first=1",
        "data.sources.0.scenes.documents=2",
        "data.sources.0.scenes.image_size=8",
        "data.tokenizers.image.size=8",
        "model.d_model=96",
    ];
    let learnt = Learnt::new("transfusion", &overrides);
    let generator = learnt.generator();
    assert_eq!(learnt.prepared.dataset.train.len(), 1, "a single picture");
    let document = learnt.document();
    let (Content::Text(codes), Content::Pixels(pixels)) = (&document[0], &document[1]) else {
        panic!("{document:?}");
    };
    let truth = RgbImage { width: 8, height: 8, pixels: pixels.clone() };
    let caption = text_of(&learnt.prepared.tokenizers, codes);
    let options = GenerateOptions { n_steps: 100, ..GenerateOptions::default() };
    for seed in 0..3 {
        let drawn = generator.image(&caption, &GenerateOptions { seed, ..options }).unwrap();
        let grey = RgbImage { pixels: vec![128; drawn.pixels.len()], ..drawn.clone() };
        let (near, far) = (apart(&drawn, &truth), apart(&grey, &truth));
        assert!(near < far / 3.0, "seed {seed}: {near} from the truth, grey is {far}");
    }
    // No picture stood first: there is nothing that guidance could go by.
    let message =
        generator.image(&caption, &GenerateOptions { guidance: Some(2.0), ..options }).unwrap_err().to_string();
    assert!(message.contains("guidance must be 1") && message.contains("data.forms.caption_dropout"), "{message}");
    let message = generator.speech(&caption, &options).unwrap_err().to_string();
    assert!(message.contains("speech units"), "{message}");
}

#[test]
fn documents_of_a_batch_are_those_that_are_drawn_alone() {
    // Products of one row and of several round differently on some processors, so that a draw which falls on the border between two
    // tokens may fall on its other side. That is rare: of so many batches most agree to the last token.
    const BATCHES: u64 = 8;
    let learnt = Learnt::new("three-modality", &["train.steps=20", "train.eval_every=20"]);
    let generator = learnt.generator();
    let options = GenerateOptions { max_tokens: 24, ..GenerateOptions::default() };
    let draft = |seed: u64, prompt: &str| {
        let mut draft = generator.draft(&GenerateOptions { seed, ..options }).unwrap();
        if !prompt.is_empty() {
            draft.push_text(prompt).unwrap();
        }
        draft
    };
    let prompts = ["a red star", "", "two blue rings above a green circle"];
    let order = [Modality::Speech, Modality::Text, Modality::Image, Modality::Text, Modality::Text];
    let agrees = |seed: u64| {
        let mut together: Vec<_> = prompts.iter().zip(seed..).map(|(prompt, seed)| draft(seed, prompt)).collect();
        let mut alone = together.clone();
        order.into_iter().all(|modality| {
            let got = draw(&mut together, modality).unwrap();
            let want: Vec<Part> = alone.iter_mut().map(|draft| draft.draw(modality).unwrap()).collect();
            got == want
        })
    };
    let n_agreeing = (0..BATCHES).filter(|batch| agrees(100 * batch)).count();
    assert!(n_agreeing >= 6, "{n_agreeing} of {BATCHES} batches agree");
    // Other seeds, other documents; and a clone goes on as its original would.
    let mut copies = [draft(1, "a"), draft(1, "a"), draft(1, "a").with_seed(2)];
    let [a, b, c] = &draw(&mut copies, Modality::Text).unwrap()[..] else { panic!() };
    assert!(a == b && a != c);
    assert!(draw(&mut [], Modality::Text).unwrap().is_empty());
}

#[test]
fn samples_are_taken_beside_training_and_an_average_is_kept() {
    let overrides = ["train.steps=20", "train.eval_every=10", "train.checkpoint_every=10"];
    let plain = Learnt::new("three-modality", &overrides);
    let more = [&overrides[..], &["train.sample_every=10", "train.ema=0.9"]].concat();
    let learnt = Learnt::new("three-modality", &more);
    // Nothing of the run changes.
    let lines = |learnt: &Learnt, ema: bool| -> Vec<String> {
        let text = read(learnt.path().join("metrics.jsonl"));
        text.lines().filter(|line| line.contains("validation_ema") == ema).map(str::to_owned).collect()
    };
    assert_eq!(lines(&plain, false), lines(&learnt, false));
    assert_eq!((lines(&plain, true).len(), lines(&learnt, true).len()), (0, 2));
    let (folder, samples) = Samples::newest(learnt.path()).unwrap().unwrap();
    assert_eq!((samples.step, samples.samples.len()), (20, 16), "four of each kind");
    assert!(learnt.path().join("samples/step-00000010/samples.json").is_file());
    let media = |path: &PathBuf, begin: &[u8]| assert!(fs::read(folder.join(path)).unwrap().starts_with(begin));
    for sample in &samples.samples {
        for shown in [&sample.prompt, &sample.truth, &sample.drawn] {
            match shown {
                Shown::Text(text) => assert!(!text.is_empty()),
                Shown::Image(path) => media(path, b"\x89PNG"),
                Shown::Speech(path) => media(path, b"RIFF"),
            }
        }
    }
    // The average is evaluated as in training, and exported.
    let run = learnt.path().to_str().unwrap();
    let joint = |arguments: &[&str]| -> f64 {
        let output = mom_train(&[&["eval", "--json"], arguments].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()["joint"].as_f64().unwrap()
    };
    let of_average = serde_json::from_str::<serde_json::Value>(&lines(&learnt, true)[1]).unwrap()["joint"].clone();
    let (last, average) = (joint(&["--model", run]), joint(&["--model", run, "--ema"]));
    assert!(last != average && Some(average) == of_average.as_f64(), "{last} {average} {of_average}");
    let export = learnt.path().join("export");
    let output = mom_train(&["export", "--model", run, "--out", export.to_str().unwrap(), "--ema"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(joint(&["--model", export.to_str().unwrap()]), average);
    let message = Trained::open(plain.path()).unwrap().with_ema().unwrap_err().to_string();
    assert!(message.contains("no average of weights") && message.contains("train.ema"), "{message}");

    // Scores of what it draws, and an error where there is nothing to draw from.
    let texts = learnt.path().join("texts.jsonl");
    fs::write(&texts, (0..8).map(|i| format!("{{\"text\": \"a red star {i}\"}}\n")).collect::<String>()).unwrap();
    let on_texts = ["eval", "--model", run, "--data", texts.to_str().unwrap(), "--scores", "3"];
    let message = error_of(&mom_train(&on_texts));
    assert!(message.contains("scores must be 0 for these data"), "{message}");
    let output = mom_train(&["eval", "--model", run, "--scores", "3"]);
    let text = String::from_utf8(output.stdout).unwrap();
    for kind in
        ["text to image, 3 documents: nearer", "image to text, 3 documents: exact", "text to speech", "speech to text"]
    {
        assert!(text.contains(kind), "{kind}: {text}");
    }
}

#[test]
fn an_average_goes_on_with_its_run() {
    let overrides = ["train.eval_every=4", "train.checkpoint_every=4", "optimizer.schedule=constant", "train.ema=0.9"];
    let with = |steps: &'static str| [&overrides[..], &[steps]].concat();
    let whole = Learnt::new("chameleon", &with("train.steps=12"));
    let halves = Learnt::new("chameleon", &with("train.steps=8"));
    let text = read(halves.path().join("config.toml")).replace("steps = 8", "steps = 12");
    let config = RunConfig::from_toml(&text, &[]).unwrap();
    let run = RunFolder::open(halves.path(), &config).unwrap();
    train_in(&run, &config, &halves.prepared, &mut Silent).unwrap();
    let of =
        |learnt: &Learnt, name: &str| fs::read(learnt.path().join("checkpoints/step-00000012").join(name)).unwrap();
    assert!(of(&whole, "ema.safetensors") == of(&halves, "ema.safetensors"));
    assert!(of(&whole, "weights.safetensors") == of(&halves, "weights.safetensors"));
    assert_eq!(read(whole.path().join("metrics.jsonl")), read(halves.path().join("metrics.jsonl")));
}

#[test]
fn prompts_of_a_file_and_a_conversation() {
    let learnt = Learnt::new("chameleon", &["train.steps=4", "train.eval_every=4"]);
    let (run, out) = (learnt.path().to_str().unwrap(), learnt.path().join("drawn"));
    let prompts = learnt.path().join("prompts.txt");
    fs::write(&prompts, "a red star\n[\"two \", \"rings\"]\n").unwrap();
    let arguments = ["generate", "--model", run, "--prompts", prompts.to_str().unwrap(), "--max-tokens", "5"];
    let then = ["--then", "image,text", "--samples", "2", "--batch", "3", "--out", out.to_str().unwrap()];
    let output = mom_train(&[&arguments[..], &then].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<serde_json::Value> =
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ids: Vec<_> = lines.iter().map(|line| (line["prompt"].as_u64(), line["sample"].as_u64())).collect();
    assert_eq!(ids, [(Some(0), Some(0)), (Some(0), Some(1)), (Some(1), Some(0)), (Some(1), Some(1))]);
    for line in &lines {
        assert!(fs::read(line["parts"][0]["image"].as_str().unwrap()).unwrap().starts_with(b"\x89PNG"));
        assert!(line["parts"][1]["text"].is_string());
    }
    for (wrong, expected) in [
        (&["--then", "image"][..], "--then image needs --out"),
        (&["--then", "text", "--out", "x.png"], "--out is for pictures and speech, and --then is text"),
        (&["--then", "image", "--out", prompts.to_str().unwrap()], "must be a folder for 2 files"),
        (&["--then", "text", "--batch", "0"], "--batch must be at least 1"),
        (&["--then", "text", "--samples", "0"], "--samples must be at least 1"),
    ] {
        let message = error_of(&mom_train(&[&arguments[..], wrong].concat()));
        assert!(message.contains(expected), "{message}");
    }

    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_mom-train"))
        .args(["generate", "--model", run, "--interactive", "--max-tokens", "5", "--out", out.to_str().unwrap()])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = "a red\n/undo\na red\n/image\n/text\n/nonsense\n/add image:nowhere.png\n/speech x.wav\n/new\n/undo\n/quit\na red\n";
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), lines.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let (said, told) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    let alone = mom_train(&["generate", "--model", run, "--then", "text", "--max-tokens", "5", "a red"]);
    let alone = String::from_utf8(alone.stdout).unwrap();
    assert!(said.starts_with(&alone.repeat(2)), "taken back and asked again: the draws are the document's: {said}");
    assert!(said.contains("0001.png") && out.join("0001.png").is_file(), "{said}");
    for expected in ["there is no /nonsense", "nowhere.png", "speech units"] {
        assert!(told.contains(expected), "{expected}: {told}");
    }
}
