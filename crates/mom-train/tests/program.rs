//! The program from the outside: sweeps that are killed, and bad input, each with one message and nothing lost.
#![allow(clippy::unwrap_used, reason = "a helper of a test may fail as the test does")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{SMALL, error_of, mom_train, read, shards};

fn sweep<'a>(out: &'a Path, steps: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec!["ablate", "--setting", "chameleon", "--variants", "dense,mom,in", "--scale", "nano"];
    arguments.extend(["--steps", steps, "--batch", "2", "--seqlen", "96", "--out", out.to_str().unwrap()]);
    arguments.extend(["--data", shards().to_str().unwrap()]);
    if !more.contains(&"--seeds") {
        arguments.extend(["--seeds", "0"]);
    }
    arguments.extend(more);
    arguments.extend(SMALL);
    arguments
}

/// `results.json` without what a clock or a memory meter says.
fn results(out: &Path) -> serde_json::Value {
    let mut results: serde_json::Value = serde_json::from_str(&read(out.join("results.json"))).unwrap();
    for record in results["records"].as_array_mut().unwrap() {
        for field in ["wall_secs", "peak_memory_bytes"] {
            assert!(record.as_object_mut().unwrap().remove(field).unwrap().as_f64().unwrap() > 0.0);
        }
    }
    results
}

#[test]
fn a_sweep_killed_at_several_points_ends_with_the_same_results() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, killed) = (folder.path().join("whole"), folder.path().join("killed"));
    let output = mom_train(&sweep(&whole, "40", &[]));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let mut kills = 0;
    for _ in 0..50 {
        let mut child = Command::new(env!("CARGO_BIN_EXE_mom-train"))
            .args(sweep(&killed, "40", &[]))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Later and later, so that it gets somewhere.
        std::thread::sleep(Duration::from_millis(20 + 30 * kills));
        if child.try_wait().unwrap().is_some() {
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
    }
    assert!(kills >= 2, "killed {kills} times");
    assert!(mom_train(&sweep(&killed, "40", &[])).status.success());
    assert_eq!(results(&whole), results(&killed));
    assert_eq!(read(whole.join("curves.csv")), read(killed.join("curves.csv")));

    let records = results(&whole);
    assert_eq!(records["schema"], 2);
    assert_eq!(records["records"].as_array().unwrap().len(), 4 * 2, "three variants and the null");
    let first = &records["records"][0];
    for field in ["setting", "variant", "seed", "modality", "final_val_loss", "gain_over_dense", "steps", "tokens"] {
        assert!(!first[field].is_null(), "{field}: {first}");
    }
    for file in ["report.md", "report.html", "curves.csv", "results.json"] {
        assert!(fs::metadata(whole.join(file)).unwrap().len() > 100, "{file}");
    }
    assert!(fs::read_dir(whole.join("plots")).unwrap().count() >= 3);
    assert!(!read(whole.join("report.html")).contains("<script src"), "the page needs nothing else");

    // Fewer variants in a second call: what is done stays in the comparison. A seed given twice is one run.
    assert!(mom_train(&sweep(&whole, "40", &["--seeds", "0,0"])).status.success());
    assert_eq!(results(&whole), results(&killed));
    let mut fewer = sweep(&whole, "40", &[]);
    let at = fewer.iter().position(|&word| word == "dense,mom,in").unwrap();
    fewer[at] = "mom";
    assert!(mom_train(&fewer).status.success());
    assert_eq!(results(&whole), results(&killed));

    // Another number of steps in the same folder is refused before anything is done.
    let before = read(whole.join("results.json"));
    let message = error_of(&mom_train(&sweep(&whole, "50", &[])));
    assert!(message.contains("train.steps = 40 (now 50)"), "{message}");
    assert_eq!(read(whole.join("results.json")), before);
}

