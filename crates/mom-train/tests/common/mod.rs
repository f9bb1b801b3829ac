//! Small runs on a few generated documents.
#![allow(dead_code, reason = "each test binary uses its own part")]

#[cfg(feature = "cuda")]
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
#[cfg(feature = "cuda")]
use std::sync::{Mutex, MutexGuard, PoisonError};

use mom_data::scenes::{ShardOptions, write_shards};
use mom_models::Setting;
use mom_train::RunConfig;

/// Shards that the tests of a binary share.
pub fn shards() -> &'static Path {
    static SHARDS: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = SHARDS.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let options = ShardOptions { documents: 96, documents_per_shard: 48, ..ShardOptions::default() };
        write_shards(folder.path().join("shards"), &options, |_, _| {}).unwrap();
        folder
    });
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| folder.path().join("shards"))
}

/// Overrides that make a configuration small.
pub const SMALL: [&str; 5] = [
    "data.tokenizers.text.vocab_size=280",
    "data.tokenizers.image.codes=24",
    "data.tokenizers.speech.units=16",
    "data.tokenizers.held_out=0.2",
    "train.eval_batches=2",
];

pub fn config(setting: Setting, overrides: &[&str]) -> RunConfig {
    let text = format!(
        r#"
        model = {{ setting = "{setting}", variant = "mom", scale = "nano" }}
        data = {{ shards = {:?}, batch = 2, seqlen = 192 }}
        train = {{ steps = 9, eval_every = 3, checkpoint_every = 4 }}
        optimizer = {{ learning_rate = 1e-2, warmup_steps = 2 }}
        "#,
        shards()
    );
    let overrides: Vec<String> = SMALL.iter().chain(overrides).map(|&text| text.to_owned()).collect();
    RunConfig::from_toml(&text, &overrides).unwrap()
}

/// Runs the program; its standard error is for the assertion.
pub fn mom_train(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mom-train")).args(arguments).output().unwrap()
}

pub fn error_of(output: &Output) -> String {
    assert!(!output.status.success(), "expected a failure");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!text.contains("panicked"), "{text}");
    assert_eq!(text.matches("error:").count(), 1, "one message: {text}");
    text
}

pub fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path.as_ref()).unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display()))
}

/// The first GPU, for one test of a binary at a time: what another puts on its stream while a step is captured would become a part of
/// that. Where there is none, says so on stderr.
#[cfg(feature = "cuda")]
#[allow(clippy::explicit_write, reason = "`eprintln` is captured")]
pub fn gpu(test: &str) -> Option<MutexGuard<'static, ()>> {
    static ONE: Mutex<()> = Mutex::new(());
    let Err(error) = mom_core::cuda_device(0) else {
        return Some(ONE.lock().unwrap_or_else(PoisonError::into_inner));
    };
    // Past the capture of a test's output.
    writeln!(std::io::stderr(), "SKIPPED {test}: {error}").unwrap();
    assert!(std::env::var_os("MOM_REQUIRE_GPU").is_none(), "MOM_REQUIRE_GPU is set, but {error}");
    None
}
