//! Ranks that are processes of their own: by the variables of a launcher, and by `--gpus`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::common::{SMALL, read, shards};
use crate::threads::port;

/// A run's configuration as a file, and its folder.
pub struct Run {
    pub folder: tempfile::TempDir,
    overrides: Vec<String>,
}

impl Run {
    pub fn new(overrides: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            r#"
            model = {{ setting = "chameleon", variant = "mom", scale = "nano" }}
            data = {{ shards = {:?}, batch = 4, seqlen = 192 }}
            train = {{ steps = 8, accumulate = 3, eval_every = 4, checkpoint_every = 2 }}
            optimizer = {{ learning_rate = 1e-2, warmup_steps = 2 }}
            "#,
            shards()
        );
        std::fs::write(folder.path().join("run.toml"), text).unwrap();
        let overrides = SMALL.iter().chain(overrides).map(|&text| text.to_owned()).collect();
        Self { folder, overrides }
    }

    pub fn out(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    /// The command that trains into a folder.
    pub fn command(&self, out: &Path, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mom-train"));
        command.arg("train").arg("--config").arg(self.folder.path().join("run.toml")).arg("--out").arg(out);
        command.args(&self.overrides).args(more).env("RAYON_NUM_THREADS", "1");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Starts `size` ranks, as torchrun would. `change` may change a rank's command.
    pub fn start(&self, size: usize, more: &[&str], change: impl Fn(usize, Command) -> Command) -> Vec<Child> {
        let port = port().to_string();
        let start = |rank: usize| {
            let mut command = change(rank, self.command(&self.out(), more));
            let place =
                [("RANK", rank.to_string()), ("LOCAL_RANK", rank.to_string()), ("WORLD_SIZE", size.to_string())];
            command.envs(place).env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", &port).spawn().unwrap()
        };
        (0..size).map(start).collect()
    }
}

/// Waits for all, in their order.
pub fn outputs(children: Vec<Child>) -> Vec<Output> {
    children.into_iter().map(|child| child.wait_with_output().unwrap()).collect()
}

pub fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Waits until a file is there.
pub fn wait_for(path: &Path) {
    let start = Instant::now();
    while !path.exists() {
        assert!(start.elapsed() < Duration::from_secs(60), "{} never came", path.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Steps and losses of a run's validations.
pub fn losses(out: &Path) -> Vec<(u64, f64)> {
    let result: serde_json::Value = serde_json::from_str(&read(out.join("result.json"))).unwrap();
    let point = |point: &serde_json::Value| (point["step"].as_u64().unwrap(), point["joint"].as_f64().unwrap());
    result["curve"].as_array().unwrap().iter().map(point).collect()
}

pub fn assert_alike(got: &[(u64, f64)], want: &[(u64, f64)]) {
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(want) {
        assert!(got.0 == want.0 && (got.1 / want.1 - 1.0).abs() < 1e-5, "{got:?}, expected {want:?}");
    }
}

#[test]
fn a_launchers_processes_and_ones_own_train_what_one_process_does() {
    let run = Run::new(&[]);
    let alone = run.folder.path().join("alone");
    let output = run.command(&alone, &[]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    for output in outputs(run.start(3, &[], |_, command| command)) {
        assert!(output.status.success(), "{}", text(&output));
    }
    assert_alike(&losses(&run.out()), &losses(&alone));
    let own = run.folder.path().join("own");
    let output = run.command(&own, &["--gpus", "2"]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert_alike(&losses(&own), &losses(&alone));
    assert!(text(&output).contains("2 ranks"), "{}", text(&output));
    // Told once, by rank 0.
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(told.matches("text: validation loss").count(), 1, "{told}");
}