#[test]
fn a_dry_run_prints_the_runs_and_touches_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let output = mom_train(&sweep(&out, "40", &["--dry-run", "--no-bracket", "--no-null"]));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success() && text.contains("chameleon in seed 0") && text.contains("3 runs, about"),
        "{text}"
    );
    assert!(!out.exists());
    let mut all = vec!["ablate", "--dry-run", "--scale", "nano", "--variants", "all16,published", "--seeds", "0,1"];
    all.extend(["--no-bracket", "--no-null", "--setting", "all"]);
    let all = mom_train(&all);
    let text = String::from_utf8(all.stdout).unwrap();
    assert!(text.contains("102 runs"), "{text}");
}

#[test]
fn a_sweep_in_slices_of_time_ends_with_the_same_results() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, sliced) = (folder.path().join("whole"), folder.path().join("sliced"));
    assert!(mom_train(&sweep(&whole, "40", &[])).status.success());
    // No time at all: nothing is trained, and nothing is wrong.
    let output = mom_train(&sweep(&sliced, "40", &["--minutes", "0"]));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("time is up"), "{text}");
    // A slice that begins takes a step at least.
    let mut slices = 0;
    loop {
        let output = mom_train(&sweep(&sliced, "40", &["--minutes", "0.005"]));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        if !String::from_utf8(output.stdout).unwrap().contains("time is up") {
            break;
        }
        slices += 1;
        assert!(slices < 200, "it gets nowhere");
    }
    assert_eq!(results(&whole), results(&sliced));
    assert_eq!(read(whole.join("curves.csv")), read(sliced.join("curves.csv")));
    let message = error_of(&mom_train(&sweep(&sliced, "40", &["--minutes=-1"])));
    assert!(message.contains("--minutes") && message.contains("-1"), "{message}");
}

#[test]
fn speed_is_told_of_every_setting() {
    let speed = |more: &[&str]| {
        let words = ["speed", "--scale", "nano", "--vocab", "64", "--batch", "2", "--seqlen", "96", "--steps", "2"];
        mom_train(&[&words, more].concat())
    };
    for setting in ["transfusion", "chameleon", "three-modality"] {
        let output = speed(&["--setting", setting, "--layers", "2"]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(text.contains("(4 blocks)") && text.contains("tokens/s") && text.contains("GiB"), "{text}");
        let loss: f64 = text.trim().rsplit(' ').next().unwrap().parse().unwrap();
        assert!(loss.is_finite() && loss > 0.0, "{text}");
    }
    for (more, expected) in [
        (&["--layers", "0"][..], "layers"),
        (&["--setting", "video"], "video"),
        (&["--dtype", "f8"], "[possible values: f32, bf16]"),
        (&["--dtype", "bf16"], "f32 or f64 on the CPU"),
        (&["--device", "cuda"], "feature"),
    ] {
        if cfg!(feature = "cuda") && more.contains(&"cuda") {
            continue;
        }
        let message = String::from_utf8_lossy(&speed(more).stderr).into_owned();
        assert!(message.contains(expected), "{more:?}: {message}");
    }
}

#[test]
fn bad_options_are_named() {
    for (arguments, expected) in [
        (&["--scale", "2B"][..], "scale must be one of nano, tiny"),
        (&["--setting", "video"], "setting must be one of transfusion, chameleon, three-modality, got video"),
        (&["--variants", "moe"], "variant must be dense, mom, mom-alike, published"),
        (&["--device", "tpu"], "[possible values: cpu, cuda]"),
        (&["--device", "cuda"], "device must be cpu: this program was built without the feature"),
        (&["--steps", "0"], "train.steps must be at least 1, got 0"),
        (&["optimizer.lr=1"], "lr"),
        (&["train.seed=5"], "override must be anything but train.seed"),
        (&["--dry-run", "--data", "/nowhere/at/all"], "/nowhere/at/all"),
        (&["--data", "/nowhere/at/all"], "/nowhere/at/all"),
    ] {
        if cfg!(feature = "cuda") && arguments.contains(&"cuda") {
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let mut all = vec!["ablate", "--out", out.to_str().unwrap(), "--scale", "nano"];
        all.retain(|&word| !arguments.contains(&"--scale") || (word != "--scale" && word != "nano"));
        all.extend(arguments);
        let message = error_of(&mom_train(&all));
        assert!(message.contains(expected), "{arguments:?}: {message}");
    }
}

fn train(config: &Path, out: &Path, overrides: &[&str]) -> std::process::Output {
    let mut arguments = vec!["train", "--config", config.to_str().unwrap(), "--out", out.to_str().unwrap()];
    arguments.extend(overrides);
    mom_train(&arguments)
}

fn write_config(folder: &Path, shards: &Path) -> PathBuf {
    let path = folder.join("run.toml");
    let text = format!(
        r#"
        model = {{ setting = "three-modality", variant = "mom", scale = "nano" }}
        train = {{ steps = 4, eval_every = 2, checkpoint_every = 2, eval_batches = 1 }}
        [data]
        shards = {shards:?}
        batch = 2
        seqlen = 96
        [data.tokenizers]
        text = {{ vocab_size = 280 }}
        image = {{ codes = 24 }}
        speech = {{ units = 16 }}
        held_out = 0.2
        "#
    );
    fs::write(&path, text).unwrap();
    path
}

fn files_of(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_of(&path) } else { vec![path] }).collect()
}

