//! What models tell of documents whose truth is known.
#![allow(clippy::unwrap_used, reason = "a helper of a test may fail as the test does")]

mod common;

use std::fs;
use std::path::Path;

use common::{SMALL, config, error_of, mom_train, read, shards};
use mom_models::Setting;
use mom_train::run::{Silent, train};
use mom_train::{Downstream, EvalOptions, Figure, Prepared, RunConfig, Trained, evaluate};

/// Half of the documents are held out: enough to pick of.
const HALF: &str = "data.tokenizers.held_out=0.5";

fn trained(config: &RunConfig, run: &Path) -> mom_train::telemetry::RunResult {
    train(config, run, &Prepared::new(config, run, |_| {}).unwrap(), &mut Silent).unwrap()
}

fn figure<'a>(of: &'a Downstream, task: &str, measure: &str) -> Option<&'a Figure> {
    of.figures.iter().find(|figure| figure.task == task && figure.measure == measure)
}

#[test]
fn a_model_is_asked_what_its_setting_has_and_the_same_at_any_time() {
    for setting in Setting::ALL {
        let folder = tempfile::tempdir().unwrap();
        let (asked, later) = (folder.path().join("asked"), folder.path().join("later"));
        let with = config(setting, &[HALF, "train.downstream=16"]);
        let told = trained(&with, &asked).downstream.unwrap();
        assert_eq!((told.documents, told.notes.len()), (16, 0), "{setting}: {:?}", told.notes);
        let speaks = setting == Setting::ThreeModality;
        for (task, is_there) in [("text-by-image", true), ("text-by-speech", speaks)] {
            for measure in ["likelihood", "pmi"] {
                let figure = figure(&told, task, measure);
                assert_eq!(figure.is_some(), is_there, "{setting} {task}");
                // After nine steps nothing is known: one of 16 is right by chance.
                assert!(figure.is_none_or(|of| of.value < 0.6 && of.n == 16 && of.chance == Some(1.0 / 16.0)));
            }
        }
        for (task, is_there) in [("image-to-text", true), ("speech-to-text", speaks)] {
            let whole = figure(&told, task, "whole");
            assert_eq!(whole.is_some(), is_there, "{setting} {task}");
            // The documents' own captions are all true of their scenes: the scenes were found again.
            for measure in ["count", "colour", "shape", "relation", "background", "all"] {
                assert!(figure(&told, task, measure).is_none_or(|of| of.ceiling == Some(1.0)), "{task} {measure}");
            }
            let facts = figure(&told, task, "facts").map(|of| of.ceiling.unwrap());
            assert!(facts.is_none_or(|facts| facts > 3.0), "{facts:?}");
        }
        let spoken = figure(&told, "text-to-speech", "word_error_rate");
        assert_eq!(spoken.is_some(), speaks, "{setting}");
        // Sixteen units are few to tell words apart by, and tell more than a model that can nothing says.
        assert!(spoken.is_none_or(|of| of.ceiling.unwrap() < 0.5 && of.value > 0.75), "{spoken:?}");
        assert!(spoken.is_none_or(|of| of.n > 16 * 8 && of.documents == Some(16) && of.chance.is_some()), "{spoken:?}");
        let shown = figure(&told, "text-to-image", "all").unwrap();
        // Of their own pictures the reader sees more than of those of a model that can nothing.
        assert!(shown.value < shown.ceiling.unwrap(), "{shown:?}");

        // A run that ended before anybody asked is asked now, and says the same; so does an evaluation.
        let before = trained(&config(setting, &[HALF]), &later);
        assert_eq!(before.downstream, None);
        let after = trained(&with, &later);
        assert_eq!(after.downstream.as_ref(), Some(&told), "{setting}");
        assert_eq!(after.curve, before.curve);
        assert!(read(later.join("result.json")).contains("text-by-image"));
        let options = EvalOptions { downstream: 16, ..EvalOptions::default() };
        let evaluation = evaluate(&Trained::open(&asked).unwrap(), &options, &asked, |_| {}).unwrap();
        assert_eq!(evaluation.downstream, Some(told));
    }
}

#[test]
fn a_figure_says_of_how_many_documents_it_is() {
    let folder = tempfile::tempdir().unwrap();
    // Of 96 documents about half are held out: there are no 90.
    let run = folder.path().join("run");
    let told = trained(&config(Setting::Chameleon, &[HALF, "train.downstream=90"]), &run).downstream.unwrap();
    let of = |task: &str, measure: &str| figure(&told, task, measure).unwrap().documents.unwrap();
    let n = of("text-by-image", "pmi");
    assert!((16..90).contains(&n) && told.documents == 90, "{n}");
    assert_eq!((of("image-to-text", "facts"), of("text-to-image", "all")), (n, n));
}

#[test]
fn of_several_rates_only_the_runs_that_are_compared_are_asked() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let sweep = |rates: &str, more: &[&str]| {
        let mut arguments = vec!["ablate", "--setting", "chameleon", "--scale", "nano", "--variants", "dense,mom"];
        arguments.extend(["--steps", "4", "--seeds", "0", "--batch", "2", "--seqlen", "96", "--learning-rates", rates]);
        arguments.extend(["--out", out.to_str().unwrap(), "--data", shards().to_str().unwrap()]);
        let output = mom_train(&[&arguments[..], more, &SMALL[..], &[HALF]].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let asked = |variant: &str, rate: &str| {
        let run = out.join(format!("runs/chameleon-nano-{variant}-lr{rate}-seed0/result.json"));
        let result: serde_json::Value = serde_json::from_str(&read(run)).unwrap();
        !result["downstream"].is_null()
    };
    sweep("1e-3,8e-3", &["--downstream", "16"]);
    for variant in ["dense", "mom"] {
        assert_eq!((asked(variant, "0.001"), asked(variant, "0.008")), (false, true), "{variant}");
    }
    // The null has the rate of dense, and stands in every report.
    assert!(asked("null", "0.008"));
    let lines = read(out.join("downstream.csv"));
    assert!(["dense", "mom", "null"].iter().all(|variant| lines.contains(&format!("chameleon,nano,{variant},0,16,"))));

    // A run of an earlier call that turns out to be the best is asked as well.
    sweep("1.6e-2", &[]);
    sweep("1e-3", &["--downstream", "16"]);
    assert!(asked("dense", "0.016") && asked("mom", "0.016"));
}

#[test]
fn what_cannot_be_asked_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    trained(&config(Setting::Chameleon, &[HALF]), &run);
    let run = run.to_str().unwrap();
    let few = error_of(&mom_train(&["eval", "--model", run, "--downstream", "15"]));
    assert!(few.contains("downstream") && few.contains("at least 16"), "{few}");
    let text = folder.path().join("text.jsonl");
    fs::write(&text, "{\"text\": \"a text without a picture\"}\n".repeat(40)).unwrap();
    let none = error_of(&mom_train(&["eval", "--model", run, "--data", text.to_str().unwrap(), "--downstream", "16"]));
    assert!(none.contains("no held-out document has a text beside a picture"), "{none}");
    let told = mom_train(&["eval", "--model", run, "--downstream", "16"]);
    let told = String::from_utf8(told.stdout).unwrap();
    assert!(told.contains("text-by-image, pmi: ") && told.contains("chance 6.2 %"), "{told}");
}
