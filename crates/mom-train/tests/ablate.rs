//! Sweeps from the outside: over learning rates, and over data that not every setting can be trained on.
#![allow(clippy::unwrap_used, reason = "a helper of a test may fail as the test does")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Output;

use common::{SMALL, error_of, mom_train, read, shards};

/// Without the null.
fn sweep(out: &Path, more: &[&str]) -> Output {
    sweep_with_null(out, &[&["--no-null"], more].concat())
}

fn sweep_with_null(out: &Path, more: &[&str]) -> Output {
    let mut arguments = vec!["ablate", "--setting", "chameleon", "--scale", "nano"];
    if !more.contains(&"--variants") {
        arguments.extend(["--variants", "dense,mom"]);
    }
    if !more.contains(&"--steps") {
        arguments.extend(["--steps", "4"]);
    }
    if !more.contains(&"--seeds") {
        arguments.extend(["--seeds", "0"]);
    }
    arguments.extend(["--batch", "2", "--seqlen", "96", "--out", out.to_str().unwrap()]);
    arguments.extend(["--data", shards().to_str().unwrap()]);
    arguments.extend(more);
    arguments.extend(SMALL);
    mom_train(&arguments)
}

fn text(output: &Output) -> (String, String) {
    let [out, told] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert!(output.status.success(), "{told}");
    (out, told)
}

fn folders(out: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(out.join("runs")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn every_arm_is_compared_at_its_best_rate_and_a_rate_that_diverges_ends_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let rates = ["--seeds", "0,1", "--learning-rates", "1e-3,8e-3,1e12"];
    let (said, told) = text(&sweep(&out, &rates));
    let diverged = |told: &str| told.lines().filter(|line| line.contains("lr 1000000000000 seed")).count();
    assert_eq!(diverged(&told), 4, "two variants, two seeds: {told}");
    let of_runs = folders(&out);
    assert_eq!(of_runs.len(), 12);
    assert!(of_runs.contains("chameleon-nano-mom-lr0.008-seed1"), "{of_runs:?}");

    // Four steps: the higher rate of those that do not diverge is better, and one above it was tried.
    let csv = read(out.join("rates.csv"));
    let lines: Vec<Vec<&str>> = csv.lines().skip(1).map(|line| line.split(',').collect()).collect();
    assert_eq!(lines.len(), 12, "{csv}");
    for line in &lines {
        assert_eq!(line[6], (line[3] == "0.008").to_string(), "{csv}");
        assert_eq!(line[5].is_empty(), line[3] == "1000000000000", "{csv}");
    }
    let results: serde_json::Value = serde_json::from_str(&read(out.join("results.json"))).unwrap();
    assert_eq!(results["records"].as_array().unwrap().len(), 2 * 2 * 2, "the best rate of each alone");
    let report = read(out.join("report.md"));
    assert!(report.contains("**12 of 12 runs done**") && report.contains("### Learning rates"), "{report}");
    assert!(report.contains("diverged") && report.contains("(best) | diverged | 0.008 |"), "{report}");
    assert!(!said.contains("its best is at the edge") && said.contains("best"), "{said}");

    // What diverged is not done again, unless it is asked for.
    let (again, told) = text(&sweep(&out, &rates));
    assert_eq!(again, said);
    assert!(told.contains("diverged before") && told.contains("diverged.json to try again"), "{told}");
    let dry = text(&sweep(&out, &[&rates[..], &["--dry-run"]].concat())).0;
    assert!(dry.contains("12 runs, about") && dry.contains("chameleon mom lr 0.008 seed 1"), "{dry}");
    assert_eq!(dry.matches("  diverged").count(), 4, "{dry}");
    assert_eq!(dry.matches("  done").count(), 8, "{dry}");

    // Rates that were done before stay in the comparison; a rate with only one of its seeds has no part in it.
    let (said, _) = text(&sweep(&out, &["--seeds", "0,1", "--learning-rates", "4e-3"]));
    assert!(said.contains("0.001") && said.contains("0.008") && said.contains("0.004"), "{said}");
    fs::remove_file(out.join("runs/chameleon-nano-mom-lr0.008-seed1/result.json")).unwrap();
    let (said, _) = text(&sweep(&out, &["--seeds", "0,1", "--learning-rates", "1e-3", "--variants", "mom"]));
    let best = |variant: &str, rate: &str| {
        let of = |line: &&str| line.ends_with("  best") && line.contains(variant);
        said.lines().find(of).is_some_and(|line| line.contains(rate))
    };
    assert!(best("dense", "0.008") && best("mom", "0.004"), "{said}");
}

#[test]
fn a_best_at_the_edge_says_so_and_no_good_rate_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("edge");
    let (said, _) = text(&sweep(&out, &["--learning-rates", "1e-3,8e-3"]));
    let advice = "its best is at the edge: widen --learning-rates above 0.008";
    assert!(said.contains(&format!("chameleon mom: {advice}")), "{said}");
    let [markdown, html] = ["report.md", "report.html"].map(|name| read(out.join(name)));
    assert!(markdown.contains(&format!("Learning rate of dense: {advice}")), "{markdown}");
    assert!(html.contains(advice));

    let out = folder.path().join("none");
    let message = String::from_utf8(sweep(&out, &["--learning-rates", "1e12,2e12"]).stderr).unwrap();
    let expected = "diverged at every rate of --learning-rates, so that there is nothing to compare: chameleon dense";
    assert!(message.contains(expected), "{message}");
    let report = read(out.join("report.md"));
    assert!(report.contains("**4 of 4 runs done**"), "{report}");
    assert!(report.contains("Learning rate of mom: none: it diverged at every rate."), "{report}");
}