#[test]
fn a_run_writes_its_folder_and_tells_its_losses() {
    let folder = tempfile::tempdir().unwrap();
    let config = write_config(folder.path(), shards());
    let out = folder.path().join("out");
    // The data may be made before; the run finds it.
    let prepare = ["data", "--config", config.to_str().unwrap(), "--out", out.to_str().unwrap()];
    let output = mom_train(&prepare);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("training: ") && text.contains("% padding") && text.contains(" samples used"), "{text}");
    let part = files_of(&out.join("tokens")).into_iter().find(|path| path.extension().unwrap() == "tokens").unwrap();
    let made = part.metadata().unwrap().modified().unwrap();
    assert_eq!(String::from_utf8(mom_train(&prepare).stdout).unwrap(), text);
    let output = train(&config, &out, &["train.seed=3"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("speech: validation loss"), "{text}");
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(!told.contains("tokenising") && !told.contains("fitting"), "all of that was done before: {told}");
    let resolved = read(out.join("config.toml"));
    assert!(resolved.contains("seed = 3") && resolved.contains("weight_decay = 0.1"), "{resolved}");
    assert!(read(out.join("model.json")).contains("vocab_size"));
    assert_eq!(part.metadata().unwrap().modified().unwrap(), made, "tokenised once");
    for file in ["tokenizers/tokenizers.json", "metrics.jsonl", "timing.jsonl", "result.json"] {
        assert!(out.join(file).is_file(), "{file}");
    }
    let message = error_of(&train(&config, &folder.path().join("other"), &["train.stepz=3"]));
    assert!(message.contains("run.toml") && message.contains("stepz"), "{message}");
}

#[test]
fn a_truncated_shard_is_named_and_a_bad_sample_is_skipped_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("shards");
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(shards()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    let config = write_config(folder.path(), &copy);

    // One image does not decode: the sample is skipped, the run is not.
    let shard = copy.join("shard-000001.tar");
    let mut bytes = fs::read(&shard).unwrap();
    let at = bytes.windows(12).position(|window| window == b"00000050.png").unwrap();
    bytes[at + 512 + 20..at + 512 + 60].fill(0);
    fs::write(&shard, &bytes).unwrap();
    let output = train(&config, &folder.path().join("one"), &[]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("95 samples used, 1 skipped: 1 with image does not decode"), "{text}");

    fs::write(&shard, &bytes[..bytes.len() - 40_000]).unwrap();
    let message = error_of(&train(&config, &folder.path().join("two"), &[]));
    assert!(message.contains("shard-000001.tar") && message.contains("at byte"), "{message}");

    fs::remove_dir_all(&copy).unwrap();
    let message = error_of(&train(&config, &folder.path().join("three"), &[]));
    assert!(message.contains("shards"), "{message}");
}

