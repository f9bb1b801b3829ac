//! Sweeps: killed, cut into slices of time, tried without training, and with a setting that cannot run.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use crate::calls::{spawn, sweep};
use crate::common::{SMALL, error_of, mom_train, read};

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
        let mut child = spawn(&sweep(&killed, "40", &[]), Stdio::null);
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
