//! The machine-readable results: one record per setting, variant, seed and modality, and the curves as CSV.

use std::fmt::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::curve::{self, RelativeFlops};
use super::{Comparison, DownstreamComparison, ReportError, RunResult, order};
use crate::config::JOINT;

/// Version of `results.json`.
const SCHEMA: u64 = 2;
/// The oldest version that is read: all of its fields are still there.
const OLDEST: u64 = 1;

/// One line of the comparison. Ratios are fractions, not percent; see the [module](super) for the definitions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Setting of the run.
    pub setting: String,
    /// Variant of the run.
    pub variant: String,
    /// Seed of the run.
    pub seed: u64,
    /// Modality of the losses.
    pub modality: String,
    /// The last evaluation's loss; `None` when it is not finite or was never measured.
    pub final_val_loss: Option<f64>,
    /// `(L_dense - L) / L_dense`; 0 for dense itself, `None` without a dense run to compare with.
    pub gain_over_dense: Option<f64>,
    /// Relative FLOPs to match by first crossing; 1 for dense itself, `None` when not reached or without dense.
    pub relative_flops_first_crossing: Option<f64>,
    /// Relative FLOPs to match by slope; 1 for dense itself, `None` with fewer than three matches or without dense.
    pub relative_flops_slope: Option<f64>,
    /// Optimiser steps.
    pub steps: u64,
    /// Training tokens.
    pub tokens: u64,
    /// FLOPs of forward and backward per token.
    pub active_flops_per_token: f64,
    /// Wall-clock time of training, in seconds.
    pub wall_secs: f64,
    /// Highest memory use, in bytes.
    pub peak_memory_bytes: u64,
    /// The last evaluation's loss over all modalities together: what is trained on. Since schema 2, like all below.
    #[serde(default)]
    pub final_joint_loss: Option<f64>,
    /// Of text: its final loss in bits for each byte; `None` of what has no bytes.
    #[serde(default)]
    pub bits_per_byte: Option<f64>,
    /// Relative FLOPs to match by horizons; 1 for dense itself, `None` without horizons or outside of them.
    #[serde(default)]
    pub relative_flops_horizons: Option<f64>,
}

#[derive(Serialize)]
struct ResultsRef<'a> {
    schema: u64,
    records: &'a [Record],
    comparisons: &'a [Comparison],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    downstream: &'a [DownstreamComparison],
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Results {
    #[serde(rename = "schema")]
    _schema: u64,
    records: Vec<Record>,
    #[serde(default, rename = "comparisons")]
    _comparisons: Vec<Comparison>,
    #[serde(default, rename = "downstream")]
    _downstream: Vec<DownstreamComparison>,
}

#[derive(Deserialize)]
struct Schema {
    schema: u64,
}

/// The records of `runs`, in the report's order: setting, (scale,) variant, seed, modality.
pub fn records(runs: &[RunResult]) -> Vec<Record> {
    sorted(runs)
        .into_iter()
        .flat_map(|run| {
            let dense = dense_of(run, runs);
            modality_names(run).into_iter().map(move |modality| record(run, dense, modality))
        })
        .collect()
}

/// Reads the records of a `results.json`.
///
/// # Errors
/// A file that cannot be read, that is not such a file, or that has another schema.
pub fn read_results(path: &Path) -> Result<Vec<Record>, ReportError> {
    let text = std::fs::read_to_string(path).map_err(|source| ReportError::Io {
        action: "read",
        path: path.into(),
        source,
    })?;
    let json = |source: serde_json::Error| ReportError::Json { path: path.into(), source: source.into() };
    // The schema first: a later one may well have other fields, and then its number is the better message.
    let Schema { schema } = serde_json::from_str(&text).map_err(json)?;
    if !(OLDEST..=SCHEMA).contains(&schema) {
        return Err(ReportError::Schema { path: path.into(), expected: SCHEMA, got: schema });
    }
    serde_json::from_str::<Results>(&text).map(|results| results.records).map_err(json)
}

/// The text of `results.json`.
pub(super) fn results_json(
    runs: &[RunResult],
    comparisons: &[Comparison],
    downstream: &[DownstreamComparison],
) -> Result<String, ReportError> {
    let results = ResultsRef { schema: SCHEMA, records: &records(runs), comparisons, downstream };
    serde_json::to_string_pretty(&results).map(|text| text + "\n").map_err(ReportError::Serialize)
}