/// A file size limit stands for a full disk: the system refuses the write in the same place. The signal that comes with it,
/// which ends a process that does not say otherwise, is no reason to die in the middle of a file.
#[cfg(unix)]
#[test]
fn a_disk_that_takes_no_more_ends_the_run_with_the_checkpoints_intact() {
    let folder = tempfile::tempdir().unwrap();
    let config = write_config(folder.path(), shards());
    let (out, fresh) = (folder.path().join("out"), folder.path().join("fresh"));
    assert!(train(&config, &out, &["train.steps=4"]).status.success());
    let size = |file: &str| fs::metadata(out.join("checkpoints/step-00000004").join(file)).unwrap().len();
    let limited = |bytes: u64, out: &Path, overrides: &[&str]| {
        Command::new("sh")
            .arg("-c")
            .arg(format!("ulimit -c 0; ulimit -f {}; exec \"$@\"", bytes / 512))
            .arg("sh")
            .arg(env!("CARGO_BIN_EXE_mom-train"))
            .args(["train", "--config", config.to_str().unwrap(), "--out", out.to_str().unwrap()])
            .args(overrides)
            .output()
            .unwrap()
    };
    // Weights fit, the moments beside them do not: the first checkpoint fails half-way.
    let between = (size("weights.safetensors") + size("optimizer.safetensors")) / 2;
    let message = error_of(&limited(between, &fresh, &[]));
    assert!(message.contains("cannot write") && message.contains("optimizer.safetensors"), "{message}");
    let checkpoints = || -> Vec<_> {
        let mut names: Vec<_> = fs::read_dir(fresh.join("checkpoints")).unwrap().map(|e| e.unwrap().path()).collect();
        names.sort();
        names
    };
    assert!(checkpoints().is_empty(), "nothing half-written stays: {:?}", checkpoints());

    // With a good checkpoint in place the next one fails: the good one stays, byte for byte.
    let killed = Command::new(env!("CARGO_BIN_EXE_mom-train"))
        .args(["train", "--config", config.to_str().unwrap(), "--out", fresh.to_str().unwrap()])
        .output()
        .unwrap();
    assert!(killed.status.success());
    let last = fresh.join("checkpoints/step-00000004");
    fs::remove_dir_all(&last).unwrap();
    fs::remove_file(fresh.join("result.json")).unwrap();
    let good = fresh.join("checkpoints/step-00000002");
    let bytes =
        || ["weights.safetensors", "optimizer.safetensors", "state.json"].map(|f| fs::read(good.join(f)).unwrap());
    let before = bytes();
    let message = error_of(&limited(between, &fresh, &[]));
    assert!(message.contains("optimizer.safetensors"), "{message}");
    assert!(checkpoints() == [good.clone()] && bytes() == before);

    // With room again the run goes on and ends where an undisturbed one does.
    assert!(train(&config, &fresh, &[]).status.success());
    assert_eq!(read(out.join("metrics.jsonl")), read(fresh.join("metrics.jsonl")));
}

