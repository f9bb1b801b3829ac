//! The best learning rate of an arm, from how its runs ended.
//!
//! An *arm* is a variant of a setting at a scale: what stands in one row of the comparison. It is trained at several rates, at
//! each with every seed. The rule:
//!
//! * A rate is a *candidate* once the runs of all its seeds have ended.
//! * Its score is the final joint validation loss (what is trained on), averaged over the seeds. A run that diverged counts as
//!   infinitely bad, and its rate with it.
//! * The candidate with the lowest finite score is the arm's best rate; of equal ones the lowest rate.
//! * The best is *at the edge* where no lower rate, or no higher one, was tried: the true best may lie beyond. That is only said
//!   once every run of the arm has ended.

use std::collections::BTreeMap;
use std::fmt;

/// How the run of a rate and a seed ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Trial {
    /// At its end, with this joint validation loss, which is finite.
    Joint(f64),
    /// Before its end, or with a loss that is not finite.
    Diverged,
    /// It did not end yet, or failed for a reason that says nothing of the rate.
    Undone,
}

impl Trial {
    /// The end of a run that did all its steps.
    pub fn of(joint: Option<f64>) -> Self {
        match joint {
            Some(joint) if joint.is_finite() => Self::Joint(joint),
            _ => Self::Diverged,
        }
    }
}

/// The runs of an arm at one rate, by seed.
#[derive(Debug, Clone, PartialEq)]
pub struct RateTrials {
    /// The highest learning rate of each.
    pub rate: f64,
    /// How they ended.
    pub trials: BTreeMap<u64, Trial>,
}

impl RateTrials {
    /// Whether the runs of all seeds have ended.
    pub fn is_candidate(&self) -> bool {
        !self.trials.is_empty() && self.trials.values().all(|trial| *trial != Trial::Undone)
    }

    /// Runs that diverged.
    pub fn n_diverged(&self) -> usize {
        self.trials.values().filter(|trial| **trial == Trial::Diverged).count()
    }

    /// Joint losses of the runs that have one, in order of seed.
    pub fn losses(&self) -> impl Iterator<Item = f64> {
        self.trials.values().filter_map(|trial| match trial {
            Trial::Joint(joint) => Some(*joint),
            Trial::Diverged | Trial::Undone => None,
        })
    }

    /// The mean loss over all seeds; infinite where one diverged, `None` where one has not ended.
    pub fn score(&self) -> Option<f64> {
        if !self.is_candidate() {
            return None;
        }
        Some(if self.n_diverged() > 0 { f64::INFINITY } else { self.losses().sum::<f64>() / self.trials.len() as f64 })
    }
}

/// An arm of the comparison at every rate that it was trained at, or is to be.
#[derive(Debug, Clone, PartialEq)]
pub struct ArmRates {
    /// Setting, as in the report.
    pub setting: String,
    /// Scale.
    pub scale: String,
    /// Variant.
    pub variant: String,
    /// Steps of the runs that its rates were tried by, where those are of a bracket: of one seed.
    pub bracket_steps: Option<u64>,
    /// Its rates, ascending.
    rates: Vec<RateTrials>,
}

/// Where the best rate lies among those that were tried, if not between two others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    /// None is lower.
    Lowest,
    /// None is higher.
    Highest,
    /// There is no other.
    Only,
}

impl ArmRates {
    /// An arm without rates.
    pub fn new(setting: impl ToString, scale: impl ToString, variant: impl ToString) -> Self {
        let (setting, scale, variant) = (setting.to_string(), scale.to_string(), variant.to_string());
        Self { setting, scale, variant, bracket_steps: None, rates: Vec::new() }
    }

    /// Says how the run of a rate and a seed ended; the last word counts.
    pub fn set(&mut self, rate: f64, seed: u64, trial: Trial) {
        let at = self.rates.partition_point(|have| have.rate < rate);
        if self.rates.get(at).is_none_or(|have| have.rate != rate) {
            self.rates.insert(at, RateTrials { rate, trials: BTreeMap::new() });
        }
        self.rates[at].trials.insert(seed, trial);
    }

    /// Its rates, ascending.
    pub fn rates(&self) -> &[RateTrials] {
        &self.rates
    }

    /// The best rate so far.
    pub fn best(&self) -> Option<f64> {
        let scored = self.rates.iter().filter_map(|rate| Some((rate.rate, rate.score()?)));
        // Of equal ones the first.
        scored.filter(|(_, score)| score.is_finite()).min_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(rate, _)| rate)
    }

    /// Whether all runs have ended, so that no more is to be learnt at these rates.
    pub fn is_settled(&self) -> bool {
        self.rates.iter().all(RateTrials::is_candidate)
    }

    /// Whether all runs have ended, and no rate is good.
    pub fn is_hopeless(&self) -> bool {
        self.is_settled() && self.best().is_none()
    }

    /// Where the best lies, if at the edge; `None` before all runs have ended.
    pub fn edge(&self) -> Option<Edge> {
        let best = self.best().filter(|_| self.is_settled())?;
        let (first, last) = (self.rates.first()?.rate, self.rates.last()?.rate);
        match (best == first, best == last) {
            (true, true) => Some(Edge::Only),
            (true, false) => Some(Edge::Lowest),
            (false, true) => Some(Edge::Highest),
            (false, false) => None,
        }
    }

    /// What a user should do about a best rate at the edge.
    pub fn advice(&self) -> Option<String> {
        let beyond = match self.edge()? {
            Edge::Lowest => "below",
            Edge::Highest => "above",
            Edge::Only => "below and above",
        };
        let best = self.best()?;
        Some(match self.bracket_steps {
            None => format!("its best is at the edge: widen --learning-rates {beyond} {best}"),
            Some(_) => format!(
                "its best is at the edge of its bracket, which ends there: the true best may lie {beyond} {best}; do not \
                 compare it, or start at another optimizer.learning_rate"
            ),
        })
    }

    /// How far its choice is: "0.002", "0.002 so far (2 of 3 rates done)", "none: it diverged at every rate".
    pub fn choice(&self) -> Choice<'_> {
        Choice(self)
    }
}