#[test]
fn without_rates_folders_and_report_are_as_ever() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let (said, _) = text(&sweep(&out, &["--no-bracket"]));
    let names = ["chameleon-nano-dense-seed0", "chameleon-nano-mom-seed0"];
    assert_eq!(folders(&out), names.map(str::to_owned).into());
    assert!(!out.join("rates.csv").exists());
    for text in [said, read(out.join("report.md")), read(out.join("report.html"))] {
        assert!(!text.to_lowercase().contains("learning rate"), "{text}");
    }
    // A run that diverges is a failure there, as ever.
    let output = sweep(&folder.path().join("high"), &["--no-bracket", "optimizer.learning_rate=1e12"]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && message.contains("2 of the runs failed"), "{message}");
}

#[test]
fn a_bracket_widens_to_a_best_inside_and_goes_on_where_it_was_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, sliced) = (folder.path().join("whole"), folder.path().join("sliced"));
    // Far below the best rate of so few steps: it has to widen upwards.
    let options = ["--seeds", "0,1", "optimizer.learning_rate=8e-3"];
    let (said, _) = text(&sweep_with_null(&whole, &options));
    assert!(!said.contains("at the edge"), "{said}");
    let csv = read(whole.join("rates.csv"));
    for arm in ["dense", "mom"] {
        let lines: Vec<Vec<&str>> =
            csv.lines().map(|line| line.split(',').collect()).filter(|line: &Vec<&str>| line[2] == arm).collect();
        let best = lines.iter().position(|line| line[6] == "true").unwrap();
        assert!(lines.len() > 3 && best > 0 && best + 1 < lines.len(), "{csv}");
        assert_eq!((lines[0][3], lines[0][4]), ("0.004", "0"));
        // The whole runs of both seeds are at that rate; the null's are at dense's.
        let rate = lines[best][3];
        for seed in [0, 1] {
            assert!(
                folders(&whole).contains(&format!("chameleon-nano-{arm}-lr{rate}-seed{seed}")),
                "{:?}",
                folders(&whole)
            );
            let null = format!("chameleon-nano-null-lr{rate}-seed{seed}");
            assert!(arm == "mom" || folders(&whole).contains(&null), "{:?}", folders(&whole));
        }
    }
    let report = read(whole.join("report.md"));
    assert!(report.contains("### Learning rates") && report.contains("Bracket of each variant"), "{report}");
    assert!(report.contains("plots/chameleon-rates.svg") && whole.join("plots/chameleon-rates.svg").is_file());
    assert!(!report.contains("Missing runs"), "{report}");

    // In slices of time, each of which takes a step at least: the same runs, the same results.
    for slice in 0.. {
        assert!(slice < 400, "it gets nowhere");
        let (said, _) = text(&sweep_with_null(&sliced, &[&options[..], &["--minutes", "0.004"]].concat()));
        if !said.contains("time is up") {
            break;
        }
    }
    assert_eq!(folders(&whole), folders(&sliced));
    for file in ["rates.csv", "curves.csv"] {
        assert_eq!(read(whole.join(file)), read(sliced.join(file)));
    }
    // The plan that is printed counts what is done and what is to come.
    let dry = text(&sweep_with_null(&whole, &[&options[..], &["--dry-run"]].concat())).0;
    assert!(dry.contains("(bracket)") && dry.contains("null") && !dry.contains("  about"), "{dry}");
    let dry = text(&sweep_with_null(&folder.path().join("none"), &[&options[..], &["--dry-run"]].concat())).0;
    assert!(dry.contains("12 runs at least, about") && dry.contains("(rate not chosen yet)"), "{dry}");

    // Whole runs of the first seed may make the bracket: those of the best rate are what is compared.
    let by_whole = folder.path().join("by-whole");
    let (said, _) = text(&sweep_with_null(&by_whole, &[&options[..], &["--whole-bracket"]].concat()));
    assert!(!said.contains("at the edge"), "{said}");
    assert!(folders(&by_whole).iter().all(|name| !name.contains("-short")), "{:?}", folders(&by_whole));
    let rates = read(by_whole.join("rates.csv"));
    let results = read(by_whole.join("results.json"));
    for arm in ["dense", "mom", "null"] {
        let of_arm = format!("\"variant\": \"{arm}\",\n      \"seed\": ");
        assert_eq!(results.matches(&of_arm).count(), 2 * 2, "{arm}, two seeds of two modalities: {results}");
        assert!(arm == "null" || rates.matches(&format!(",{arm},")).count() > 3, "{rates}");
    }

    // One seed says so on the terminal, too.
    let alone = ["--no-bracket", "--seeds", "0"];
    let (said, _) = text(&sweep_with_null(&folder.path().join("one"), &alone));
    assert!(
        said.contains("one seed: how much seeds differ is unknown") && said.contains("one seed: the null"),
        "{said}"
    );

    // A second call with another variant adds to the comparison, and knows the others' brackets.
    let (said, _) = text(&sweep_with_null(&whole, &[&options[..], &["--variants", "in"]].concat()));
    for arm in ["mom", "null", "in"] {
        assert!(said.contains(&format!("chameleon       {arm:<10} joint")), "{said}");
    }
}

