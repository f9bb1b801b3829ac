//! Runs over tokens that published networks make, with small random weights: each trains, goes on, draws, and is exported; what does
//! not fit is refused before anything is made.
#![allow(clippy::unwrap_used, reason = "a helper of a test may fail as the test does")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{error_of, mom_train, read};
use mom_data::scenes::{SceneConfig, ShardOptions, document, write_shards};
use mom_data::{Modality, SourceConfig, encode, media};
use mom_train::run::{RunFolder, Silent, train_in};
use mom_train::samples::{Samples, Shown};
use mom_train::telemetry::RunResult;
use mom_train::{
    DeviceKind, EvalOptions, GenerateOptions, Generator, Part, Prepared, PromptPart, RunConfig, Trained, evaluate,
};
use safetensors::SafeTensors;

/// The settings of a network whose golden file holds its weights.
const VAE: &str = r#"{ "norm_num_groups": 8, "scaling_factor": 0.18215 }"#;
const MIMI: &str = r#"{ "num_attention_heads": 2 }"#;

/// Weights of a golden file as a publisher's file has them, with its settings beside.
fn weights(golden: &str, folder: &Path, settings: Option<&str>) -> PathBuf {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../mom-models/tests/golden/codecs");
    let bytes = fs::read(models.join(format!("{golden}.safetensors"))).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let of_network = file.iter().filter_map(|(name, view)| Some((name.strip_prefix("weights.")?.to_owned(), view)));
    let place = folder.join(golden);
    fs::create_dir_all(&place).unwrap();
    let path = place.join("model.safetensors");
    fs::write(&path, safetensors::serialize(of_network, None).unwrap()).unwrap();
    if let Some(settings) = settings {
        fs::write(place.join("config.json"), settings).unwrap();
    }
    path
}

/// Centroids of a golden file, as a file of their own.
fn centroids(golden: &str, folder: &Path) -> PathBuf {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../mom-models/tests/golden/codecs");
    let bytes = fs::read(models.join(format!("{golden}.safetensors"))).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let path = folder.join("km.safetensors");
    let of_file = [("centroids".to_owned(), file.tensor("centroids").unwrap())];
    fs::write(&path, safetensors::serialize(of_file, None).unwrap()).unwrap();
    path
}

/// Lines of a configuration for each network: images of 64 pixels, of which the VQGAN makes 4 x 4 codes, and the autoencoder 8 x 8
/// latents in 4 x 4 patches.
fn vqgan(weights: &Path) -> String {
    format!("image = {{ kind = \"vqgan\", weights = {weights:?}, size = 64, codes = 256, batch = 5 }}")
}

fn vae(weights: &Path) -> String {
    format!("image = {{ kind = \"vae\", weights = {weights:?}, size = 64, channels = 4 }}")
}

fn mimi(weights: &Path) -> String {
    format!("speech = {{ kind = \"mimi\", weights = {weights:?}, units = 32 }}")
}

/// Shards of 16 documents: pictures as PNG or JPEG files, recordings as WAV.
fn shards(folder: &Path) -> PathBuf {
    let options = ShardOptions { documents: 16, documents_per_shard: 8, ..ShardOptions::default() };
    let path = folder.join("shards");
    write_shards(&path, &options, |_, _| {}).unwrap();
    path
}

/// A folder with shards and a configuration's text over them.
struct Bench {
    folder: tempfile::TempDir,
    setting: &'static str,
    tokenizers: String,
}

impl Bench {
    fn new(setting: &'static str, tokenizers: impl FnOnce(&Path) -> String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        shards(folder.path());
        let tokenizers = tokenizers(folder.path());
        Self { folder, setting, tokenizers }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self) -> String {
        format!(
            r#"
            model = {{ setting = "{}", variant = "mom", scale = "nano" }}
            optimizer = {{ learning_rate = 1e-2, warmup_steps = 2, schedule = "constant" }}
            [data]
            batch = 2
            seqlen = 192
            shards = {:?}
            [data.tokenizers]
            held_out = 0.4
            {}
            {}
            [train]
            steps = 6
            eval_every = 2
            eval_batches = 1
            checkpoint_every = 2
            "#,
            self.setting,
            self.path("shards"),
            if self.tokenizers.contains("text = ") { "" } else { "text = { vocab_size = 270 }" },
            self.tokenizers
        )
    }

    fn config(&self, overrides: &[&str]) -> RunConfig {
        self.read(overrides).unwrap()
    }