/// An arm's choice in words.
#[derive(Debug)]
pub struct Choice<'a>(&'a ArmRates);

impl fmt::Display for Choice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n_done = self.0.rates.iter().filter(|rate| rate.is_candidate()).count();
        let n_rates = self.0.rates.len();
        match (self.0.best(), self.0.is_settled()) {
            (Some(best), true) => write!(f, "{best}"),
            (Some(best), false) => write!(f, "{best} so far ({n_done} of {n_rates} rates done)"),
            (None, true) => f.write_str("none: it diverged at every rate"),
            (None, false) => write!(f, "none yet ({n_done} of {n_rates} rates done)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Trial::{Diverged, Joint, Undone};

    /// An arm whose rates end like this, seed by seed.
    fn arm(rates: &[(f64, &[Trial])]) -> ArmRates {
        let mut arm = ArmRates::new("chameleon", "tiny", "mom");
        for (rate, trials) in rates {
            trials.iter().zip(0..).for_each(|(&trial, seed)| arm.set(*rate, seed, trial));
        }
        arm
    }

    #[test]
    fn the_lowest_mean_over_the_seeds_is_best() {
        // The second has the lowest single loss, the first the lowest mean.
        let arm = arm(&[
            (2e-3, &[Joint(2.0), Joint(2.2)]),
            (4e-3, &[Joint(1.9), Joint(2.5)]),
            (1e-3, &[Joint(3.0), Joint(3.0)]),
        ]);
        assert_eq!((arm.best(), arm.edge(), arm.advice()), (Some(2e-3), None, None));
        assert_eq!(arm.rates().iter().map(|rate| rate.rate).collect::<Vec<_>>(), [1e-3, 2e-3, 4e-3], "ascending");
        assert_eq!(arm.choice().to_string(), "0.002");
    }

    #[test]
    fn of_equal_rates_the_lowest_is_best() {
        assert_eq!(arm(&[(4e-3, &[Joint(1.0)]), (2e-3, &[Joint(1.0)])]).best(), Some(2e-3));
    }

    #[test]
    fn a_best_at_the_edge_is_told_with_its_side() {
        let told = |losses: &[f64]| {
            let rates: Vec<_> = losses.iter().zip(1..).map(|(&loss, n)| (f64::from(n), [Joint(loss)])).collect();
            arm(&rates.iter().map(|(rate, trials)| (*rate, &trials[..])).collect::<Vec<_>>()).advice()
        };
        let advice = |beyond: &str| Some(format!("its best is at the edge: widen --learning-rates {beyond}"));
        assert_eq!(told(&[1.0, 2.0, 3.0]), advice("below 1"));
        assert_eq!(told(&[3.0, 2.0, 1.0]), advice("above 3"));
        assert_eq!(told(&[1.0]), advice("below and above 1"));
        assert_eq!(told(&[3.0, 1.0, 2.0]), None);
    }

    #[test]
    fn a_bracket_that_ended_at_its_edge_says_so_and_asks_for_no_list() {
        let mut arm = arm(&[(1.0, &[Joint(3.0)]), (2.0, &[Joint(2.0)]), (4.0, &[Joint(1.0)])]);
        arm.bracket_steps = Some(80);
        let advice = arm.advice().unwrap();
        assert!(
            advice.starts_with("its best is at the edge of its bracket") && advice.contains("may lie above 4"),
            "{advice}"
        );
        assert!(!advice.contains("--learning-rates"), "{advice}");
    }

    #[test]
    fn a_run_that_diverged_is_infinitely_bad_and_bounds_the_bracket() {
        let one =
            arm(&[(1.0, &[Joint(3.0), Joint(3.0)]), (2.0, &[Joint(2.0), Joint(2.0)]), (4.0, &[Joint(0.1), Diverged])]);
        assert_eq!((one.best(), one.edge()), (Some(2.0), None));
        assert_eq!(one.rates()[2].score(), Some(f64::INFINITY));
        assert!(!one.is_hopeless());
        let all = arm(&[(1.0, &[Diverged]), (2.0, &[Diverged])]);
        assert_eq!((all.best(), all.edge(), all.is_hopeless()), (None, None, true));
        assert_eq!(all.choice().to_string(), "none: it diverged at every rate");
        assert_eq!(
            (Trial::of(Some(f64::NAN)), Trial::of(None), Trial::of(Some(1.5))),
            (Diverged, Diverged, Joint(1.5))
        );
    }

    #[test]
    fn a_rate_counts_once_all_its_seeds_have_ended() {
        let mut arm = arm(&[(1.0, &[Joint(2.0), Joint(2.0)]), (2.0, &[Joint(1.0), Undone]), (4.0, &[Undone, Undone])]);
        assert_eq!(
            (arm.best(), arm.edge(), arm.is_settled()),
            (Some(1.0), None, false),
            "an edge is not told too early"
        );
        assert_eq!(arm.choice().to_string(), "1 so far (1 of 3 rates done)");
        arm.set(2.0, 1, Joint(1.2));
        arm.set(4.0, 0, Diverged);
        arm.set(4.0, 1, Diverged);
        assert_eq!((arm.best(), arm.edge(), arm.is_settled()), (Some(2.0), None, true));
        let none = ArmRates::new("chameleon", "tiny", "mom");
        assert_eq!((none.best(), none.edge()), (None, None));
    }
}