/// At random moments, and while a checkpoint is being written.
#[cfg(unix)]
#[test]
fn ten_kills_at_any_moment_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let config = write_config(folder.path(), shards());
    let (whole, killed) = (folder.path().join("whole"), folder.path().join("killed"));
    let overrides = ["train.steps=240", "train.eval_every=7", "train.checkpoint_every=1", "train.keep_checkpoints=2"];
    assert!(train(&config, &whole, &overrides).status.success());
    let writing = || {
        let entries = fs::read_dir(killed.join("checkpoints")).into_iter().flatten();
        entries.flatten().any(|entry| entry.file_name().to_string_lossy().ends_with(".partial"))
    };
    let (mut state, mut while_writing, mut kills) = (9u64, 0, 0);
    while kills < 10 {
        let mut child = Command::new(env!("CARGO_BIN_EXE_mom-train"))
            .args(["train", "--config", config.to_str().unwrap(), "--out", killed.to_str().unwrap()])
            .args(overrides)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Half of them at a moment that has nothing to do with what the run does; the others inside of a checkpoint.
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        std::thread::sleep(Duration::from_millis(20 + (state >> 33) % 200));
        while kills % 2 == 1 && !writing() && child.try_wait().unwrap().is_none() {}
        while_writing += u32::from(writing());
        if child.try_wait().unwrap().is_some() {
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
    }
    assert!(kills >= 5 && while_writing > 0, "{kills} kills, {while_writing} inside of a checkpoint");
    assert!(train(&config, &killed, &overrides).status.success());
    assert_eq!(read(whole.join("metrics.jsonl")), read(killed.join("metrics.jsonl")));
    let checkpoint = |out: &Path, file: &str| fs::read(out.join("checkpoints/step-00000240").join(file)).unwrap();
    for file in ["weights.safetensors", "optimizer.safetensors"] {
        assert!(checkpoint(&whole, file) == checkpoint(&killed, file), "{file}");
    }
    assert!(!writing(), "nothing half-written stays");
}