#[test]
fn a_sweep_has_ends_at_several_horizons() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let options = ["--no-bracket", "--horizons", "3", "--steps", "40"];
    text(&sweep(&out, &options));
    let csv = read(out.join("horizons.csv"));
    let ends: BTreeSet<&str> = csv.lines().skip(1).map(|line| line.split(',').nth(3).unwrap()).collect();
    assert_eq!(ends, ["10", "20", "40"].into());
    let report = read(out.join("report.md"));
    assert!(report.contains("### Horizons") && report.contains("ends at steps 10, 20, 40"), "{report}");
    // Below 240 steps there are none by themselves.
    let dry = text(&sweep(
        &folder.path().join("dry"),
        &["--no-bracket", "--dry-run", "--steps", "40", "--horizons", "0.25,0.5,1"],
    ))
    .0;
    assert!(dry.contains("2 runs, about"), "{dry}");
    for (horizons, expected) in [
        ("0", "horizons must be a number of ends from 1 to 8"),
        ("0.5,0.25", "ascending shares above 0 and up to 1, joined by commas, got 0.5,0.25"),
        ("half", "got half"),
    ] {
        let message = error_of(&sweep(&folder.path().join("none"), &["--horizons", horizons]));
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn rates_out_of_range_are_refused_before_anything_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    for (more, expected) in [
        (&["--learning-rates", "0"][..], "learning_rates must be positive and finite, got 0"),
        (&["--learning-rates=-1e-3"], "learning_rates must be positive and finite, got -0.001"),
        (&["--learning-rates", "1e-3,inf"], "learning_rates must be positive and finite, got inf"),
        (&["--learning-rates", "nan"], "learning_rates must be positive and finite, got NaN"),
        (&["--learning-rates", "1e-3,0.001"], "learning_rates must be each another, got 0.001 twice"),
        (&["--learning-rates", "fast"], "fast"),
        (
            &["--learning-rates", "1e-3", "optimizer.learning_rate=1"],
            "override must be anything but optimizer.learning_rate",
        ),
        (&["optimizer.final_learning_rate=1e-3"], "anything but optimizer.final_learning_rate beside a bracket"),
        (&["--no-bracket", "train.init_seed=3"], "anything but train.init_seed, which the sweep sets itself"),
        (
            &["--learning-rates", "1e-3,1e-2", "optimizer.final_learning_rate=2e-3"],
            "optimizer.final_learning_rate must be at most optimizer.learning_rate (0.001), got 0.002",
        ),
    ] {
        let message = error_of(&sweep(&out, more));
        assert!(message.contains(expected), "{more:?}: {message}");
        assert!(!out.exists(), "{more:?}");
    }
}

