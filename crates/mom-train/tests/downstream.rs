//! What models tell of documents whose truth is known.
#![allow(clippy::unwrap_used, reason = "a helper of a test may fail as the test does")]

mod common;

use std::fs;
use std::path::Path;

use common::{config, error_of, mom_train, read};
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
