//! How much of each modality a run sees is a matter of the forms of its documents.
#![allow(clippy::unwrap_used, reason = "a helper of a test may fail as the test does")]

mod common;

use common::{SMALL, config, mom_train, read, shards};
use mom_data::Modality;
use mom_models::Setting;
use mom_train::Prepared;

const QUARTER: [&str; 2] = ["data.forms.weights.triple=1", "data.forms.weights.text_image=3"];

#[test]
fn a_modality_is_made_rarer_at_as_many_positions() {
    let folder = tempfile::tempdir().unwrap();
    let share = |forms: &[&str]| {
        let config = config(Setting::ThreeModality, forms);
        let prepared = Prepared::new(&config, folder.path(), |_| {}).unwrap();
        let mut loader = prepared.train_loader(&config).unwrap();
        let (mut speech, mut all) = (0, 0);
        for _ in 0..40 {
            let batch = loader.next_batch().unwrap();
            speech += batch.modality_ids.iter().filter(|&&id| id == Modality::Speech.id()).count();
            all += batch.modality_ids.len();
        }
        (speech as f64 / all as f64, all)
    };
    let ((all, n), (quarter, of_quarter)) = (share(&[]), share(&QUARTER));
    assert_eq!(n, of_quarter);
    // A document without speech is shorter, so that the share of positions is more than a quarter of what it was.
    assert!(
        quarter < 0.6 * all && quarter > 0.2 * all,
        "{quarter} of positions, {all} where all documents have speech"
    );
}

#[test]
fn a_sweep_takes_forms_behind_its_command() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("quarter");
    let mut arguments = vec!["ablate", "--setting", "three-modality", "--scale", "nano", "--variants", "dense,mom"];
    arguments.extend(["--steps", "2", "--seeds", "0", "--batch", "2", "--seqlen", "192", "--no-bracket", "--no-null"]);
    arguments.extend(["--out", out.to_str().unwrap(), "--data", shards().to_str().unwrap()]);
    let output = mom_train(&[&arguments[..], &SMALL[..], &QUARTER[..]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for variant in ["dense", "mom"] {
        let config: toml::Table =
            read(out.join(format!("runs/three-modality-nano-{variant}-seed0/config.toml"))).parse().unwrap();
        let weights = &config["data"]["forms"]["weights"];
        let [triple, text_image] = ["triple", "text_image"].map(|name| weights[name].as_float().unwrap());
        assert_eq!((triple, text_image), (1.0, 3.0), "{weights}");
    }
}
