//! What is read from curves, and what the files for machines hold.

use super::*;

#[test]
fn half_the_steps_is_a_half_by_both_definitions() {
    let runs = [run("dense", 0, line), run("mom", 0, |step| line(2.0 * step))];
    let record = text_record(&runs, "mom");
    assert_close(record.relative_flops_first_crossing, 0.5);
    assert_close(record.relative_flops_slope, 0.5);
    assert_close(record.final_val_loss, 1.0);
    assert_close(record.gain_over_dense, 2.0 / 3.0);
}

#[test]
fn a_twin_of_dense_is_one_by_both_definitions() {
    let bumpy = |step: f64| 3.0 + (-step / 30.0).exp() + 0.001 * (step / 7.0).sin();
    let record = text_record(&[run("dense", 0, bumpy), run("mom", 0, bumpy)], "mom");
    assert_close(record.relative_flops_first_crossing, 1.0);
    assert_close(record.relative_flops_slope, 1.0);
    assert_close(record.gain_over_dense, 0.0);
}

#[test]
fn dense_is_its_own_yardstick() {
    let record = text_record(&[run("dense", 0, line)], "dense");
    assert_eq!(record.gain_over_dense, Some(0.0));
    assert_eq!(record.relative_flops_first_crossing, Some(1.0));
    assert_eq!(record.relative_flops_slope, Some(1.0));
}

#[test]
fn the_two_definitions_differ_where_the_curves_do() {
    // A constant lead of 15 steps: the crossing is at 85, the slope is sum(s (s - 15)) / sum(s s) over 50, 60, ..., 100.
    let record = text_record(&[run("dense", 0, line), run("mom", 0, |step| line(step + 15.0))], "mom");
    assert_close(record.relative_flops_first_crossing, 0.85);
    assert_close(record.relative_flops_slope, 1.0 - 15.0 * 450.0 / 35_500.0);
}

#[test]
fn more_flops_per_token_count_against_the_variant() {
    let mut mom = run("mom", 0, |step| line(2.0 * step));
    mom.active_flops_per_token *= 1.1;
    let record = text_record(&[run("dense", 0, line), mom], "mom");
    assert_close(record.relative_flops_first_crossing, 0.55);
    assert_close(record.relative_flops_slope, 0.55);
}

#[test]
fn ratios_are_over_the_steps_of_dense() {
    let mut short = run("mom", 0, |step| line(2.0 * step));
    short.curve.truncate(9);
    short.steps = 80;
    let runs = [run("dense", 0, line), short];
    let record = text_record(&runs, "mom");
    assert_close(record.relative_flops_first_crossing, 0.5);
    assert_close(record.relative_flops_slope, 0.5);
    assert_eq!(record.steps, 80);
    let (markdown, _) = rendered(&header(), &runs);
    assert!(markdown.contains("Trained for another number of steps than dense"));
}

#[test]
fn a_single_lucky_evaluation_is_smoothed_away() {
    let lucky = |step: f64| if step == 40.0 { 2.9 } else { line(step) };
    let record = text_record(&[run("dense", 0, line), run("mom", 0, lucky)], "mom");
    assert_close(record.relative_flops_first_crossing, 1.0);
}

#[test]
fn a_worse_variant_has_no_crossing_and_a_slope_over_what_it_matches() {
    // Half as fast: it ends at dense's loss of step 50, so that only step 50 of the second half is matched.
    let slow = text_record(&[run("dense", 0, line), run("mom", 0, |step| line(0.5 * step))], "mom");
    assert_eq!(slow.relative_flops_first_crossing, None);
    assert_eq!(slow.relative_flops_slope, None);
    assert_close(slow.gain_over_dense, -1.0 / 3.0);
    // Five sixths as fast: 50, 60, 70 and 80 are matched.
    let slower = text_record(&[run("dense", 0, line), run("mom", 0, |step| line(step / 1.2))], "mom");
    assert_eq!(slower.relative_flops_first_crossing, None);
    assert_close(slower.relative_flops_slope, 1.2);
}

#[test]
fn only_the_dense_run_of_the_same_setting_scale_and_seed_counts() {
    let mom = run("mom", 0, |step| line(2.0 * step));
    let others = [
        RunResult { seed: 1, ..run("dense", 0, line) },
        RunResult { scale: "small".into(), ..run("dense", 0, line) },
        RunResult { setting: "transfusion".into(), ..run("dense", 0, line) },
    ];
    for other in others {
        let record = text_record(&[other.clone(), mom.clone()], "mom");
        assert_eq!(record.gain_over_dense, None, "compared with {other:?}");
        assert_eq!(record.relative_flops_first_crossing, None);
        assert_eq!(record.relative_flops_slope, None);
        assert_close(record.final_val_loss, 1.0);
    }
}