    fn read(&self, overrides: &[&str]) -> mom_train::Result<RunConfig> {
        let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
        RunConfig::from_toml(&self.text(), &overrides)
    }

    fn train(&self, run: &str, overrides: &[&str]) -> mom_train::Result<RunResult> {
        let config = self.read(overrides)?;
        let run = self.path(run);
        let folder = RunFolder::open(&run, &config)?;
        train_in(&folder, &config, &Prepared::new(&config, &run, |_| {})?, &mut Silent)
    }

    /// The message of a run that is refused, and leaves no tokenizers behind.
    fn refused(&self, overrides: &[&str]) -> String {
        let message = self.train("refused", overrides).unwrap_err().to_string();
        assert!(!self.path("refused/tokenizers").exists() && !self.path("refused/tokens").exists(), "{message}");
        message
    }

    /// Trains in one go and in two, with the same losses; the run takes samples, is evaluated and exported. The export's folder.
    fn trains_and_exports(&self) -> PathBuf {
        let whole = self.train("whole", &["train.sample_every=6"]).unwrap();
        self.train("halved", &["train.steps=2"]).unwrap();
        let resumed = self.train("halved", &[]).unwrap();
        let losses = |result: &RunResult| result.curve.iter().map(|at| (at.step, at.joint)).collect::<Vec<_>>();
        assert_eq!(losses(&whole), losses(&resumed));
        assert!(whole.curve.iter().all(|at| at.joint.is_finite()));
        let trained = Trained::open(&self.path("whole")).unwrap();
        let evaluation = evaluate(&trained, &EvalOptions::default(), &self.path("whole"), |_| {}).unwrap();
        assert_eq!(Some(evaluation.joint), whole.curve.last().map(|at| at.joint));
        let export = self.path("export");
        trained.export(&export).unwrap();
        // Which weights made its tokens stands in it, in words that say where they lie and what they are.
        let head = read(export.join("tokenizers/tokenizers.json"));
        assert!(head.contains("model.safetensors") && head.contains("\"blake3\""), "{head}");
        export
    }

    fn generator(&self, model: &Path) -> Generator {
        Generator::new(&Trained::open(model).unwrap(), DeviceKind::Cpu, None).unwrap()
    }

    /// The newest samples of the run that takes some, by what was given and what is shown of it.
    fn samples(&self) -> Vec<(Shown, Shown, Shown)> {
        let (_, samples) = Samples::newest(&self.path("whole")).unwrap().unwrap();
        samples.samples.into_iter().map(|sample| (sample.prompt, sample.truth, sample.drawn)).collect()
    }
}

fn options() -> GenerateOptions {
    GenerateOptions { n_steps: 4, max_tokens: 5, ..GenerateOptions::default() }
}