#[test]
fn patchers_are_compared_in_one_report_and_cost_what_they_cost() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let arguments = ["--setting", "transfusion", "--scale", "nano", "--steps", "4", "--seeds", "0", "--batch", "2"];
    let sweep = |more: &[&str]| {
        let data = ["--seqlen", "96", "--out", out.to_str().unwrap(), "--data", shards().to_str().unwrap()];
        mom_train(&[&["ablate"], &arguments[..], &data, more, &SMALL].concat())
    };
    text(&sweep(&["--variants", "dense,dense-unet,mom-unet", "--learning-rates", "1e-3,4e-3"]));
    let of_runs = folders(&out);
    for arm in ["dense-lr0.001", "dense-unet-lr0.001", "dense-unet-lr0.004", "mom-unet-lr0.004"] {
        assert!(of_runs.contains(&format!("transfusion-nano-{arm}-seed0")), "{of_runs:?}");
    }
    assert_eq!(of_runs.iter().filter(|name| name.contains("-null-")).count(), 1, "that of dense");
    let results: serde_json::Value = serde_json::from_str(&read(out.join("results.json"))).unwrap();
    let text_of_results = results.to_string();
    for arm in ["dense-unet", "mom-unet"] {
        assert!(text_of_results.contains(&format!("\"{arm}\"")), "{text_of_results}");
    }
    let result = |arm: &str| -> serde_json::Value {
        let path = out.join(format!("runs/transfusion-nano-{arm}-lr0.001-seed0/result.json"));
        serde_json::from_str(&read(path)).unwrap()
    };
    let (linear, unet) = (result("dense"), result("dense-unet"));
    for field in ["active_flops_per_token", "total_parameters"] {
        let ratio = unet[field].as_f64().unwrap() / linear[field].as_f64().unwrap();
        assert!(ratio > 1.5, "{field}: {ratio}");
    }
    // A second call with others adds to the comparison, and one that cannot be is refused.
    text(&sweep(&["--variants", "dense,mom", "--learning-rates", "1e-3,4e-3"]));
    assert!(read(out.join("report.md")).contains("dense-unet"), "it is there from before");
    for (more, expected) in [
        (&["--variants", "dense-unet", "model.patcher=unet"][..], "anything but model.patcher beside arms"),
        (&["--variants", "dense,null"], "variants must be no null"),
        (
            &["--setting", "chameleon", "--variants", "mom-unet"],
            "model.patcher must be linear in the setting chameleon",
        ),
    ] {
        let message = if more[0] == "--setting" {
            let data = ["--out", out.to_str().unwrap(), "--data", shards().to_str().unwrap()];
            error_of(&mom_train(&[&["ablate"], more, &data].concat()))
        } else {
            error_of(&sweep(more))
        };
        assert!(message.contains(expected), "{more:?}: {message}");
    }
}

