//! Steps to a loss, read from the ends of whole runs instead of from the middle of one.
//!
//! The loss in the middle of a run is that of a learning rate that has not come down yet, and its end is flat: a small difference in
//! loss there is a large one in steps. At a *horizon* a run was brought to its end, so that all horizons are alike, and between them a
//! loss falls as a power of the steps, nearly: a straight line in log-log.

/// How far beyond the last end a line is believed, as a factor of its steps.
const BEYOND: f64 = 2.0;

/// Steps after which a loss is reached: `ends` are steps and losses of ascending steps, with straight lines between them in log-log.
/// The last line is followed to twice the steps, so that an arm that is a little behind dense has a figure too.
///
/// `None` where it is reached before the first end or not at all, or where a loss is not positive.
pub fn steps_to_reach(ends: &[(f64, f64)], target: f64) -> Option<f64> {
    let positive = |&(steps, loss): &(f64, f64)| steps > 0.0 && loss > 0.0 && loss.is_finite();
    if ends.len() < 2 || target.is_nan() || target <= 0.0 || !ends.iter().all(positive) || ends[0].1 < target {
        return None;
    }
    let of_line = |(from, above): (f64, f64), (to, below): (f64, f64)| {
        let slope = (below / above).ln() / (to / from).ln();
        (from.ln() + (target / above).ln() / slope).exp()
    };
    if ends[0].1 == target {
        return Some(ends[0].0);
    }
    if let Some(pair) = ends.windows(2).find(|pair| pair[1].1 <= target) {
        return Some(of_line(pair[0], pair[1]));
    }
    let (before, last) = (ends[ends.len() - 2], ends[ends.len() - 1]);
    let steps = (last.1 < before.1).then(|| of_line(before, last))?;
    (steps <= BEYOND * last.0).then_some(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(got: Option<f64>, want: f64) {
        let got = got.expect("a number of steps");
        assert!((got / want - 1.0).abs() < 1e-9, "{got} is not {want}");
    }

    #[test]
    fn a_power_law_is_read_exactly() {
        let law = |steps: f64| 5.0 * steps.powf(-0.1);
        let ends = [250.0, 500.0, 1000.0].map(|steps| (steps, law(steps)));
        for steps in [250.0, 300.0, 500.0, 720.0, 1000.0, 1500.0] {
            close(steps_to_reach(&ends, law(steps)), steps);
        }
        assert_eq!(steps_to_reach(&ends, law(200.0)), None, "before the first end");
        assert_eq!(steps_to_reach(&ends, law(2100.0)), None, "too far beyond the last");
    }

    #[test]
    fn what_does_not_fall_or_has_one_end_gives_nothing() {
        assert_eq!(steps_to_reach(&[(100.0, 2.0)], 2.0), None);
        assert_eq!(steps_to_reach(&[(100.0, 2.0), (200.0, 2.1)], 1.9), None);
        assert_eq!(steps_to_reach(&[(100.0, 2.0), (200.0, f64::NAN)], 1.9), None);
        assert_eq!(steps_to_reach(&[(100.0, 2.0), (200.0, -1.0)], 1.0), None);
        // A rise on the way: the first time counts.
        close(steps_to_reach(&[(100.0, 4.0), (200.0, 2.0), (400.0, 3.0), (800.0, 1.0)], 2.0), 200.0);
    }
}
