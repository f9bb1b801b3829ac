//! Which checkpoints stay.

use crate::config::Keep;

/// Those that go, of the steps that have a checkpoint, once that of `newest` is written. `best` has the lowest loss.
///
/// Steps behind `newest` are another course of the run, which was left: nothing here knows them.
pub(super) fn doomed(steps: &[u64], newest: u64, keep: &Keep, best: Option<u64>) -> Vec<u64> {
    let mut known: Vec<u64> = steps.iter().copied().filter(|&step| step <= newest).collect();
    known.sort_unstable();
    let n_old = known.len().saturating_sub(keep.last);
    let stays = |step: u64| keep.every.is_some_and(|every| step.is_multiple_of(every)) || best == Some(step);
    known[..n_old].iter().copied().filter(|&step| !stays(step)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_the_best_and_every_so_manieth_stay() {
        let keep = |last, every| Keep { last, every, best: None };
        let steps = [10, 20, 30, 40, 50];
        assert_eq!(doomed(&steps, 50, &keep(2, None), None), [10, 20, 30]);
        assert_eq!(doomed(&steps, 50, &keep(1, Some(20)), None), [10, 30]);
        assert_eq!(doomed(&steps, 50, &keep(2, None), Some(20)), [10, 30]);
        assert_eq!(doomed(&steps, 50, &keep(9, None), None), [0; 0]);
        // Those of a course that was left are not counted, and not removed.
        assert_eq!(doomed(&steps, 30, &keep(2, None), None), [10]);
    }
}
