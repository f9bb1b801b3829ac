//! A variant beside dense: what its difference amounts to, and how that is said.

use serde::{Deserialize, Serialize};

use super::numbers::{Quantity, Sample};
use crate::ablate::statistics::{Estimate, Interval, Verdict};
use crate::telemetry::{HEADLINES, WORD_ERROR_RATE};

/// A variant beside dense: one loss, over the seeds. See [`statistics`](crate::ablate::statistics) for what is estimated how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Comparison {
    /// Setting of the runs.
    pub setting: String,
    /// Scale of the runs.
    pub scale: String,
    /// The variant; `null` for dense from other initial weights.
    pub variant: String,
    /// A modality, or `joint` for what is trained on.
    pub target: String,
    /// Seeds of which both the variant's run and dense's are done.
    pub n_seeds: usize,
    /// Seeds of which the variant diverged.
    pub n_diverged: usize,
    /// `(L_dense - L) / L_dense` of the final losses.
    pub gain: Option<Estimate>,
    /// Relative FLOPs to match by first crossing; only where every seed has a value.
    pub relative_flops_first_crossing: Option<Estimate>,
    /// Relative FLOPs to match by slope; only where every seed has a value.
    pub relative_flops_slope: Option<Estimate>,
    /// Relative FLOPs to match by horizons; only where every seed has a value.
    pub relative_flops_horizons: Option<Estimate>,
    /// The gain's probability under chance, adjusted for the number of comparisons in the report.
    pub p_adjusted: Option<f64>,
    /// What it says.
    pub verdict: Verdict,
}

impl Comparison {
    /// The verdict in words.
    pub fn words(&self) -> &'static str {
        self.verdict.words(self.n_seeds)
    }

    /// The 95 % interval of the gain, in percent.
    pub fn gain_interval(&self) -> Option<String> {
        Some(interval(self.gain?.interval?, Quantity::Gain))
    }

    /// Whether the gain is more than chance, in whatever direction.
    pub(super) fn is_told(&self) -> bool {
        matches!(self.verdict, Verdict::Better | Verdict::Worse)
    }

    /// Whether a figure of relative FLOPs is more than chance; one that some seeds have no value of stands as it is.
    pub(super) fn tells(&self, estimate: Option<&Estimate>) -> bool {
        self.is_told() && estimate.is_none_or(|estimate| estimate.is_above() || estimate.is_below())
    }

    /// A figure of relative FLOPs with its interval. Where chance may have made it, that stands beside it.
    pub(super) fn flops(&self, sample: &Sample, estimate: Option<&Estimate>, absent: &str) -> String {
        let mut text = sample.show(absent, Quantity::Percent);
        let Some(estimate) = estimate else { return text };
        if let Some(of) = estimate.interval {
            text.push_str(&format!(" {}", interval(of, Quantity::Percent)));
        }
        if !self.tells(Some(estimate))
            && matches!(self.verdict, Verdict::Better | Verdict::Worse | Verdict::NotToldApart)
        {
            text.push_str(", not told apart");
        }
        text
    }
}

/// "[+1.2, +3.4 %]".
fn interval(Interval { low, high }: Interval, quantity: Quantity) -> String {
    let ((_, unit), shown) = (quantity.unit(low), quantity.show(low));
    format!("[{}, {}]", shown.strip_suffix(unit).unwrap_or(&shown), quantity.show(high))
}

/// A variant beside dense in one downstream figure, over the seeds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DownstreamComparison {
    /// Setting of the runs.
    pub setting: String,
    /// Scale of the runs.
    pub scale: String,
    /// The variant; `null` for dense from other initial weights.
    pub variant: String,
    /// What was asked.
    pub task: String,
    /// What of it was counted.
    pub measure: String,
    /// Seeds of which both the variant's run and dense's have the figure, of as many documents.
    pub n_seeds: usize,
    /// The figure less dense's of the same seed: above zero is better, but of word error rates. Only where every seed has one.
    pub difference: Option<Estimate>,
    /// Its probability under chance, adjusted for the number of headlines in the report; only of a headline.
    pub p_adjusted: Option<f64>,
    /// What it says; nothing but of a headline.
    pub verdict: Verdict,
}

impl DownstreamComparison {
    /// Whether it stands for its task.
    pub fn is_headline(&self) -> bool {
        HEADLINES.contains(&&*self.measure)
    }

    /// Whether a figure below dense's is better.
    pub(super) fn is_less_better(&self) -> bool {
        self.measure == WORD_ERROR_RATE
    }

    /// The verdict in words.
    pub fn words(&self) -> &'static str {
        self.verdict.words(self.n_seeds)
    }

    /// The difference, in percentage points where the figure is a share.
    pub fn difference(&self) -> Option<String> {
        Some(difference_of(&self.measure).show(self.difference?.mean))
    }

    /// Its 95 % interval.
    pub fn interval(&self) -> Option<String> {
        Some(interval(self.difference?.interval?, difference_of(&self.measure)))
    }
}

/// How a figure is printed: facts a document are a number, all else is a share.
pub(super) fn figure_of(measure: &str) -> Quantity {
    if measure == "facts" { Quantity::Mean } else { Quantity::Percent }
}

/// How the difference of two such figures is printed.
fn difference_of(measure: &str) -> Quantity {
    match figure_of(measure) {
        Quantity::Percent => Quantity::Points,
        _ => Quantity::MeanDifference,
    }
}
