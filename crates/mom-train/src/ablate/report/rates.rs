//! Learning rates in the report: every rate of every arm with its joint loss, and which one the comparison takes.

use std::fmt::Write;

use super::ArmRates;
use super::group::Group;
use super::numbers::{Quantity, Sample};
use super::table::{Row, Table};
use crate::ablate::rates::{RateTrials, Trial};

/// Runs that have ended, diverged ones among them.
pub(super) fn n_done(arms: &[ArmRates]) -> usize {
    let trials = arms.iter().flat_map(ArmRates::rates).flat_map(|rate| rate.trials.values());
    trials.filter(|trial| **trial != Trial::Undone).count()
}

/// The rates of a group; `None` where its runs have no rates to choose from.
pub(super) fn table(group: &Group) -> Option<Table> {
    let mut rates: Vec<f64> = group.arms.iter().flat_map(|arm| arm.rates()).map(|rate| rate.rate).collect();
    rates.sort_by(f64::total_cmp);
    rates.dedup();
    let row = |arm: &&ArmRates| {
        let best = arm.best();
        let cell = |&rate: &f64| match arm.rates().iter().find(|of_arm| of_arm.rate == rate) {
            Some(of_arm) => cell(of_arm, best == Some(rate)),
            None => "–".to_owned(),
        };
        let choice = [Some(arm.choice().to_string()), arm.advice()].into_iter().flatten().collect::<Vec<_>>();
        let cells = rates.iter().map(cell).chain([choice.join("; ")]).collect();
        Row { head: arm.variant.clone(), cells }
    };
    let columns = ["Variant".to_owned()].into_iter();
    let columns = columns.chain(rates.iter().map(f64::to_string)).chain(["Best".to_owned()]).collect();
    (!rates.is_empty()).then(|| Table {
        title: "Learning rates",
        note: match group.arms.iter().find_map(|arm| arm.bracket_steps) {
            Some(steps) => format!(
                "Bracket of each variant: joint validation loss (what is trained on) at the end of runs of {steps} \
                 steps, one seed, at rates a factor of two apart; it widens until the best lies between two that are worse. A \
                 run that diverged counts as infinitely bad. All other tables and figures show whole runs of each variant at \
                 its best rate; the null has dense's."
            ),
            None => "Final joint validation loss (what is trained on) by learning rate, mean ± standard deviation over seeds. \
                     Best is the lowest mean among the rates whose runs of all seeds have ended; a run that diverged counts as \
                     infinitely bad. All other tables and figures show each variant at its best rate; the null has dense's."
                .to_owned(),
        },
        columns,
        blocks: vec![(None, group.arms.iter().map(row).collect())],
    })
}

/// "1.2345 ± 0.0010 (best)", "diverged", "1 of 2 seeds done".
fn cell(rate: &RateTrials, is_best: bool) -> String {
    let (n_seeds, n_diverged) = (rate.trials.len(), rate.n_diverged());
    let n_done = n_diverged + rate.losses().count();
    let mut text = match n_diverged {
        0 => Sample::of(rate.losses().map(Some)).show("not done", Quantity::Loss),
        _ if n_diverged == n_seeds => "diverged".to_owned(),
        _ => format!("diverged in {n_diverged} of {n_seeds} seeds"),
    };
    if is_best {
        text.push_str(" (best)");
    } else if n_done > 0 && n_done < n_seeds {
        let _ = write!(text, " ({n_done} of {n_seeds} seeds done)");
    }
    text
}

/// What the rates of a group say, in words.
pub(super) fn sentences(group: &Group) -> Vec<String> {
    let mut sentences: Vec<String> = Vec::new();
    let chosen: Vec<String> =
        group.arms.iter().filter_map(|arm| Some(format!("{} {}", arm.variant, arm.best()?))).collect();
    if !chosen.is_empty() {
        sentences.push(format!("Each variant at its best learning rate of those tried: {}.", chosen.join(", ")));
    }
    for arm in &group.arms {
        if let Some(advice) = arm.advice() {
            sentences.push(format!("Learning rate of {}: {advice}.", arm.variant));
        } else if !arm.is_settled() || arm.is_hopeless() {
            sentences.push(format!("Learning rate of {}: {}.", arm.variant, arm.choice()));
        }
    }
    sentences
}

/// The text of `rates.csv`: how every run ended. The joint loss of a run that diverged is an empty field; one that is not done has
/// no line.
pub(super) fn csv(arms: &[ArmRates]) -> String {
    let mut csv = String::from("setting,scale,variant,learning_rate,seed,joint,best\n");
    for arm in arms {
        for rate in arm.rates() {
            let is_best = arm.best() == Some(rate.rate);
            for (seed, trial) in &rate.trials {
                let joint = match trial {
                    Trial::Joint(joint) => joint.to_string(),
                    Trial::Diverged => String::new(),
                    Trial::Undone => continue,
                };
                let ArmRates { setting, scale, variant, .. } = arm;
                // Writing to a String cannot fail.
                let _ = writeln!(csv, "{setting},{scale},{variant},{},{seed},{joint},{is_best}", rate.rate);
            }
        }
    }
    csv
}