#[test]
fn diverged_and_unmeasured_runs_are_null() {
    let diverging = |step: f64| if step > 70.0 { f64::NAN } else { line(2.0 * step) };
    let diverged = text_record(&[run("dense", 0, line), run("mom", 0, diverging)], "mom");
    assert_eq!(diverged.final_val_loss, None);
    assert_eq!(diverged.gain_over_dense, None);
    // It did reach dense's loss before.
    assert_close(diverged.relative_flops_first_crossing, 0.5);

    let of_diverged_dense = text_record(&[run("dense", 0, |_| f64::INFINITY), run("mom", 0, line)], "mom");
    assert_eq!(of_diverged_dense.gain_over_dense, None);
    assert_eq!(of_diverged_dense.relative_flops_first_crossing, None);
    assert_eq!(of_diverged_dense.relative_flops_slope, None);

    let mut unmeasured = run("mom", 0, line);
    for point in &mut unmeasured.curve {
        point.loss.remove("text");
    }
    assert_eq!(text_record(&[run("dense", 0, line), unmeasured], "mom").final_val_loss, None);
}

#[test]
fn a_modality_missing_from_some_evaluations_is_read_from_the_others() {
    let mut sparse = run("mom", 0, |step| line(2.0 * step));
    for point in sparse.curve.iter_mut().filter(|point| point.step % 20 != 0) {
        point.loss.remove("text");
    }
    let record = text_record(&[run("dense", 0, line), sparse], "mom");
    assert_close(record.relative_flops_first_crossing, 0.5);
    assert_close(record.relative_flops_slope, 0.5);
}

#[test]
fn one_evaluation_is_enough_for_a_final_loss() {
    let single = |variant: &str, loss: f64| {
        let mut run = run(variant, 0, |_| loss);
        run.curve.drain(..run.curve.len() - 1);
        run
    };
    let runs = [single("dense", 4.0), single("mom", 3.0)];
    let record = text_record(&runs, "mom");
    assert_close(record.gain_over_dense, 0.25);
    assert_close(record.relative_flops_first_crossing, 1.0);
    assert_eq!(record.relative_flops_slope, None);
    let (markdown, _) = rendered(&header(), &runs);
    let row = "| mom | 3.0000 | +25.0 % | – | one seed: no verdict | 100.0 % | too few matches | 1 |";
    assert!(markdown.contains(row), "{markdown}");
}

#[test]
fn records_come_in_the_order_of_the_paper() {
    let mut runs = Vec::new();
    for setting in ["three-modality", "chameleon", "transfusion"] {
        for variant in ["published", "in+out", "out", "dt", "x", "in", "mom", "dense"] {
            for seed in [1, 0] {
                let mut run = RunResult { setting: setting.into(), ..run(variant, seed, line) };
                run.modalities.insert(0, ModalityInfo { name: "speech".into(), loss: "nats".into() });
                run.modalities.reverse();
                runs.push(run);
            }
        }
    }
    let records = records(&runs);
    assert_eq!(records.len(), 3 * 8 * 2 * 3);
    let runs_of_equal = |value: fn(&Record) -> String| {
        let mut values: Vec<String> = records.iter().map(value).collect();
        values.dedup();
        values
    };
    assert_eq!(runs_of_equal(|record| record.setting.clone()), ["transfusion", "chameleon", "three-modality"]);
    assert_eq!(
        runs_of_equal(|record| record.variant.clone())[..8],
        ["dense", "mom", "in", "x", "dt", "out", "in+out", "published"]
    );
    assert_eq!(runs_of_equal(|record| record.seed.to_string())[..2], ["0", "1"]);
    assert_eq!(runs_of_equal(|record| record.modality.clone())[..3], ["text", "image", "speech"]);
}