#[cfg(unix)]
#[test]
fn a_full_device_is_reported_in_the_systems_words() {
    if !Path::new("/dev/full").exists() {
        eprintln!("skipped: no /dev/full on this system");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let config = write_config(folder.path(), shards());
    let out = folder.path().join("out");
    fs::create_dir(&out).unwrap();
    // The partial file of the first head that a run writes.
    std::os::unix::fs::symlink("/dev/full", out.join(".identity.json.partial")).unwrap();
    let message = error_of(&train(&config, &out, &[]));
    assert!(message.contains("identity.json") && message.contains("No space left"), "{message}");
    assert!(!out.join("identity.json").exists());
}

#[test]
fn images_and_captions_are_generated_from_the_runs_of_a_sweep() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("sweep");
    let mut arguments = sweep(&out, "4", &["--no-bracket"]);
    arguments.extend(["--setting", "transfusion,chameleon", "--variants", "mom"]);
    arguments.drain(1..5);
    assert!(mom_train(&arguments).status.success());
    let report = read(out.join("report.html"));
    for part in ["id=\"samples\"", "transfusion, seed 0", "chameleon, seed 0", "data:image/png;base64,iVBOR"] {
        assert!(report.contains(part), "{part}");
    }
    let generate = |setting: &str, png: &Path, seed: &str| {
        let run = out.join("runs").join(format!("{setting}-nano-mom-seed0"));
        let mut words =
            vec!["generate", "--model", run.to_str().unwrap(), "--then", "image", "--out", png.to_str().unwrap()];
        words.extend(["a red star above two blue rings.", "--seed", seed, "--steps", "8"]);
        mom_train(&words)
    };
    for setting in ["transfusion", "chameleon"] {
        let paths = ["one.png", "two.png", "other.png"].map(|name| folder.path().join(format!("{setting}-{name}")));
        for (path, seed) in paths.iter().zip(["1", "1", "2"]) {
            let output = generate(setting, path, seed);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        let run = out.join("runs").join(format!("{setting}-nano-mom-seed0"));
        let text = |prompt: &[&str], more: &[&str]| {
            let words = ["generate", "--model", run.to_str().unwrap(), "--then", "text", "--seed", "1"];
            mom_train(&[&words[..], more, prompt].concat())
        };
        let describe = |png: &Path| text(&[&format!("image:{}", png.display())], &[]);
        let more = text(&["a red ", "text:star"], &["--top-k", "5", "--top-p", "0.9", "--max-tokens", "7"]);
        assert!(more.status.success() && more.stdout.len() > 1, "{setting}");
        for (wrong, expected) in [
            (&["--top-p", "0"][..], "top_p must be above 0, and 1 at most, got 0"),
            (&["--temperature", "nan"], "temperature must be finite and not negative, got NaN"),
            (&["--guidance", "nan"], "guidance must be finite, got NaN"),
            (&["--out", "x.png"], "--out is for pictures and speech, and --then is text"),
        ] {
            let message = error_of(&text(&["a"], wrong));
            assert!(message.contains(expected), "{message}");
        }
        let message = error_of(&generate(setting, &folder.path().join("x.jpg"), "1"));
        assert!(message.contains("--out must end in .png, got") && message.contains("x.jpg"), "{message}");
        let (caption, again) = (describe(&paths[0]), describe(&paths[0]));
        assert!(caption.status.success() && caption.stdout.len() > 1, "{setting}");
        assert_eq!(caption.stdout, again.stdout);
        let message = error_of(&describe(&run.join("config.toml")));
        assert!(message.contains("config.toml") && message.contains("does not decode"), "{message}");
        // A run of a GPU is decoded here all the same.
        let config = run.join("config.toml");
        fs::write(&config, read(&config).replace("device = \"cpu\"", "device = \"cuda\"\ndtype = \"bf16\"")).unwrap();
        let path = folder.path().join("of-a-gpu.png");
        let output = generate(setting, &path, "1");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(fs::read(path).unwrap() == fs::read(&paths[0]).unwrap());
        let [one, two, other] = paths.map(|path| fs::read(path).unwrap());
        assert!(one.starts_with(b"\x89PNG") && one == two && one != other, "{setting}: a function of the seed");
    }
    let message = error_of(&generate("three-modality", &folder.path().join("none.png"), "1"));
    assert!(message.contains("three-modality-nano-mom-seed0"), "{message}");
}

#[test]
fn a_setting_that_cannot_run_does_not_stop_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    // Recordings that do not decode: with three modalities no sample can be used, in Chameleon nobody listens.
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    for index in 0..24u8 {
        let [png, txt, wav] = ["png", "txt", "wav"].map(|ending| data.join(format!("{index:02}.{ending}")));
        let pixels = (0..32 * 32 * 3u32).map(|at| (at * u32::from(index + 1) / 7 % 256) as u8).collect();
        let image = mom_data::RgbImage { width: 32, height: 32, pixels };
        fs::write(png, mom_data::encode::png(&image).unwrap()).unwrap();
        fs::write(txt, format!("a picture of the number {index}")).unwrap();
        fs::write(wav, "not a recording").unwrap();
    }
    let sweep = |settings: &str, seqlen: &str| {
        let mut arguments = vec!["ablate", "--setting", settings, "--variants", "dense", "--scale", "nano"];
        arguments.extend(["--seeds", "0"]);
        arguments.extend(["--steps", "2", "--batch", "2", "--seqlen", seqlen, "--out", out.to_str().unwrap()]);
        arguments.extend(["--data", data.to_str().unwrap(), "--no-bracket", "--no-null"]);
        arguments.extend(SMALL);
        mom_train(&arguments)
    };
    // What no setting of the sweep can do is refused before anything is made.
    let message = error_of(&sweep("transfusion,three-modality", "40"));
    assert!(message.contains("data.seqlen must be at least 66"), "{message}");
    assert!(!out.exists());
    let output = sweep("three-modality,chameleon", "192");
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && message.contains("1 of the runs failed"), "{message}");
    assert!(message.contains("with recording does not decode"), "{message}");
    assert!(read(out.join("results.json")).contains("chameleon"));
    assert!(read(out.join("report.md")).contains("no usable sample"));
}

/// A run that takes a while, in a folder.
#[cfg(unix)]
fn long_run(folder: &Path) -> (Vec<String>, PathBuf) {
    let config = folder.join("run.toml");
    let text = format!(
        "model = {{ setting = \"chameleon\", variant = \"mom\", scale = \"nano\" }}\n\
         data = {{ shards = {:?}, batch = 2, seqlen = 192 }}\n\
         train = {{ steps = 400, eval_every = 100, checkpoint_every = 1000 }}\n",
        shards()
    );
    fs::write(&config, text).unwrap();
    let out = folder.join("run");
    let words = ["train", "--config", config.to_str().unwrap(), "--out", out.to_str().unwrap()];
    (words.iter().chain(&SMALL).map(|&word| word.to_owned()).collect(), out)
}

