//! The report of a comparison: dense Mamba against Mixture-of-Mamba and its parts, from finished training runs.
//!
//! [`write()`] turns a set of [`RunResult`]s into `results.json`, `curves.csv`, SVG plots, `report.md` and `report.html`.
//! Everything is computed from the runs alone, so that the same runs give the same bytes.
//!
//! # Definitions
//!
//! A variant is compared with the dense run of the same setting, scale and seed, per modality, on validation loss.
//!
//! * **Final loss**: the last evaluation's loss, as measured.
//! * **Gain** over dense: `(L_dense - L) / L_dense` of the final losses.
//! * **Smoothed curve**: at each evaluation the value of the least-squares line through it and its two neighbours; for
//!   evenly spaced evaluations that is the plain average of three. The first and the last evaluation stay as measured,
//!   so that a straight line stays straight and the curve ends at the final loss.
//! * **Relative FLOPs, first crossing**: the first step, interpolated linearly between evaluations, at which the
//!   variant's smoothed curve reaches dense's final loss, over dense's steps.
//! * **Relative FLOPs, slope**: for every evaluation step `s` in the second half of dense's run, `m(s)` is the step at
//!   which the variant's smoothed curve first reaches dense's best smoothed loss up to `s`; the slope is the
//!   least-squares line through the origin, `sum(s m) / sum(s s)`. Steps that the variant never matches are left out;
//!   fewer than three matches give no slope.
//! * **Relative FLOPs, horizons**: where runs were brought to an end at several horizons, the steps at which the line through the
//!   variant's ends, straight in log-log, has dense's final loss, over dense's steps.
//! * All ratios are multiplied by the ratio of active FLOPs per token, variant over dense, which is 1 by design.
//! * **Spread**: the sample standard deviation over seeds (n - 1); one seed has none.
//! * **Interval** and **verdict**: see [`statistics`](super::statistics).
//!
//! The paper (arXiv 2501.16295) reports relative training FLOPs to match dense Mamba's final loss, which is the first
//! crossing; the slope is the steadier of the two when the learning rate decays late in the run.

mod comparison;
mod curve;
mod definitions;
mod downstream;
mod error;
mod escape;
mod files;
mod gallery;
mod group;
mod html;
mod input;
mod judge;
mod markdown;
mod numbers;
mod order;
mod paper;
mod plot;
mod rates;
mod reading;
mod records;
mod summary;
mod table;
mod tables;

use std::path::{Path, PathBuf};

pub use comparison::{Comparison, DownstreamComparison};
pub use error::ReportError;
pub use gallery::{Exhibit, Gallery, GalleryRow};
pub use input::ReportHeader;
pub use judge::{comparisons, downstream_comparisons};
pub(super) use order::{NULL, UNET};
pub use records::{Record, read_results, records};

use super::rates::ArmRates;
use crate::telemetry::RunResult;

/// Writes the whole report of `runs` into the folder `dir`, which is created when absent.
///
/// Files: `results.json` (one [`Record`] per setting, variant, seed and modality), `curves.csv` (every evaluation),
/// `plots/*.svg`, `report.md` and `report.html`. Each is written under a temporary name in its own folder and then
/// renamed, so that a reader never sees half a file.
///
/// # Returns
/// The paths written, in the order of writing.
///
/// # Errors
/// Two runs of the same setting, scale, variant and seed; a curve whose steps do not ascend; a file that cannot be
/// written, with its path.
pub fn write(dir: &Path, header: &ReportHeader, runs: &[RunResult]) -> Result<Vec<PathBuf>, ReportError> {
    write_with(dir, header, runs, &Beside::default())
}

/// What a report shows beside losses.
#[derive(Debug, Clone, Default)]
pub struct Beside {
    /// How all rates of each arm ended, where there are several: a table of their own, and `rates.csv`.
    pub arms: Vec<ArmRates>,
    /// Samples, side by side: a section of `report.html`.
    pub galleries: Vec<Gallery>,
    /// Runs that ended, those that are not compared among them; counted from the others if absent.
    pub n_done: Option<usize>,
}

/// [`write()`] with more to show. Of a sweep over learning rates `runs` are those of each arm's best rate.
///
/// # Errors
/// Those of [`write()`].
pub fn write_with(
    dir: &Path,
    header: &ReportHeader,
    runs: &[RunResult],
    beside: &Beside,
) -> Result<Vec<PathBuf>, ReportError> {
    let Beside { arms, galleries, n_done } = beside;
    input::check(runs)?;
    let groups = judge::judged(runs, arms);
    let n_done = n_done.unwrap_or_else(|| if arms.is_empty() { runs.len() } else { rates::n_done(arms) });
    let summary = summary::summary(header, n_done, &groups)?;

    let plots = dir.join("plots");
    files::create_folder(&plots)?;
    let mut written = Vec::new();
    for panel in summary.sections.iter().flat_map(|section| &section.figures).flat_map(|figure| &figure.panels) {
        written.push(files::replace(&plots, &panel.file, &panel.svg)?);
    }
    written.push(files::replace(dir, "curves.csv", &records::curves_csv(runs))?);
    if !arms.is_empty() {
        written.push(files::replace(dir, "rates.csv", &rates::csv(arms))?);
    }
    if groups.iter().any(group::Group::has_horizons) {
        written.push(files::replace(dir, "horizons.csv", &records::horizons_csv(runs))?);
    }
    if let Some(csv) = downstream::csv(runs) {
        written.push(files::replace(dir, "downstream.csv", &csv)?);
    }
    let downstream: Vec<DownstreamComparison> =
        groups.iter().flat_map(|group| group.downstream.iter().cloned()).collect();
    let comparisons: Vec<Comparison> = groups.iter().flat_map(|group| group.comparisons.iter().cloned()).collect();
    written.push(files::replace(dir, "results.json", &records::results_json(runs, &comparisons, &downstream)?)?);
    written.push(files::replace(dir, "report.md", &markdown::render(&summary))?);
    written.push(files::replace(dir, "report.html", &html::render(&summary, galleries))?);
    Ok(written)
}
