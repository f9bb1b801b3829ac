//! The report's content, computed once: what the Markdown and the HTML page both show.

use super::group::{Cell, Group, Variant, capitalised};
use super::numbers::{self, Quantity, Sample};
use super::plot::{self, Panel};
use super::rates;
use super::reading::{self, Reading};
use super::table::{Row, Table};
use super::{ReportError, ReportHeader, order, paper};

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

/// Whether Mixture-of-Mamba ends below dense: in all seeds, in none, or in some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Better,
    Worse,
    Mixed,
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
    pub(super) caption: &'static str,
    /// The panels, one per modality.
    pub(super) panels: Vec<Panel>,
}

/// The definitions behind the numbers: term and meaning.
pub(super) const DEFINITIONS: [(&str, &str); 8] = [
    (
        "Variants",
        "dense: Mamba, whose projections serve all modalities. mom: Mixture-of-Mamba, with in_proj, x_proj, dt_proj and \
         out_proj per modality. in, x, dt, out and their sums: only these per modality. published: the behaviour of the \
         paper's published code.",
    ),
    (
        "Comparison",
        "Each run is compared with the dense run of the same setting, scale and seed, per modality, on validation loss.",
    ),
    (
        "Final loss, gain",
        "The final loss is the last evaluation's, as measured. Gain is (L_dense − L) / L_dense of the final losses; \
         positive means below dense.",
    ),
    (
        "Smoothed curve",
        "At each evaluation the value of the least-squares line through it and its two neighbours (for even spacing: the \
         average of three). The first and the last evaluation stay as measured.",
    ),
    (
        "Relative FLOPs, first crossing",
        "First step, interpolated between evaluations, at which the variant's smoothed curve reaches dense's final loss, \
         over dense's steps, times the ratio of active FLOPs per token. The paper reports this quantity; how it treats \
         noise in its curves is not known.",
    ),
    (
        "Relative FLOPs, slope",
        "For each evaluation step s in the second half of dense's run, m(s) is the step at which the variant's smoothed \
         curve first reaches dense's best smoothed loss up to s. The slope is sum(s m) / sum(s s), times the ratio of \
         active FLOPs per token. Steps that the variant never matches are left out, which flatters a variant that falls \
         behind; fewer than three matches give no slope.",
    ),
    (
        "± and seeds",
        "Mean ± sample standard deviation over seeds (n − 1). One seed has no spread. \"(2 of 3)\" means that one of \
         three seeds has no value (it diverged, or did not reach dense) and is not in the mean.",
    ),
    (
        "FLOPs",
        "Active FLOPs per token count forward and backward of the weights that a token meets; they are equal by design \
         for dense and every variant of Mixture-of-Mamba.",
    ),
];

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
        let below = cell.gain.values.iter().filter(|&&gain| gain > 0.0).count();
        let verdict = match below {
            0 => Verdict::Worse,
            _ if below == cell.gain.values.len() && cell.n_diverged == 0 => Verdict::Better,
            _ => Verdict::Mixed,
        };
        let (n_reached, n_runs) = (cell.first_crossing.values.len(), cell.first_crossing.n_runs);
        let (value, meaning) = match cell.first_crossing.mean() {
            None => ("not reached".to_owned(), "dense's final loss, in the whole run"),
            Some(ratio) if n_reached == n_runs => {
                (Quantity::Percent.show(ratio), "of dense's training FLOPs to reach its final loss")
            }
            Some(_) => (format!("{n_reached} of {n_runs}"), "seeds reach dense's final loss"),
        };
        let spread = cell.gain.spread().map(|spread| format!(" (± {})", Quantity::Gain.spread(spread)));
        let mut details = vec![format!("Ends {}{}", reading::beside_dense(gain), spread.unwrap_or_default())];
        details.push(match n_runs {
            1 => "One seed".to_owned(),
            _ => format!("{n_runs} seeds"),
        });
        if let Some(slope) = cell.slope.mean() {
            details.push(format!("Slope, second half: {}", Quantity::Percent.show(slope)));
        }
        if let Some(published) = paper::published(group.setting, modality) {
            details.push(format!("Paper, at {}: {:.2} %", published.scale, published.percent));
        }
        Some(Card { title: format!("{} · {modality}", group.title()), value, meaning, details, verdict })
    };
    group.modalities.iter().filter_map(|modality| card(&modality.name)).collect()
}

fn section(group: &Group) -> Result<Section, ReportError> {
    let figures = [
        Figure {
            title: "Validation loss",
            caption: "Loss on the validation set as measured. Thin lines are seeds, thick lines their mean. \
                      The first steps, where the loss falls from chance, may lie above the frame; \
                      a dot marks a mean that ends early, where a seed diverged or stopped.",
            panels: plot::curves(group)?,
        },
        Figure {
            title: "Matching steps",
            caption: "For each evaluation of dense, the first step at which a variant reaches dense's best \
                      smoothed loss so far. Below the diagonal a variant needs fewer steps. \
                      The slope is fitted in the shaded half; a line ends where a seed no longer matches dense.",
            panels: plot::matching(group)?,
        },
        Figure {
            title: "Gain over dense",
            caption: "Final loss beside dense's of the same seed: bars are means, dots are seeds, whiskers one \
                      standard deviation. All panels of a setting share one axis.",
            panels: plot::gains(group)?,
        },
    ];
    let mut tables = vec![results_table(group)];
    tables.extend(rates::table(group));
    tables.push(cost_table(group));
    tables.extend(paper_table(group));
    Ok(Section {
        anchor: group.stem.clone(),
        title: group.title(),
        scale: group.scale.to_owned(),
        tables,
        figures: figures.into_iter().filter(|figure| !figure.panels.is_empty()).collect(),
    })
}