/// Starts the program and waits until it has done some steps of a run.
#[cfg(unix)]
fn started(arguments: &[String], out: &Path) -> std::process::Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mom-train"));
    let mut child = command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let metrics = out.join("metrics.jsonl");
    let before = fs::metadata(&metrics).map_or(0, |data| data.len());
    while fs::metadata(&metrics).map_or(0, |data| data.len()) <= before + 500 {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it was stopped");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

#[cfg(unix)]
#[test]
fn a_signal_ends_a_run_politely_and_it_goes_on_with_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let (arguments, out) = long_run(folder.path());
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    assert!(mom_train(&words).status.success());
    let (metrics, whole) = (read(out.join("metrics.jsonl")), folder.path().join("whole"));
    fs::rename(&out, whole).unwrap();
    for signal in ["TERM", "INT", "USR1"] {
        let child = started(&arguments, &out);
        let kill = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap();
        assert!(kill.success());
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(75), "{signal}: {text}");
        assert!(text.contains("stopped after step") && text.contains("the same command goes on"), "{signal}: {text}");
        assert!(fs::read_dir(out.join("checkpoints")).unwrap().count() > 0, "{signal}");
    }
    assert!(mom_train(&words).status.success());
    assert_eq!(read(out.join("metrics.jsonl")), metrics);
}

#[test]
fn without_a_terminal_a_run_tells_its_course_in_lines() {
    let folder = tempfile::tempdir().unwrap();
    let config = write_config(folder.path(), shards());
    let more = ["train.steps=4", "train.eval_every=2", "train.checkpoint_every=2", "optimizer.warmup_steps=9"];
    let big = ["data.batch=400", "data.seqlen=512"];
    let text = |overrides: &[&str], out: &str| {
        let output = train(&config, &folder.path().join(out), overrides);
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let told = text(&more, "one");
    for part in [
        "M weights (",
        "positions a step, 4 steps, ",
        "warning: the warm-up (optimizer.warmup_steps = 9) is longer than the run (4 steps)",
        "step 2 of 4: validation speech ",
        "step 2 of 4: checkpoint",
        " k tokens/s",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(!told.contains("more than a pass"), "{told}");
    let told = text(&[&["train.steps=1"][..], &big].concat(), "two");
    assert!(told.contains("warning: a step of 204800 positions is more than a pass over the data"), "{told}");
}

#[cfg(unix)]
#[test]
fn a_run_outlives_its_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let (arguments, out) = long_run(folder.path());
    let mut child = started(&arguments, &out);
    // The terminal is closed, and nobody reads what is said.
    drop((child.stdout.take(), child.stderr.take()));
    assert!(Command::new("kill").args(["-HUP", &child.id().to_string()]).status().unwrap().success());
    assert!(child.wait().unwrap().success());
    assert!(out.join("result.json").is_file());
}

#[cfg(unix)]
#[test]
fn what_nobody_reads_ends_quietly() {
    let script = format!("{:?} sizes | head -1; echo \"${{PIPESTATUS[0]}}\"", env!("CARGO_BIN_EXE_mom-train"));
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    let (text, errors) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(text.starts_with("scale") && text.ends_with("\n0\n"), "{text}");
    assert!(errors.is_empty(), "{errors}");
}

#[cfg(unix)]
#[test]
fn of_starts_at_once_one_runs_and_the_others_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let (arguments, out) = long_run(folder.path());
    let start = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mom-train"));
        command.args(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let outputs: Vec<_> = [start(), start(), start()].map(|child| child.wait_with_output().unwrap()).into();
    let refused = |output: &&std::process::Output| {
        String::from_utf8_lossy(&output.stderr).contains("is in use by another process")
    };
    assert_eq!(outputs.iter().filter(|output| output.status.success()).count(), 1);
    assert_eq!(outputs.iter().filter(refused).count(), 2);
    assert!(out.join("result.json").is_file());
}
