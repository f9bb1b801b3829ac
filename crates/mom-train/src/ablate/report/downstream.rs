//! What models tell of the truth of documents, arm by arm: differences from dense, their verdicts, a table and a file.
//!
//! Differences are paired by seed and estimated as those of losses are. Verdicts are a family of their own: Holm's adjustment
//! counts the headline measures of every task, variant and setting, and neither counts among the losses nor they among it.
//! What headlines are made of (attributes) has intervals and no verdicts.

use std::fmt::Write;

use super::comparison::figure_of;
use super::group::{Group, Paired, Variant};
use super::numbers::Sample;
use super::table::{Row, Table};
use super::{DownstreamComparison, RunResult, order, records};
use crate::ablate::statistics::{Estimate, Verdict, adjusted, verdicts};
use crate::telemetry::Figure;

/// Compares the variants of all groups.
pub(super) fn compare(groups: &mut [Group]) {
    for group in groups.iter_mut() {
        group.downstream = of_group(group);
    }
    let all = || groups.iter().flat_map(|group| &group.downstream);
    let is_judged = |of: &DownstreamComparison| of.variant != order::NULL && of.is_headline();
    let differences: Vec<_> = all().map(|of| of.difference.filter(|_| is_judged(of))).collect();
    let p = adjusted(&differences.iter().map(|of| of.as_ref()?.p).collect::<Vec<_>>());
    let mut judged = verdicts(&differences).into_iter().zip(p).collect::<Vec<_>>().into_iter();
    for of in groups.iter_mut().flat_map(|group| &mut group.downstream) {
        if let Some((verdict, p)) = judged.next() {
            of.p_adjusted = p;
            of.verdict = match verdict {
                _ if of.variant == order::NULL => Verdict::Null,
                Verdict::Better if of.is_less_better() => Verdict::Worse,
                Verdict::Worse if of.is_less_better() => Verdict::Better,
                as_it_is => as_it_is,
            };
        }
    }
}

/// Tasks and measures of a group's runs, in the order in which they stand there.
fn asked(group: &Group) -> Vec<(String, String)> {
    let mut asked: Vec<(String, String)> = Vec::new();
    for figure in group.variants.iter().flat_map(|variant| &variant.runs).flat_map(|paired| figures(paired.run)) {
        let new = (figure.task.clone(), figure.measure.clone());
        if !asked.contains(&new) {
            asked.push(new);
        }
    }
    asked
}

fn figures(run: &RunResult) -> &[Figure] {
    run.downstream.as_ref().map_or(&[][..], |of| &of.figures[..])
}

fn figure<'a>(run: &'a RunResult, task: &str, measure: &str) -> Option<&'a Figure> {
    figures(run).iter().find(|figure| (&*figure.task, &*figure.measure) == (task, measure))
}

/// The figure less dense's, where both were asked about as many documents.
fn difference(paired: &Paired, task: &str, measure: &str) -> Option<f64> {
    let dense = paired.dense?;
    let asked_for = |run: &RunResult| run.downstream.as_ref().map(|of| of.documents);
    let [own, of_dense] = [paired.run, dense].map(|run| figure(run, task, measure));
    let (own, of_dense) = (own?, of_dense?);
    let same = asked_for(paired.run) == asked_for(dense) && own.documents == of_dense.documents;
    same.then_some(own.value - of_dense.value)
}

/// By how much a figure differs where one thing more of those that are counted is right.
fn step(variant: &Variant, task: &str, measure: &str) -> f64 {
    let counted = variant.runs.iter().filter_map(|paired| figure(paired.run, task, measure)).map(|figure| figure.n);
    1.0 / counted.min().unwrap_or(1).max(1) as f64
}

fn differences(variant: &Variant, task: &str, measure: &str) -> Sample {
    let paired = variant.runs.iter().filter(|paired| paired.dense.is_some());
    Sample::of(paired.map(|paired| difference(paired, task, measure)))
}

fn of_group(group: &Group) -> Vec<DownstreamComparison> {
    let mut comparisons = Vec::new();
    for (task, measure) in asked(group) {
        // A mean over those seeds alone that have a value would flatter.
        let whole = |sample: Sample| (sample.values.len() == sample.n_runs).then_some(sample.values);
        let null = group.variant(order::NULL).and_then(|null| whole(differences(null, &task, &measure)));
        for variant in group.variants.iter().filter(|variant| variant.name != order::DENSE) {
            let sample = differences(variant, &task, &measure);
            if sample.values.is_empty() {
                continue;
            }
            let null = null.as_deref().filter(|_| variant.name != order::NULL).unwrap_or_default();
            comparisons.push(DownstreamComparison {
                setting: group.setting.to_owned(),
                scale: group.scale.to_owned(),
                variant: variant.name.to_owned(),
                task: task.clone(),
                measure: measure.clone(),
                n_seeds: sample.values.len(),
                difference: whole(sample)
                    .and_then(|values| Estimate::in_steps(&values, null, 0.0, step(variant, &task, &measure))),
                p_adjusted: None,
                verdict: Verdict::None,
            });
        }
    }
    comparisons
}