/// A picture and a recording of the generator, as files.
fn prompts(folder: &Path) -> [PathBuf; 2] {
    let document = document(3, 0, &SceneConfig::default());
    let [picture, sound] = ["picture.png", "sound.wav"].map(|name| folder.join(name));
    fs::write(&picture, encode::png(&document.image).unwrap()).unwrap();
    let rate = SceneConfig::default().sample_rate;
    fs::write(&sound, encode::wav(&document.speech, rate).unwrap()).unwrap();
    [picture, sound]
}

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
        ("image.weights=nowhere", "nowhere is no file"),
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
fn what_does_not_fit_is_refused_before_anything_is_made() {
    let bench = Bench::new("chameleon", |folder| vqgan(&weights("chameleon_vqgan", folder, None)));
    let vae = weights("sd_vae", bench.folder.path(), Some(VAE));
    let mimi = weights("mimi_odd_length", bench.folder.path(), Some(MIMI));
    let weights = |path: &Path| format!("data.tokenizers.image.weights={}", path.display());
    let cut = bench.path("cut.safetensors");
    fs::write(&cut, &fs::read(&vae).unwrap()[..5000]).unwrap();
    let code = bench.path("code.bin");
    fs::write(&code, b"\x80\x02cposix\nsystem\n(X\x04\x00\x00\x00trueq\x01tR.").unwrap();
    let text = bench.path("text.ckpt");
    fs::write(&text, "not weights").unwrap();
    let kind_vae = "data.tokenizers.image.kind=vae";
    let transfusion = ["model.setting=transfusion", kind_vae, &weights(&vae)];
    let transfusion = |more: &'static str| [&transfusion[..], &[more]].concat();
    for (overrides, expected) in [
        (vec!["model.setting=transfusion"], &["tokenizers.image.kind", "continuous values", "got vqgan"][..]),
        (vec![kind_vae], &["tokenizers.image.kind", "makes codes", "got vae"]),
        (vec![&weights(&vae)], &["sd_vae/model.safetensors", "Chameleon's VQGAN", "a KL autoencoder"]),
        (vec![&weights(&mimi)], &["expects the weights of Chameleon's VQGAN", "it holds Mimi"]),
        (vec![&weights(Path::new("nowhere.ckpt"))], &["nowhere.ckpt", "No such file"]),
        (vec![&weights(&cut)], &["cut.safetensors"]),
        (vec![&weights(&code)], &["code.bin", "posix.system", "refused"]),
        (vec![&weights(&text)], &["text.ckpt", "safetensors, or a pickle"]),
        (vec!["data.tokenizers.image.codes=8192"], &["data.tokenizers.image.codes must be 256", "got 8192"]),
        (vec!["data.tokenizers.image.patch=8"], &["data.tokenizers.image.patch must be 16", "got 8"]),
        (vec!["data.tokenizers.image.size=40", "data.tokenizers.image.patch=8"], &["patch must be 16"]),
        (vec!["data.tokenizers.image.kind=vqvae"], &["kind", "vqvae"]),
        (vec!["data.tokenizers.image.wheights=x"], &["wheights"]),
        (vec!["data.tokenizers.image.latents=draw"], &["image.latents must be absent for kind vqgan"]),
        (vec!["data.tokenizers.image.config=nowhere.json"], &["nowhere.json"]),
        (transfusion("data.tokenizers.image.channels=16"), &["image.channels must be 4", "got 16"]),
        (
            transfusion("data.tokenizers.image.size=72"),
            &["image.patch must be a divisor of the 9 x 9 latents", "got 2"],
        ),
        (transfusion("data.seqlen=17"), &["data.seqlen must be at least 18", "got 17"]),
    ] {
        let overrides = [&overrides[..], &["data.tokenizers.image.channels=4"]].concat();
        let overrides: Vec<&str> = match overrides.contains(&"data.tokenizers.image.channels=16") {
            true => overrides[..overrides.len() - 1].to_vec(),
            false => overrides,
        };
        let message = bench.refused(&overrides);
        assert!(expected.iter().all(|words| message.contains(words)), "{overrides:?}: {message}");
    }
    let speech = Bench::new("three-modality", |folder| {
        let quantizer = centroids("hubert_base", folder);
        let hubert =
            self::weights("hubert_large", folder, Some(r#"{ "num_attention_heads": 3, "do_normalize": true }"#));
        format!(
            "speech = {{ kind = \"hubert\", weights = {hubert:?}, quantizer = {quantizer:?}, layer = 2, units = 24 }}\n\
             image = {{ codes = 16 }}"
        )
    });
    let message = speech.refused(&[]);
    assert!(message.contains("quantizer must be for 48 channels, got 64"), "{message}");
    let message = speech.refused(&["data.tokenizers.speech.layer=5"]);
    assert!(message.contains("layer must be 1 to 4, got 5"), "{message}");
    let message = speech.refused(&[&format!("data.tokenizers.speech.weights={}", mimi.display())]);
    assert!(message.contains("expects the weights of HuBERT, and it holds Mimi"), "{message}");
    let of_mimi = Bench::new("three-modality", |_| format!("{}\nimage = {{ codes = 16 }}", self::mimi(&mimi)));
    let message = of_mimi.refused(&["data.tokenizers.speech.units=2048"]);
    assert!(message.contains("speech.units must be 32") && message.contains("got 2048"), "{message}");
    let message = of_mimi.refused(&["data.tokenizers.speech.sample_rate=16000"]);
    assert!(message.contains("speech.sample_rate must be 24000") && message.contains("got 16000"), "{message}");
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
    let output = mom_train(&[&arguments[..], &more, &paths, &overrides].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let run = fs::read_dir(out.join("runs")).unwrap().next().unwrap().unwrap().path();
    let config: RunConfig = RunConfig::from_toml(&read(run.join("config.toml")), &[]).unwrap();
    let image = &config.data.tokenizers.image;
    assert_eq!((image.size, image.codes, image.patch, config.data.tokenizers.speech.sample_rate), (64, 256, 16, 8000));
    let (_, samples) = Samples::newest(&run).unwrap().unwrap();
    assert!(samples.samples.iter().any(|sample| matches!(sample.drawn, Shown::Image(_))), "{samples:?}");
    assert!(read(out.join("report.html")).contains("data:image/png"), "the report shows what was drawn");
}