/// A file of data whose only source takes these modalities of the samples that lie at a path.
fn only(folder: &Path, parts: &str, path: &Path) -> std::path::PathBuf {
    let file = folder.join(format!("{}.toml", parts.replace(['"', ',', ' '], "-")));
    fs::write(&file, format!("[[data.sources]]\npath = {path:?}\nparts = [{parts}]\n")).unwrap();
    file
}

fn sweep_on(data: &Path, out: &Path, more: &[&str]) -> Output {
    let mut arguments = vec!["ablate", "--variants", "dense", "--scale", "nano", "--steps", "2", "--batch", "2"];
    arguments.extend(["--seeds", "0"]);
    arguments.extend(["--no-bracket", "--no-null"]);
    arguments.extend(["--seqlen", "192", "--out", out.to_str().unwrap(), "--data", data.to_str().unwrap()]);
    arguments.extend(more);
    arguments.extend(SMALL);
    mom_train(&arguments)
}

#[test]
fn settings_that_the_data_cannot_serve_are_skipped_at_the_start_with_a_word() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let pairs = only(folder.path(), "\"text\", \"image\"", shards());
    let word = "three-modality is skipped: no sample has speech (96 samples of shards were looked at, which have text and \
                images)";
    let (dry, _) = text(&sweep_on(&pairs, &out, &["--dry-run"]));
    assert!(dry.contains(word) && dry.contains("2 runs, about") && !dry.contains("three-modality dense"), "{dry}");
    let (_, told) = text(&sweep_on(&pairs, &out, &[]));
    assert_eq!(told.matches(word).count(), 1, "{told}");
    assert!(!told.contains("three-modality dense"), "{told}");
    assert_eq!(folders(&out), ["chameleon-nano-dense-seed0", "transfusion-nano-dense-seed0"].map(str::to_owned).into());
    assert!(!read(out.join("report.md")).contains("three-modality"), "nothing is missing of what was not planned");
}

#[test]
fn a_setting_that_is_named_or_the_last_one_is_an_error_before_anything_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let [pairs, words, sounds] =
        ["\"text\", \"image\"", "\"text\"", "\"speech\""].map(|parts| only(folder.path(), parts, shards()));
    let all = "three-modality needs text, images and speech";
    for (data, more, expected) in [
        (&pairs, &["--setting", "chameleon,three-modality"][..], vec![all, "have text and images"]),
        (
            &words,
            &[],
            vec!["transfusion needs images; chameleon needs images", all, "96 samples of shards", "have text"],
        ),
        (&words, &["--dry-run"], vec!["transfusion needs images"]),
        (&sounds, &["--setting", "three-modality"], vec![all, "which have speech"]),
    ] {
        let message = error_of(&sweep_on(data, &out, more));
        for part in ["the data do not serve what is asked for"].iter().chain(&expected) {
            assert!(message.contains(part), "{more:?}: {message}");
        }
        assert!(!out.exists(), "{more:?}");
    }
}

#[test]
fn shards_sorted_by_kind_and_several_sources_are_seen_as_a_whole() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("three.toml");
    let source = |name: &str, parts: &str| {
        format!("[[data.sources]]\nname = {name:?}\npath = {:?}\nparts = [{parts}]\n", shards())
    };
    let sources = source("words", "\"text\"") + &source("pictures", "\"image\"") + &source("sounds", "\"speech\"");
    fs::write(&data, sources).unwrap();
    let (dry, _) = text(&sweep_on(&data, &folder.path().join("out"), &["--dry-run"]));
    assert!(dry.contains("3 runs, about") && !dry.contains("skipped"), "{dry}");
}
