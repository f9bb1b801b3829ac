//! The report's content, computed once: what the Markdown and the HTML page both show.

use super::group::Group;
use super::numbers::{self, Quantity};
use super::plot::{self, Panel};
use super::reading::{self, Reading};
use super::table::Table;
use super::{ReportError, ReportHeader, downstream, order, paper, rates, tables};
use crate::ablate::statistics::Verdict;

/// Everything the report says.
pub(super) struct Summary<'a> {
    /// The circumstances of the sweep.
    pub(super) header: &'a ReportHeader,
    /// "14 of 16 runs done".
    pub(super) done: String,
    /// When and where, as short texts.
    pub(super) facts: Vec<String>,
    /// Headline numbers: Mixture-of-Mamba per setting and modality.
    pub(super) cards: Vec<Card>,
    /// What the numbers say, in words.
    pub(super) readings: Vec<Reading>,
    /// Tables and figures per setting.
    pub(super) sections: Vec<Section>,
    /// How the report was made: name and value.
    pub(super) origin: Vec<(&'static str, String)>,
}

/// A headline number.
pub(super) struct Card {
    /// Setting and modality.
    pub(super) title: String,
    /// The number, or the words that stand in for it.
    pub(super) value: String,
    /// What the number is.
    pub(super) meaning: &'static str,
    /// Figures around it.
    pub(super) details: Vec<String>,
    /// What it says of Mixture-of-Mamba.
    pub(super) verdict: Verdict,
}

/// One setting at one scale.
pub(super) struct Section {
    /// Anchor in the page.
    pub(super) anchor: String,
    /// Setting in words.
    pub(super) title: String,
    /// Scale of the runs.
    pub(super) scale: String,
    /// The tables, in reading order.
    pub(super) tables: Vec<Table>,
    /// The figures, in reading order.
    pub(super) figures: Vec<Figure>,
}

/// Panels that belong together.
pub(super) struct Figure {
    /// Short title.
    pub(super) title: &'static str,
    /// What the panels show.
    pub(super) caption: String,
    /// The panels, one per modality.
    pub(super) panels: Vec<Panel>,
}

/// Computes the report's content.
pub(super) fn summary<'a>(
    header: &'a ReportHeader,
    n_done: usize,
    groups: &[Group],
) -> Result<Summary<'a>, ReportError> {
    let n_planned = n_done + header.missing.len();
    Ok(Summary {
        header,
        done: format!("{n_done} of {n_planned} {} done", if n_planned == 1 { "run" } else { "runs" }),
        facts: [numbers::utc(header.created_unix_secs), header.machine.clone(), header.device.clone()]
            .into_iter()
            .filter(|fact| !fact.is_empty())
            .collect(),
        cards: groups.iter().flat_map(cards).collect(),
        readings: groups.iter().map(reading::reading).collect(),
        sections: groups.iter().map(section).collect::<Result<_, _>>()?,
        origin: vec![
            ("Commit", header.commit.clone().unwrap_or_else(|| "unknown".to_owned())),
            ("Machine", header.machine.clone()),
            ("Device", header.device.clone()),
            ("Threads per run", header.threads.to_string()),
            ("Report made", numbers::utc(header.created_unix_secs)),
        ],
    })
}