/// The text of `horizons.csv`: every end of every run, in long format.
pub(super) fn horizons_csv(runs: &[RunResult]) -> String {
    let mut csv = String::from("setting,variant,seed,steps,modality,val_loss\n");
    for run in sorted(runs) {
        for modality in modality_names(run).into_iter().chain([JOINT]) {
            for (steps, loss) in curve::ends(run, modality) {
                let (setting, variant, modality) =
                    (csv_field(&run.setting), csv_field(&run.variant), csv_field(modality));
                // Writing to a String cannot fail.
                let loss = if loss.is_finite() { loss.to_string() } else { String::new() };
                let _ = writeln!(csv, "{setting},{variant},{},{steps},{modality},{loss}", run.seed);
            }
        }
    }
    csv
}

/// The text of `curves.csv`: every evaluation, in long format. A loss that is not finite is an empty field.
pub(super) fn curves_csv(runs: &[RunResult]) -> String {
    let mut csv = String::from("setting,variant,seed,step,tokens,modality,val_loss\n");
    for run in sorted(runs) {
        for point in &run.curve {
            for modality in modality_names(run).into_iter().chain([JOINT]) {
                let Some(loss) = point.named(modality) else { continue };
                let loss = if loss.is_finite() { loss.to_string() } else { String::new() };
                let (setting, variant, modality) =
                    (csv_field(&run.setting), csv_field(&run.variant), csv_field(modality));
                // Writing to a String cannot fail.
                let _ =
                    writeln!(csv, "{setting},{variant},{},{},{},{modality},{loss}", run.seed, point.step, point.tokens);
            }
        }
    }
    csv
}

/// The dense run of the same setting, scale and seed.
pub(super) fn dense_of<'a>(run: &RunResult, runs: impl IntoIterator<Item = &'a RunResult>) -> Option<&'a RunResult> {
    runs.into_iter().find(|dense| {
        dense.variant == order::DENSE
            && dense.setting == run.setting
            && dense.scale == run.scale
            && dense.seed == run.seed
    })
}

/// The record of one run and modality.
pub(super) fn record(run: &RunResult, dense: Option<&RunResult>, modality: &str) -> Record {
    let loss = curve::outcome(run, modality).loss();
    let (gain, relative) = match dense {
        None => (None, RelativeFlops::default()),
        Some(_) if run.variant == order::DENSE => {
            let one = loss.map(|_| 1.0);
            let horizons = one.filter(|_| !run.horizons.is_empty());
            (loss.map(|_| 0.0), RelativeFlops { first_crossing: one, slope: one, horizons })
        }
        Some(dense) => {
            let gain = loss.zip(curve::outcome(dense, modality).loss()).map(|(loss, base)| (base - loss) / base);
            (gain.filter(|gain| gain.is_finite()), curve::relative_flops(run, dense, modality))
        }
    };
    Record {
        setting: run.setting.clone(),
        variant: run.variant.clone(),
        seed: run.seed,
        modality: modality.to_owned(),
        final_val_loss: loss,
        gain_over_dense: gain,
        relative_flops_first_crossing: relative.first_crossing,
        relative_flops_slope: relative.slope,
        steps: run.steps,
        tokens: run.tokens,
        active_flops_per_token: run.active_flops_per_token,
        wall_secs: run.wall_secs,
        peak_memory_bytes: run.peak_memory_bytes,
        final_joint_loss: curve::outcome(run, JOINT).loss(),
        bits_per_byte: run.curve.last().and_then(|last| last.bits_per_byte).filter(|_| modality == order::TEXT),
        relative_flops_horizons: relative.horizons,
    }
}

/// The runs in the report's order.
pub(super) fn sorted(runs: &[RunResult]) -> Vec<&RunResult> {
    let mut sorted: Vec<&RunResult> = runs.iter().collect();
    sorted.sort_by_cached_key(|run| (order::setting(&run.setting), &run.scale, order::variant(&run.variant), run.seed));
    sorted
}

fn modality_names(run: &RunResult) -> Vec<&str> {
    let mut names: Vec<&str> = run.modalities.iter().map(|modality| modality.name.as_str()).collect();
    names.sort_by_key(|name| order::modality(name));
    names
}

pub(super) fn csv_field(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}