fn results_table(group: &Group) -> Table {
    let row = |variant: &Variant, modality: &str| {
        let cell = variant.cell(modality);
        if cell.records.is_empty() {
            return None;
        }
        let (gain, crossing, slope) = if variant.name == order::DENSE {
            let baseline = |sample: &Sample| if sample.values.is_empty() { "–" } else { "baseline" }.to_owned();
            (baseline(&cell.gain), "–".to_owned(), "–".to_owned())
        } else {
            (
                cell.gain.show(absent(&cell, "diverged"), Quantity::Gain),
                cell.first_crossing.show(absent(&cell, "not reached"), Quantity::Percent),
                cell.slope.show(absent(&cell, "too few matches"), Quantity::Percent),
            )
        };
        let no_loss = if cell.n_diverged > 0 { "diverged" } else { "not measured" };
        let loss = cell.loss.show(no_loss, Quantity::Loss);
        let mut seeds = cell.records.len().to_string();
        if variant.name != order::DENSE && cell.n_comparable < cell.records.len() {
            seeds.push_str(&format!(" ({} with dense)", cell.n_comparable));
        }
        Some(Row { head: variant.name.to_owned(), cells: vec![loss, gain, crossing, slope, seeds] })
    };
    Table {
        title: "Results",
        note: "Mean ± standard deviation over seeds. Relative FLOPs to match dense: less is better. \
               \"(2 of 3)\": the other seed has no value."
            .to_owned(),
        columns: [
            "Variant",
            "Final loss",
            "Gain over dense",
            "Relative FLOPs, first crossing",
            "Relative FLOPs, slope",
            "Seeds",
        ]
        .map(str::to_owned)
        .to_vec(),
        blocks: group
            .modalities
            .iter()
            .map(|modality| {
                let heading = format!("{}: {}", capitalised(&modality.name), modality.loss);
                (Some(heading), group.variants.iter().filter_map(|variant| row(variant, &modality.name)).collect())
            })
            .collect(),
    }
}

/// Why a comparison has no value: no dense run, a dense run without a final loss, or the reason of the figure itself.
fn absent<'a>(cell: &Cell, otherwise: &'a str) -> &'a str {
    match cell {
        Cell { n_paired: 0, .. } => "no dense run",
        Cell { n_comparable: 0, .. } => "dense has no final loss",
        _ if cell.loss.values.is_empty() && cell.n_diverged == 0 => "not measured",
        _ => otherwise,
    }
}

fn cost_table(group: &Group) -> Table {
    let row = |variant: &Variant| {
        // What is equal over seeds by design is printed without a spread.
        let figure = |value: fn(&super::RunResult) -> f64, quantity: Quantity| {
            let sample = variant.sample(value);
            match sample.values.as_slice() {
                [first, others @ ..] if others.iter().all(|other| other == first) => quantity.show(*first),
                _ => sample.show("–", quantity),
            }
        };
        let ratio = match variant.name {
            order::DENSE => "baseline".to_owned(),
            _ => variant.wall_ratio().show("no dense run", Quantity::Factor),
        };
        Row {
            head: variant.name.to_owned(),
            cells: vec![
                figure(|run| run.total_parameters as f64, Quantity::Count),
                figure(|run| run.active_parameters as f64, Quantity::Count),
                figure(|run| run.active_flops_per_token, Quantity::Count),
                figure(|run| run.tokens as f64, Quantity::Count),
                figure(|run| run.steps as f64, Quantity::Whole),
                figure(|run| run.wall_secs, Quantity::Secs),
                ratio,
                figure(|run| run.peak_memory_bytes as f64, Quantity::Bytes),
            ],
        }
    };
    Table {
        title: "Cost",
        note: "Wall-clock time and memory are of this machine; the ratio is to the dense run of the same seed."
            .to_owned(),
        columns: [
            "Variant",
            "Total parameters",
            "Active parameters",
            "Active FLOPs per token",
            "Tokens",
            "Steps",
            "Wall-clock time",
            "Ratio to dense",
            "Peak memory",
        ]
        .map(str::to_owned)
        .to_vec(),
        blocks: vec![(None, group.variants.iter().map(row).collect())],
    }
}

/// The paper's figures beside ours; `None` where there is no Mixture-of-Mamba run or the paper gives no figure.
fn paper_table(group: &Group) -> Option<Table> {
    let mom = group.variant(order::MOM)?;
    let rows: Vec<Row> = group
        .modalities
        .iter()
        .filter_map(|modality| {
            let published = paper::published(group.setting, &modality.name)?;
            let cell = mom.cell(&modality.name);
            Some(Row {
                head: capitalised(&modality.name),
                cells: vec![
                    cell.first_crossing.show(absent(&cell, "not reached"), Quantity::Percent),
                    cell.slope.show(absent(&cell, "too few matches"), Quantity::Percent),
                    format!("{:.2} % at {}", published.percent, published.scale),
                ],
            })
        })
        .collect();
    (!rows.is_empty()).then(|| Table {
        title: "Beside the paper",
        note: format!(
            "Relative FLOPs for Mixture-of-Mamba to match dense. From the paper (arXiv 2501.16295), at its largest scale \
             and on its own data; here at scale {}. The two are not comparable in scale.",
            group.scale
        ),
        columns: ["Modality", "Here, first crossing", "Here, slope", "Paper"].map(str::to_owned).to_vec(),
        blocks: vec![(None, rows)],
    })
}
