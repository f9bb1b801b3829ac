//! Downstream figures in the report.

use mom_train::ablate::report::{downstream_comparisons, read_results};
use mom_train::ablate::statistics::Verdict;
use mom_train::{Downstream, Figure};

use super::*;

/// A run that got these shares of captions right, and of their colours.
fn asked(variant: &str, seed: u64, all: f64, colour: f64) -> RunResult {
    let figure = |measure: &str, value| Figure {
        task: "image-to-text".into(),
        measure: measure.into(),
        value,
        documents: Some(30),
        n: 200,
        ceiling: Some(1.0),
        chance: Some(0.3),
    };
    let figures = vec![figure("colour", colour), figure("all", all)];
    let downstream = Some(Downstream { documents: 32, figures, notes: Vec::new() });
    RunResult { downstream, ..run(variant, seed, line) }
}

fn runs(ahead: f64) -> Vec<RunResult> {
    let of_seed = |seed: u64| {
        let dense = 0.5 + 0.02 * seed as f64;
        let wobble = [0.004, -0.006, 0.002][seed as usize];
        vec![
            asked("dense", seed, dense, dense),
            asked("null", seed, dense + wobble, dense),
            asked("mom", seed, dense + ahead + 0.5 * wobble, dense + ahead),
        ]
    };
    (0..3).flat_map(of_seed).collect()
}

#[test]
fn differences_are_paired_and_only_headlines_are_judged() {
    let of = |runs: &[RunResult], variant: &str, measure: &str| {
        let all = downstream_comparisons(runs);
        all.into_iter().find(|of| of.variant == variant && of.measure == measure).unwrap()
    };
    let ahead = runs(0.1);
    let all = of(&ahead, "mom", "all");
    assert_eq!((all.verdict, all.n_seeds), (Verdict::Better, 3));
    // Dense gets better from seed to seed by more than what is between the arms scatters: pairing takes that out.
    let difference = all.difference.unwrap();
    assert!((difference.mean - 0.1).abs() < 1e-9 && difference.interval.unwrap().low > 0.08, "{difference:?}");
    assert_eq!(of(&ahead, "null", "all").verdict, Verdict::Null);
    let colour = of(&ahead, "mom", "colour");
    assert_eq!((colour.verdict, colour.p_adjusted), (Verdict::None, None));
    assert_eq!(of(&runs(-0.1), "mom", "all").verdict, Verdict::Worse);
    assert_eq!(of(&runs(0.0), "mom", "all").verdict, Verdict::NotToldApart);
    // One seed without the figure: a mean over the others would flatter.
    let mut some = runs(0.1);
    some[8].downstream = None;
    assert_eq!(of(&some, "mom", "all").difference, None);
    // Nor are figures of other documents compared.
    let mut others = runs(0.1);
    others[8].downstream.as_mut().unwrap().documents = 64;
    assert_eq!(of(&others, "mom", "all").difference, None);
    let mut fewer = runs(0.1);
    fewer[8].downstream.as_mut().unwrap().figures[1].documents = Some(29);
    assert_eq!(of(&fewer, "mom", "all").difference, None);
    assert!(of(&fewer, "mom", "colour").difference.is_some());
    assert!(downstream_comparisons(&[run("dense", 0, line), run("mom", 0, line)]).is_empty());
}

#[test]
fn of_word_errors_fewer_are_better() {
    let with_errors = |ahead: f64| -> Vec<RunResult> {
        let mut runs = runs(ahead);
        let figures = runs.iter_mut().flat_map(|run| &mut run.downstream.as_mut().unwrap().figures);
        figures.filter(|figure| figure.measure == "all").for_each(|figure| figure.measure = "word_error_rate".into());
        runs
    };
    let of = |runs: &[RunResult]| {
        let all = downstream_comparisons(runs);
        let mom = all.into_iter().find(|of| of.variant == "mom" && of.measure == "word_error_rate").unwrap();
        (mom.verdict, mom.difference().unwrap())
    };
    assert_eq!(of(&with_errors(-0.1)), (Verdict::Better, "−10.0 points".to_owned()));
    assert_eq!(of(&with_errors(0.1)), (Verdict::Worse, "+10.0 points".to_owned()));
    assert_eq!(of(&with_errors(0.0)).0, Verdict::NotToldApart);
}

#[test]
fn they_stand_in_every_file_and_nowhere_where_nobody_asked() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &header(), &runs(0.1)).unwrap();
    let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    let csv = read("downstream.csv");
    assert_eq!(csv.lines().count(), 1 + 9 * 2);
    assert!(csv.contains("\nchameleon,tiny,mom,0,32,image-to-text,colour,0.6,30,200,1,0.3\n"), "{csv}");
    let (page, text) = (read("report.html"), read("report.md"));
    for report in [&page, &text] {
        assert!(report.contains("Downstream figures") && report.contains("image-to-text: all"), "{report}");
    }
    assert!(text.contains("Downstream: MoM in image-to-text (all) +10.0 points beside dense"), "{text}");
    // What lies between two shares are points: ten of them are no ten per cent of what dense gets right.
    let (_, table) = text.split_once("Downstream figures").unwrap();
    let row = table.lines().find(|line| line.starts_with("| mom |")).unwrap();
    let cells: Vec<&str> = row.split('|').map(str::trim).collect();
    assert!(
        cells[2].ends_with(" %") && cells[3] == "+10.0 points" && cells[4].trim_end_matches("\\]").ends_with(" points"),
        "{row}"
    );
    assert!(read("results.json").contains("\"downstream\""));
    assert_eq!(read_results(&dir.path().join("results.json")).unwrap().len(), 9 * 2);

    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &header(), &[run("dense", 0, line), run("mom", 0, line)]).unwrap();
    assert!(!dir.path().join("downstream.csv").exists());
    assert!(!fs::read_to_string(dir.path().join("results.json")).unwrap().contains("\"downstream\""));
}