fn cards(group: &Group) -> Vec<Card> {
    let Some(mom) = group.variant(order::MOM) else { return Vec::new() };
    let card = |modality: &str| {
        let cell = mom.cell(modality);
        let gain = cell.gain.mean()?;
        let comparison = group.comparison(order::MOM, modality)?;
        let (n_reached, n_runs) = (cell.first_crossing.values.len(), cell.first_crossing.n_runs);
        let (value, meaning) = match cell.first_crossing.mean() {
            // A share of FLOPs is no headline where the gain may be chance.
            _ if !comparison.is_told() => (Quantity::Gain.show(gain), "gain over dense, which may be chance"),
            Some(_) if !comparison.tells(comparison.relative_flops_first_crossing.as_ref()) => {
                (Quantity::Gain.show(gain), "gain over dense; what it saves is not told apart from nothing")
            }
            None => ("not reached".to_owned(), "dense's final loss, in the whole run"),
            Some(ratio) if n_reached == n_runs => {
                (Quantity::Percent.show(ratio), "of dense's training FLOPs to reach its final loss")
            }
            Some(_) => (format!("{n_reached} of {n_runs}"), "seeds reach dense's final loss"),
        };
        let spread = cell.gain.spread().map(|spread| format!(" (± {})", Quantity::Gain.spread(spread)));
        let mut details = vec![format!("Ends {}{}", reading::beside_dense(gain), spread.unwrap_or_default())];
        details.push(format!("Verdict: {}", comparison.words()));
        details.extend(comparison.gain_interval().map(|interval| format!("95 % interval of the gain: {interval}")));
        details.push(match n_runs {
            1 => "One seed".to_owned(),
            _ => format!("{n_runs} seeds"),
        });
        if let Some(horizons) =
            cell.horizons.mean().filter(|_| comparison.tells(comparison.relative_flops_horizons.as_ref()))
        {
            details.push(format!("Relative FLOPs by horizons: {}", Quantity::Percent.show(horizons)));
        }
        if let Some(slope) = cell.slope.mean().filter(|_| comparison.tells(comparison.relative_flops_slope.as_ref())) {
            details.push(format!("Slope, second half: {}", Quantity::Percent.show(slope)));
        }
        if let Some(published) = paper::published(group.setting, modality) {
            details.push(format!("Paper, at {}: {:.2} %", published.scale, published.percent));
        }
        Some(Card {
            title: format!("{} · {modality}", group.title()),
            value,
            meaning,
            details,
            verdict: comparison.verdict,
        })
    };
    group.modalities().filter_map(|target| card(target.name)).collect()
}

fn section(group: &Group) -> Result<Section, ReportError> {
    // What stands on one seed says so wherever it stands.
    let figure = |title, caption: &str, panels| Figure {
        title,
        caption: format!("{}{caption}", if group.is_one_seed() { "One seed. " } else { "" }),
        panels,
    };
    let figures = [
        figure(
            "Gain over dense",
            "Final loss beside dense's of the same seed: bars are means, dots are seeds, whiskers 95 % intervals. The \
             shaded band holds the null's differences, which are chance. All panels of a setting share one axis.",
            plot::gains(group)?,
        ),
        figure(
            "Validation loss",
            "Loss on the validation set as measured. Thin lines are seeds, thick lines their mean. The null is dense from \
             other initial weights: how far it lies from dense is chance. The first steps, where the loss falls from \
             chance level, may lie above the frame; a dot marks a mean that ends early, where a seed diverged or stopped.",
            plot::curves(group)?,
        ),
        figure(
            "Horizons",
            "Loss at the end of runs of several lengths, each with a learning rate that has come down. Both axes are \
             logarithmic; relative FLOPs by horizons are read from the straight lines between the ends.",
            plot::horizons(group)?,
        ),
        figure(
            "Matching steps",
            "For each evaluation of dense, the first step at which a variant reaches dense's best smoothed loss so far. \
             Below the diagonal a variant needs fewer steps; the null's distance from it is chance. The slope is fitted \
             in the shaded half; a line ends where a seed no longer matches dense.",
            plot::matching(group)?,
        ),
        figure(
            "Learning rates",
            "Final joint validation loss by learning rate. The ring marks the rate that a variant is compared at; a rate \
             that diverged has no point.",
            plot::rates(group)?,
        ),
    ];
    let mut of_group = vec![tables::results_table(group)];
    of_group.extend(downstream::table(group));
    of_group.extend(rates::table(group));
    of_group.push(tables::cost_table(group));
    of_group.extend(tables::paper_table(group));
    Ok(Section {
        anchor: group.stem.clone(),
        title: group.title(),
        scale: group.scale.to_owned(),
        tables: of_group,
        figures: figures.into_iter().filter(|figure| !figure.panels.is_empty()).collect(),
    })
}
