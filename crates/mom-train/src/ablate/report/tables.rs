//! The tables of a setting: results, cost, and the paper's figures beside ours.

use super::group::{Cell, Group, Variant, capitalised};
use super::numbers::{Quantity, Sample};
use super::table::{Row, Table};
use super::{order, paper};
use crate::ablate::statistics::Estimate;

/// Every loss of every variant, beside dense.
pub(super) fn results_table(group: &Group) -> Table {
    let runs = || group.variants.iter().flat_map(|variant| &variant.runs);
    let has_bits = runs().any(|paired| paired.run.curve.last().is_some_and(|last| last.bits_per_byte.is_some()));
    let row = |variant: &Variant, modality: &str| {
        let cell = variant.cell(modality);
        if cell.records.is_empty() {
            return None;
        }
        let none = || "–".to_owned();
        let (gain, interval, verdict, flops) = match group.comparison(variant.name, modality) {
            None => {
                let gain = if cell.gain.values.is_empty() { "–" } else { "baseline" };
                (gain.to_owned(), none(), none(), [none(), none(), none()])
            }
            Some(comparison) => {
                let flops = |sample: &Sample, estimate: &Option<Estimate>, reason| {
                    comparison.flops(sample, estimate.as_ref(), absent(&cell, reason))
                };
                (
                    cell.gain.show(absent(&cell, "diverged"), Quantity::Gain),
                    comparison.gain_interval().unwrap_or_else(none),
                    comparison.words().to_owned(),
                    [
                        flops(&cell.first_crossing, &comparison.relative_flops_first_crossing, "not reached"),
                        flops(&cell.slope, &comparison.relative_flops_slope, "too few matches"),
                        flops(&cell.horizons, &comparison.relative_flops_horizons, "outside of the horizons"),
                    ],
                )
            }
        };
        let [crossing, slope, horizons] = flops;
        let no_loss = if cell.n_diverged > 0 { "diverged" } else { "not measured" };
        let loss = cell.loss.show(no_loss, Quantity::Loss);
        let mut seeds = cell.records.len().to_string();
        if variant.name != order::DENSE && cell.n_comparable < cell.records.len() {
            seeds.push_str(&format!(" ({} with dense)", cell.n_comparable));
        }
        let bits = Sample::of(cell.records.iter().filter_map(|record| record.bits_per_byte).map(Some));
        let bits = has_bits.then(|| bits.show("", Quantity::Loss));
        let horizons = group.has_horizons().then_some(horizons);
        let cells =
            [Some(loss), bits, Some(gain), Some(interval), Some(verdict), Some(crossing), Some(slope), horizons];
        Some(Row { head: variant.name.to_owned(), cells: cells.into_iter().flatten().chain([seeds]).collect() })
    };
    let one_seed = if group.is_one_seed() { " (one seed)" } else { "" };
    let column = |name: &str| Some(format!("{name}{one_seed}"));
    let columns = [
        Some("Variant".to_owned()),
        column("Final loss"),
        has_bits.then(|| format!("Bits per byte{one_seed}")),
        column("Gain over dense"),
        Some("95 % interval".to_owned()),
        Some("Verdict".to_owned()),
        column("Relative FLOPs, first crossing"),
        column("Relative FLOPs, slope"),
        column("Relative FLOPs, horizons").filter(|_| group.has_horizons()),
        Some("Seeds".to_owned()),
    ];
    Table {
        title: "Results",
        note: format!(
            "{}Mean ± standard deviation over seeds, with 95 % intervals in brackets. Relative FLOPs to match dense: less is \
             better. \"(2 of 3)\": the other seed has no value.",
            if group.is_one_seed() { "One seed: how much seeds differ is unknown. " } else { "" }
        ),
        columns: columns.into_iter().flatten().collect(),
        blocks: group
            .targets
            .iter()
            .map(|target| {
                let heading = format!("{}: {}", capitalised(target.name), target.loss);
                (Some(heading), group.variants.iter().filter_map(|variant| row(variant, target.name)).collect())
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

/// What every variant costs.
pub(super) fn cost_table(group: &Group) -> Table {
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
pub(super) fn paper_table(group: &Group) -> Option<Table> {
    let mom = group.variant(order::MOM)?;
    let rows: Vec<Row> = group
        .modalities()
        .filter_map(|modality| {
            let published = paper::published(group.setting, modality.name)?;
            let cell = mom.cell(modality.name);
            let comparison = group.comparison(order::MOM, modality.name)?;
            Some(Row {
                head: capitalised(modality.name),
                cells: vec![
                    comparison.flops(
                        &cell.first_crossing,
                        comparison.relative_flops_first_crossing.as_ref(),
                        absent(&cell, "not reached"),
                    ),
                    comparison.flops(
                        &cell.slope,
                        comparison.relative_flops_slope.as_ref(),
                        absent(&cell, "too few matches"),
                    ),
                    comparison.words().to_owned(),
                    format!("{:.2} % at {}", published.percent, published.scale),
                ],
            })
        })
        .collect();
    (!rows.is_empty()).then(|| Table {
        title: "Beside the paper",
        note: format!(
            "{one_seed}Relative FLOPs for Mixture-of-Mamba to match dense. From the paper (arXiv 2501.16295), at its largest scale \
             and on its own data; here at scale {}. The two are not comparable in scale.",
            group.scale,
            one_seed = if group.is_one_seed() { "One seed here. " } else { "" }
        ),
        columns: ["Modality", "Here, first crossing", "Here, slope", "Gain over dense", "Paper"].map(str::to_owned).to_vec(),
        blocks: vec![(None, rows)],
    })
}