/// Every figure of every variant; `None` where nothing was asked.
pub(super) fn table(group: &Group) -> Option<Table> {
    let asked = asked(group);
    if asked.is_empty() {
        return None;
    }
    let row = |variant: &Variant, task: &str, measure: &str| {
        let of = |value: &dyn Fn(&Figure) -> Option<f64>| {
            Sample::of(variant.runs.iter().map(|paired| figure(paired.run, task, measure).and_then(value)))
        };
        let values = of(&|figure| Some(figure.value));
        if values.values.is_empty() {
            return None;
        }
        let found =
            group.downstream.iter().find(|of| (&*of.variant, &*of.task, &*of.measure) == (variant.name, task, measure));
        let none = || "–".to_owned();
        let (difference, interval, verdict) = match found {
            None if variant.name == order::DENSE => ("baseline".to_owned(), none(), none()),
            None => ("no dense run".to_owned(), none(), none()),
            Some(of) => (
                of.difference().unwrap_or_else(none),
                of.interval().unwrap_or_else(none),
                if of.is_headline() { of.words().to_owned() } else { none() },
            ),
        };
        // Documents and reader are the same in every run; of drawn texts chance is each model's own.
        let quantity = figure_of(measure);
        let beside =
            |value: &dyn Fn(&Figure) -> Option<f64>| of(value).mean().map_or_else(none, |mean| quantity.show(mean));
        let cells = vec![
            values.show("–", quantity),
            difference,
            interval,
            verdict,
            beside(&|figure| figure.ceiling),
            beside(&|figure| figure.chance),
            values.values.len().to_string(),
        ];
        Some(Row { head: variant.name.to_owned(), cells })
    };
    let one_seed = if group.is_one_seed() { " (one seed)" } else { "" };
    let blocks = asked.iter().map(|(task, measure)| {
        let rows = group.variants.iter().filter_map(|variant| row(variant, task, measure)).collect();
        (Some(format!("{task}: {measure}")), rows)
    });
    Some(Table {
        title: "Downstream figures",
        note: "What models tell of held-out documents whose truth is known; more is better, but of word error rates. Differences of \
               shares are percentage points, seed by seed. A ceiling is what the same reader makes of the documents' own captions, \
               pictures and speech, chance what it makes of a model's where they are taken for other documents'. Verdicts are of \
               headlines alone: all, likelihood, pmi, word_error_rate."
            .to_owned(),
        columns: [
            "Variant".to_owned(),
            format!("Figure{one_seed}"),
            format!("Less dense's{one_seed}"),
            "95 % interval".to_owned(),
            "Verdict".to_owned(),
            "Ceiling".to_owned(),
            "Chance".to_owned(),
            "Seeds".to_owned(),
        ]
        .to_vec(),
        blocks: blocks.collect(),
    })
}

/// What Mixture-of-Mamba comes to in the headlines, and what could not be asked.
pub(super) fn sentences(group: &Group) -> Vec<String> {
    let of_mom = |of: &&DownstreamComparison| of.variant == order::MOM && of.is_headline();
    let headline = |of: &DownstreamComparison| {
        let difference = of.difference()?;
        let interval = of.interval().map(|interval| format!(", 95 % interval {interval}")).unwrap_or_default();
        Some(format!("{} ({}) {difference} beside dense{interval}: {}", of.task, of.measure, of.words()))
    };
    let told: Vec<String> = group.downstream.iter().filter(of_mom).filter_map(headline).collect();
    let mut sentences = Vec::new();
    if !told.is_empty() {
        sentences.push(format!("Downstream: MoM in {}.", told.join("; ")));
    }
    let mut notes: Vec<&String> = group
        .variants
        .iter()
        .flat_map(|variant| &variant.runs)
        .flat_map(|paired| paired.run.downstream.iter().flat_map(|of| &of.notes))
        .collect();
    notes.sort();
    notes.dedup();
    sentences.extend(notes.into_iter().map(|note| format!("Not asked: {note}.")));
    sentences
}

/// The text of `downstream.csv`: every figure of every run, in long format, with the documents of each kind that were asked for, and
/// those that the figure is of; `None` where nothing was asked.
pub(super) fn csv(runs: &[RunResult]) -> Option<String> {
    let mut csv = String::from("setting,scale,variant,seed,asked_for,task,measure,value,documents,n,ceiling,chance\n");
    let head = csv.len();
    for run in records::sorted(runs) {
        let Some(of) = &run.downstream else { continue };
        let [setting, scale, variant] = [&run.setting, &run.scale, &run.variant].map(|text| records::csv_field(text));
        for Figure { task, measure, value, documents, n, ceiling, chance } in &of.figures {
            let [ceiling, chance] =
                [ceiling, chance].map(|share| share.map(|share| share.to_string()).unwrap_or_default());
            let documents = documents.map(|documents| documents.to_string()).unwrap_or_default();
            // Writing to a String cannot fail.
            let _ = writeln!(
                csv,
                "{setting},{scale},{variant},{},{},{task},{measure},{value},{documents},{n},{ceiling},{chance}",
                run.seed, of.documents
            );
        }
    }
    (csv.len() > head).then_some(csv)
}
