//! The report, from hand-made runs whose numbers are known beforehand.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod downstream;
mod pages;
mod records;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use mom_train::ablate::rates::{ArmRates, Trial};
use mom_train::ablate::report::{Beside, Record, ReportError, ReportHeader, read_results, records, write, write_with};
use mom_train::telemetry::{EvalPoint, ModalityInfo, RunResult};

const STEPS: u64 = 100;

/// A run with an evaluation every 10 steps, `loss(step)` for every modality.
fn run(variant: &str, seed: u64, loss: impl Fn(f64) -> f64) -> RunResult {
    let modalities = ["text", "image"].map(|name| ModalityInfo { name: name.into(), loss: "nats per token".into() });
    let curve = (0..=STEPS / 10)
        .map(|index| index * 10)
        .map(|step| EvalPoint {
            step,
            tokens: step * 64,
            wall_secs: step as f64 * 0.5,
            joint: loss(step as f64),
            bits_per_byte: None,
            loss: modalities.iter().map(|modality| (modality.name.clone(), loss(step as f64))).collect(),
        })
        .collect();
    RunResult {
        setting: "chameleon".into(),
        variant: variant.into(),
        seed,
        scale: "tiny".into(),
        modalities: modalities.to_vec(),
        curve,
        horizons: Vec::new(),
        downstream: None,
        steps: STEPS,
        tokens: STEPS * 64,
        active_flops_per_token: 1e6,
        wall_secs: 50.0,
        peak_memory_bytes: 1 << 20,
        total_parameters: 2000,
        active_parameters: 1000,
    }
}

/// Dense's loss: a straight line from 5 to 3.
fn line(step: f64) -> f64 {
    5.0 - 0.02 * step
}

fn header() -> ReportHeader {
    ReportHeader {
        title: "A comparison".into(),
        command: "cargo xtask ablate".into(),
        commit: Some("0123abc".into()),
        machine: "a machine".into(),
        device: "CPU".into(),
        threads: 2,
        created_unix_secs: 1_738_314_300,
        notes: vec!["Weights are drawn from one stream.".into()],
        missing: Vec::new(),
        config: vec![("d_model".into(), "64".into())],
    }
}

/// The only record of a variant, seed 0, text.
fn text_record(runs: &[RunResult], variant: &str) -> Record {
    let found: Vec<Record> = records(runs)
        .into_iter()
        .filter(|record| record.variant == variant && record.modality == "text" && record.seed == 0)
        .collect();
    assert_eq!(found.len(), 1);
    found[0].clone()
}

#[track_caller]
fn assert_close(got: Option<f64>, want: f64) {
    let got = got.expect("a value");
    assert!((got - want).abs() < 1e-12, "{got} is not {want}");
}

/// Writes a report and returns its Markdown and HTML.
fn rendered(header: &ReportHeader, runs: &[RunResult]) -> (String, String) {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), header, runs).unwrap();
    let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    (read("report.md"), read("report.html"))
}
