//! Learning rates: a linear warm-up, then a course down to the final rate.

use crate::config::{OptimizerSection, Schedule};

/// Learning rate of a step in 1..=n_steps.
///
/// Rises linearly to `learning_rate` over the warm-up, then follows the schedule, and reaches `final_learning_rate` at the last
/// step (but for a constant one).
pub fn learning_rate(optimizer: &OptimizerSection, step: u64, n_steps: u64) -> f64 {
    let OptimizerSection { learning_rate, final_learning_rate, warmup_steps, .. } = *optimizer;
    if step < warmup_steps {
        return learning_rate * step as f64 / warmup_steps as f64;
    }
    let progress = |from: u64| {
        let span = n_steps.saturating_sub(from).max(1);
        (step.saturating_sub(from) as f64 / span as f64).min(1.0)
    };
    let line = |progress: f64| learning_rate + (final_learning_rate - learning_rate) * progress;
    match optimizer.schedule {
        Schedule::Cosine => {
            let cosine = 0.5 * (1.0 + (std::f64::consts::PI * progress(warmup_steps)).cos());
            final_learning_rate + (learning_rate - final_learning_rate) * cosine
        }
        Schedule::Linear => line(progress(warmup_steps)),
        Schedule::Constant => learning_rate,
        Schedule::Wsd => {
            let decay_steps = optimizer.decay_steps.unwrap_or(n_steps / 10);
            line(progress(n_steps.saturating_sub(decay_steps).max(warmup_steps)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(schedule: Schedule) -> impl Fn(u64) -> f64 {
        let optimizer = OptimizerSection {
            learning_rate: 1.0,
            final_learning_rate: 0.1,
            warmup_steps: 10,
            schedule,
            ..OptimizerSection::default()
        };
        move |step| learning_rate(&optimizer, step, 110)
    }

    #[test]
    fn warms_up_then_falls_to_the_final_rate() {
        for schedule in [Schedule::Cosine, Schedule::Linear, Schedule::Constant, Schedule::Wsd] {
            let rate = rates(schedule);
            assert!((rate(1) - 0.1).abs() < 1e-12 && (rate(5) - 0.5).abs() < 1e-12 && (rate(10) - 1.0).abs() < 1e-12);
            assert!((10..110).all(|step| rate(step + 1) <= rate(step)), "{schedule:?}");
            let last = if schedule == Schedule::Constant { 1.0 } else { 0.1 };
            assert!((rate(110) - last).abs() < 1e-12, "{schedule:?}");
        }
        assert!((rates(Schedule::Cosine)(60) - 0.55).abs() < 1e-12);
        assert!((rates(Schedule::Cosine)(35) - (0.55 + 0.45 * 0.5f64.sqrt())).abs() < 1e-12);
        assert!((rates(Schedule::Linear)(35) - 0.775).abs() < 1e-12);
        let wsd = rates(Schedule::Wsd);
        assert!(wsd(99) == 1.0 && wsd(100) < 1.0 + 1e-12 && (wsd(105) - (1.0 - 0.9 * 6.0 / 11.0)).abs() < 1e-12);
        let none = OptimizerSection { warmup_steps: 0, ..OptimizerSection::default() };
        assert!(learning_rate(&none, 1, 1) <= none.learning_rate);
    }

    #[test]
    fn a_decay_as_long_as_the_run_begins_behind_the_warm_up() {
        let optimizer = OptimizerSection {
            learning_rate: 1.0,
            final_learning_rate: 0.0,
            warmup_steps: 10,
            schedule: Schedule::Wsd,
            decay_steps: Some(1000),
            ..OptimizerSection::default()
        };
        assert_eq!(learning_rate(&optimizer, 10, 110), 1.0);
        assert!((learning_rate(&optimizer, 60, 110) - 0.5).abs() < 1e-12);
    }
}