#[test]
fn results_have_exactly_the_keys_of_the_schema_and_all_of_schema_1() {
    let dir = tempfile::tempdir().unwrap();
    let runs = [run("dense", 0, line), run("mom", 0, |_| f64::NAN)];
    write(dir.path(), &header(), &runs).unwrap();
    let path = dir.path().join("results.json");
    let json: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(keys(&json), BTreeSet::from(["schema", "records", "comparisons"].map(String::from)));
    assert_eq!(json["schema"], 2);
    let schema_1 = BTreeSet::from(
        [
            "setting",
            "variant",
            "seed",
            "modality",
            "final_val_loss",
            "gain_over_dense",
            "relative_flops_first_crossing",
            "relative_flops_slope",
            "steps",
            "tokens",
            "active_flops_per_token",
            "wall_secs",
            "peak_memory_bytes",
        ]
        .map(String::from),
    );
    let added = ["final_joint_loss", "bits_per_byte", "relative_flops_horizons"].map(String::from);
    let expected: BTreeSet<String> = schema_1.iter().cloned().chain(added).collect();
    let written = json["records"].as_array().unwrap();
    assert_eq!(written.len(), 4);
    for record in written {
        assert_eq!(keys(record), expected);
    }
    assert!(written[2]["final_val_loss"].is_null(), "NaN is null");
    assert_eq!(read_results(&path).unwrap(), records(&runs));

    // A file of schema 1 is still read.
    let old: Vec<serde_json::Value> = written
        .iter()
        .map(|record| {
            let kept = record.as_object().unwrap().iter().filter(|(key, _)| schema_1.contains(*key));
            kept.map(|(key, value)| (key.clone(), value.clone())).collect::<serde_json::Map<_, _>>().into()
        })
        .collect();
    fs::write(&path, serde_json::json!({ "schema": 1, "records": old }).to_string()).unwrap();
    assert_eq!(read_results(&path).unwrap()[1].gain_over_dense, records(&runs)[1].gain_over_dense);
}

#[test]
fn other_files_are_refused_as_results() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("results.json");
    assert!(matches!(read_results(&path), Err(ReportError::Io { action: "read", .. })));
    fs::write(&path, r#"{"schema": 3, "rows": []}"#).unwrap();
    assert!(matches!(read_results(&path), Err(ReportError::Schema { expected: 2, got: 3, .. })));
    fs::write(&path, r#"{"schema": 1, "records": [], "more": 0}"#).unwrap();
    assert!(matches!(read_results(&path), Err(ReportError::Json { .. })));
}

#[test]
fn the_same_runs_in_any_order_give_the_same_bytes() {
    let mut runs: Vec<RunResult> = [0, 1]
        .into_iter()
        .flat_map(|seed| {
            ["dense", "mom", "x"].map(|variant| {
                let lead = (variant.len() * 5) as f64 + seed as f64;
                run(variant, seed, move |step| line(step + lead) + 0.01 * (step * lead).sin())
            })
        })
        .collect();
    let files = |runs: &[RunResult]| {
        let dir = tempfile::tempdir().unwrap();
        let written = write(dir.path(), &header(), runs).unwrap();
        let named = written.iter().map(|path| {
            let name = path.strip_prefix(dir.path()).unwrap().to_str().unwrap().replace('\\', "/");
            (name, fs::read(path).unwrap())
        });
        named.collect::<BTreeMap<_, _>>()
    };
    let first = files(&runs);
    let names: Vec<&String> = first.keys().collect();
    assert_eq!(
        names,
        [
            "curves.csv",
            "plots/chameleon-curves-image.svg",
            "plots/chameleon-curves-joint.svg",
            "plots/chameleon-curves-text.svg",
            "plots/chameleon-gain-image.svg",
            "plots/chameleon-gain-joint.svg",
            "plots/chameleon-gain-text.svg",
            "plots/chameleon-matching-image.svg",
            "plots/chameleon-matching-joint.svg",
            "plots/chameleon-matching-text.svg",
            "report.html",
            "report.md",
            "results.json",
        ]
    );
    assert_eq!(first, files(&runs));
    runs.reverse();
    assert_eq!(first, files(&runs));
}

#[test]
fn curves_are_long_and_without_wall_clock() {
    let dir = tempfile::tempdir().unwrap();
    let mut diverged = run("mom", 3, |step| if step > 0.0 { f64::NAN } else { 0.1 });
    diverged.curve.truncate(2);
    write(dir.path(), &header(), std::slice::from_ref(&diverged)).unwrap();
    let path = dir.path().join("curves.csv");
    let first = fs::read_to_string(&path).unwrap();
    assert_eq!(
        first,
        "setting,variant,seed,step,tokens,modality,val_loss\n\
         chameleon,mom,3,0,0,text,0.1\n\
         chameleon,mom,3,0,0,image,0.1\n\
         chameleon,mom,3,0,0,joint,0.1\n\
         chameleon,mom,3,10,640,text,\n\
         chameleon,mom,3,10,640,image,\n\
         chameleon,mom,3,10,640,joint,\n"
    );
    diverged.wall_secs += 100.0;
    diverged.curve[1].wall_secs += 100.0;
    write(dir.path(), &header(), &[diverged]).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), first);
}
