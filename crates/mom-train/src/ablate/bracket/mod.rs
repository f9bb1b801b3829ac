//! The learning rate of an arm, found by a bracket of short runs.
//!
//! A comparison at one rate compares how well that rate suits two arms. So each arm gets its own: short runs at rates a factor of two
//! apart around the configured one, and the rate with the lowest joint validation loss (what is trained on) at their end. While the
//! best is the lowest or the highest rate that was tried, the next one beyond is tried too, up to [`DOUBLINGS`] doublings away from
//! the middle: a best rate lies between two that are worse. A run that diverges is an upper edge, infinitely bad.
//!
//! A short run is the whole run made shorter: warm-up, course and decay of the rate keep their shares. Short runs like other rates
//! than long ones do, and not all arms alike where they are very short: whole runs of one seed make a bracket too
//! (`Rates::WholeBracket`).

mod short;

pub(super) use short::short;
pub use short::{LEAST_STEPS, SHARE};

use super::rates::ArmRates;

/// How far from the middle a bracket may widen, in factors of two.
pub const DOUBLINGS: i32 = 5;

/// What a bracket needs next.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// Runs at these rates.
    Try(Vec<f64>),
    /// Nothing: this is the best rate, or the best of all that may be tried ([`ArmRates::edge`] tells which).
    Chosen(f64),
    /// Nothing: every rate that may be tried diverges.
    Hopeless,
}

/// What the bracket around a rate needs next, after the trials of an arm.
pub fn next(arm: &ArmRates, middle: f64) -> Next {
    let rate = |place: i32| middle * f64::from(place).exp2();
    let score = |place: i32| arm.rates().iter().find(|of| of.rate == rate(place)).and_then(|of| of.score());
    let missing: Vec<f64> = (-1..=1).filter(|&place| score(place).is_none()).map(rate).collect();
    if !missing.is_empty() {
        return Next::Try(missing);
    }
    let tried = || (-DOUBLINGS..=DOUBLINGS).filter(|&place| score(place).is_some());
    let (lowest, highest) = (tried().min().unwrap_or(-1), tried().max().unwrap_or(1));
    let scored = tried().filter_map(|place| Some((place, score(place)?)));
    let best = scored.filter(|(_, score)| score.is_finite()).min_by(|(_, a), (_, b)| a.total_cmp(b));
    match best {
        None if lowest > -DOUBLINGS => Next::Try(vec![rate(lowest - 1)]),
        None => Next::Hopeless,
        Some((best, _)) if best == lowest && lowest > -DOUBLINGS => Next::Try(vec![rate(lowest - 1)]),
        Some((best, _)) if best == highest && highest < DOUBLINGS => Next::Try(vec![rate(highest + 1)]),
        Some((best, _)) => Next::Chosen(rate(best)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::rates::{Edge, Trial};
    use super::*;

    /// Widens a bracket to its end, where a run at a rate ends like this; the rates in the order in which they were tried.
    fn widen(loss: impl Fn(f64) -> Option<f64>) -> (Next, Vec<f64>, ArmRates) {
        let mut arm = ArmRates::new("chameleon", "tiny", "mom");
        let mut tried = Vec::new();
        loop {
            match next(&arm, 1.0) {
                Next::Try(rates) => {
                    for rate in rates {
                        arm.set(rate, 0, loss(rate).map_or(Trial::Diverged, Trial::Joint));
                        tried.push(rate);
                    }
                }
                end => return (end, tried, arm),
            }
        }
    }

    #[test]
    fn a_best_that_lies_inside_is_taken() {
        let (end, tried, arm) = widen(|rate| Some((rate.log2()).powi(2)));
        assert_eq!((end, tried, arm.edge()), (Next::Chosen(1.0), vec![0.5, 1.0, 2.0], None));
    }

    #[test]
    fn it_widens_by_itself_until_the_best_lies_inside() {
        let (end, tried, arm) = widen(|rate| Some((rate.log2() - 3.0).powi(2)));
        assert_eq!((end, arm.edge()), (Next::Chosen(8.0), None));
        assert_eq!(tried, [0.5, 1.0, 2.0, 4.0, 8.0, 16.0]);
        let (end, tried, arm) = widen(|rate| Some((rate.log2() + 2.0).powi(2)));
        assert_eq!((end, arm.edge()), (Next::Chosen(0.25), None));
        assert_eq!(tried, [0.5, 1.0, 2.0, 0.25, 0.125]);
    }

    #[test]
    fn a_rate_that_diverges_is_an_upper_edge() {
        let (end, tried, arm) = widen(|rate| (rate < 2.0).then(|| 1.0 / rate));
        assert_eq!((end, tried, arm.edge()), (Next::Chosen(1.0), vec![0.5, 1.0, 2.0], None));
        // Even the lowest of the first three diverges.
        let (end, tried, _) = widen(|rate| (rate < 0.3).then(|| 1.0 / rate));
        assert_eq!((end, tried), (Next::Chosen(0.25), vec![0.5, 1.0, 2.0, 0.25, 0.125]));
    }

    #[test]
    fn it_ends_after_five_doublings_and_the_edge_is_known() {
        let (end, tried, arm) = widen(|rate| Some(1.0 / rate));
        assert_eq!((end, tried.len(), arm.edge()), (Next::Chosen(32.0), 7, Some(Edge::Highest)));
        let (end, _, arm) = widen(Some);
        assert_eq!((end, arm.edge()), (Next::Chosen(1.0 / 32.0), Some(Edge::Lowest)));
        let (end, tried, _) = widen(|_| None);
        assert_eq!((end, tried.last()), (Next::Hopeless, Some(&(1.0 / 32.0))));
    }

    #[test]
    fn a_whole_run_that_diverges_moves_the_choice() {
        let (_, _, mut arm) = widen(|rate| Some((rate.log2()).powi(2)));
        arm.set(1.0, 3, Trial::Diverged);
        // Of equal ones the lower; it is the lowest now, so that one below is tried.
        assert_eq!(next(&arm, 1.0), Next::Try(vec![0.25]));
    }
}
