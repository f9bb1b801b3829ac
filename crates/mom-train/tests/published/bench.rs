//! Small runs over shards whose media go through golden networks.

use std::fs;
use std::path::{Path, PathBuf};

use mom_data::encode;
use mom_data::scenes::{SceneConfig, ShardOptions, document, write_shards};
use mom_train::run::{RunFolder, Silent, train_in};
use mom_train::samples::{Samples, Shown};
use mom_train::telemetry::RunResult;
use mom_train::{DeviceKind, EvalOptions, GenerateOptions, Generator, Prepared, RunConfig, Trained, evaluate};
use safetensors::SafeTensors;

use crate::common::read;

/// The settings of a network whose golden file holds its weights.
pub const VAE: &str = r#"{ "norm_num_groups": 8, "scaling_factor": 0.18215 }"#;
pub const MIMI: &str = r#"{ "num_attention_heads": 2 }"#;

/// Weights of a golden file as a publisher's file has them, with its settings beside.
pub fn weights(golden: &str, folder: &Path, settings: Option<&str>) -> PathBuf {
    weights_of(golden, folder, settings, |_| true)
}

/// As [`weights`], those of some names alone.
pub fn weights_of(golden: &str, folder: &Path, settings: Option<&str>, kept: fn(&str) -> bool) -> PathBuf {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../mom-models/tests/golden/codecs");
    let bytes = fs::read(models.join(format!("{golden}.safetensors"))).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let of_network = file.iter().filter_map(|(name, view)| Some((name.strip_prefix("weights.")?.to_owned(), view)));
    let of_network = of_network.filter(|(name, _)| kept(name));
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
pub fn centroids(golden: &str, folder: &Path) -> PathBuf {
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
pub fn vqgan(weights: &Path) -> String {
    format!("image = {{ kind = \"vqgan\", weights = {weights:?}, size = 64, codes = 256, batch = 5 }}")
}

pub fn vae(weights: &Path) -> String {
    format!("image = {{ kind = \"vae\", weights = {weights:?}, size = 64, channels = 4 }}")
}

pub fn mimi(weights: &Path) -> String {
    format!("speech = {{ kind = \"mimi\", weights = {weights:?}, units = 32 }}")
}

/// Shards of 16 documents: pictures as PNG or JPEG files, recordings as WAV.
pub fn shards(folder: &Path) -> PathBuf {
    let options = ShardOptions { documents: 16, documents_per_shard: 8, ..ShardOptions::default() };
    let path = folder.join("shards");
    write_shards(&path, &options, |_, _| {}).unwrap();
    path
}

/// A folder with shards and a configuration's text over them.
pub struct Bench {
    pub folder: tempfile::TempDir,
    device: DeviceKind,
    setting: &'static str,
    tokenizers: String,
}

impl Bench {
    /// A bench on the CPU.
    pub fn new(setting: &'static str, tokenizers: impl FnOnce(&Path) -> String) -> Self {
        Self::on(DeviceKind::Cpu, setting, tokenizers)
    }

    /// A bench whose networks and model compute where `device` says.
    pub fn on(device: DeviceKind, setting: &'static str, tokenizers: impl FnOnce(&Path) -> String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        shards(folder.path());
        let tokenizers = tokenizers(folder.path());
        Self { folder, device, setting, tokenizers }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn text(&self) -> String {
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
            device = "{}"
            "#,
            self.setting,
            self.path("shards"),
            if self.tokenizers.contains("text = ") { "" } else { "text = { vocab_size = 270 }" },
            self.tokenizers,
            if self.device == DeviceKind::Cuda { "cuda" } else { "cpu" },
        )
    }

    pub fn config(&self, overrides: &[&str]) -> RunConfig {
        self.read(overrides).unwrap()
    }

    pub fn read(&self, overrides: &[&str]) -> mom_train::Result<RunConfig> {
        let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
        RunConfig::from_toml(&self.text(), &overrides)
    }

    pub fn train(&self, run: &str, overrides: &[&str]) -> mom_train::Result<RunResult> {
        let config = self.read(overrides)?;
        let run = self.path(run);
        let folder = RunFolder::open(&run, &config)?;
        train_in(&folder, &config, &Prepared::new(&config, &run, |_| {})?, &mut Silent)
    }

    /// The message of a run that is refused, and leaves no tokenizers behind.
    pub fn refused(&self, overrides: &[&str]) -> String {
        let message = self.train("refused", overrides).unwrap_err().to_string();
        assert!(!self.path("refused/tokenizers").exists() && !self.path("refused/tokens").exists(), "{message}");
        message
    }

    /// Trains in one go and in two, with the same losses; the run takes samples, is evaluated and exported. The export's folder.
    pub fn trains_and_exports(&self) -> PathBuf {
        self.trains_and_exports_with(&[])
    }

    /// As [`Self::trains_and_exports`], with more of a configuration.
    pub fn trains_and_exports_with(&self, overrides: &[&str]) -> PathBuf {
        let train = |run, more: &[&str]| self.train(run, &[overrides, more].concat()).unwrap();
        let whole = train("whole", &["train.sample_every=6"]);
        train("halved", &["train.steps=2"]);
        let resumed = train("halved", &[]);
        let losses = |result: &RunResult| result.curve.iter().map(|at| (at.step, at.joint)).collect::<Vec<_>>();
        assert_eq!(losses(&whole), losses(&resumed));
        assert!(whole.curve.iter().all(|at| at.joint.is_finite()));
        let trained = Trained::open(&self.path("whole")).unwrap();
        let options = EvalOptions { device: self.device, ..EvalOptions::default() };
        let evaluation = evaluate(&trained, &options, &self.path("whole"), |_| {}).unwrap();
        assert_eq!(Some(evaluation.joint), whole.curve.last().map(|at| at.joint));
        let export = self.path("export");
        trained.export(&export).unwrap();
        // Which weights made its tokens stands in it, in words that say where they lie and what they are.
        let head = read(export.join("tokenizers/tokenizers.json"));
        assert!(head.contains("model.safetensors") && head.contains("\"blake3\""), "{head}");
        export
    }

    pub fn generator(&self, model: &Path) -> Generator {
        Generator::new(&Trained::open(model).unwrap(), self.device, None).unwrap()
    }

    /// The newest samples of the run that takes some, by what was given and what is shown of it.
    pub fn samples(&self) -> Vec<(Shown, Shown, Shown)> {
        let (_, samples) = Samples::newest(&self.path("whole")).unwrap().unwrap();
        samples.samples.into_iter().map(|sample| (sample.prompt, sample.truth, sample.drawn)).collect()
    }
}

pub fn options() -> GenerateOptions {
    GenerateOptions { n_steps: 4, max_tokens: 5, ..GenerateOptions::default() }
}

/// A picture and a recording of the generator, as files.
pub fn prompts(folder: &Path) -> [PathBuf; 2] {
    let document = document(3, 0, &SceneConfig::default());
    let [picture, sound] = ["picture.png", "sound.wav"].map(|name| folder.join(name));
    fs::write(&picture, encode::png(&document.image).unwrap()).unwrap();
    let rate = SceneConfig::default().sample_rate;
    fs::write(&sound, encode::wav(&document.speech, rate).unwrap()).unwrap();
    [picture, sound]
}
